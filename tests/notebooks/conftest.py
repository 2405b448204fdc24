"""The quickstart notebook with a short run in it, and Chromium or the reason why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from small import RUN, require_chromium

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"


def quickstart(folder: Path, steps: int, **settings: Any) -> Path:
    """A copy of the notebook in `folder` whose cell of parameters, and nothing else, says what is given here."""
    notebook = nbformat.read(QUICKSTART, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.id == "parameters")
    assert cell.source.startswith("steps = ")
    cell.source = f"steps = {steps}\nsettings = {RUN | settings!r}"
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / QUICKSTART.name)
    return folder / QUICKSTART.name


@pytest.fixture(scope="session")
def browser_path() -> str:
    return require_chromium()
