"""The configuration's documentation and its weight: the page is up to date, the import is light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lumina.config import parameters, reference_markdown

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_of_all_parameters_is_up_to_date() -> None:
    command = "python -c 'import lumina.config as c; print(c.reference_markdown(), end=str())' > docs/configuration.md"
    assert PAGE.read_text(encoding="utf-8") == reference_markdown(), f"run: {command}"


def test_the_page_has_every_parameter() -> None:
    page = reference_markdown()
    assert [info.path for info in parameters() if f"| `{info.name}` |" not in page] == []


def test_the_import_is_light() -> None:
    # CPU time, which a busy machine does not stretch as it does the wall clock; the best of three.
    code = "import time; t = time.process_time(); import lumina.config, sys; took = time.process_time() - t; "
    code += "print(took); print(','.join(sorted(m for m in ('torch', 'numpy', 'polars') if m in sys.modules)))"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    assert {run.stdout.splitlines()[1:][0] for run in runs} == {""}
    assert min(float(run.stdout.splitlines()[0]) for run in runs) < 0.25
