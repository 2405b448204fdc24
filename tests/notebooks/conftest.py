"""The quickstart notebook with a short run in it, and Chromium or the reason why there is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from lab import chromium

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"
SMALL: dict[str, Any] = {
    "num_threads": 1,
    "batch_size": 2,
    "corpus_documents": 200,
    "eval_interval": 20,
    "eval_sequences": 4,
    "check_interval": 10,
    "model.vocab_size": 512,
    "model.max_position_embeddings": 128,
}


def quickstart(folder: Path, steps: int, **settings: Any) -> Path:
    """A copy of the notebook in `folder` whose cell of parameters, and nothing else, says what is given here."""
    notebook = nbformat.read(QUICKSTART, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.id == "parameters")
    assert cell.source.startswith("steps = ")
    cell.source = f"steps = {steps}\nsettings = {SMALL | settings!r}"
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / QUICKSTART.name)
    return folder / QUICKSTART.name


@pytest.fixture(scope="session")
def browser_path() -> str:
    found = chromium()
    if found is None:
        message = "Chromium is not installed; on Debian: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found
