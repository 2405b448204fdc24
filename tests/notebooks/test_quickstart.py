"""The quickstart notebook, executed by a kernel without anybody looking."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import QUICKSTART, quickstart
from nbclient import NotebookClient

import lumina

pytestmark = pytest.mark.notebook
STEPS = 24


def execute(notebook: Path) -> Any:
    """The notebook with its outputs; raises when a cell does."""
    read = nbformat.read(notebook, as_version=4)
    where = {"metadata": {"path": str(notebook.parent)}}
    NotebookClient(read, timeout=120, kernel_name="python3", resources=where).execute()
    return read


def outputs(notebook: Any, cell_id: str) -> list[Any]:
    return list(next(cell for cell in notebook.cells if cell.id == cell_id).outputs)


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """The notebook after its first and its second execution, and its folder."""
    folder = tmp_path_factory.mktemp("quickstart")
    notebook = quickstart(folder, STEPS)
    return execute(notebook), execute(notebook), folder


def test_the_frame_has_a_row_for_each_step(twice: tuple[Any, Any, Path]) -> None:
    [frame] = outputs(twice[0], "metrics")
    assert f"shape: ({STEPS}, 4)" in frame.data["text/plain"]
    [ended] = outputs(twice[0], "wait")
    assert ended.data["text/plain"] == "'finished'"


def test_the_receipt_has_the_value_read_back(twice: tuple[Any, Any, Path]) -> None:
    [receipt] = outputs(twice[0], "steer")
    assert receipt.data["text/plain"].startswith("('verified', ")
    assert "{'routing_temperature': 1.0}, {'routing_temperature': 1.5}" in receipt.data["text/plain"]


def test_executed_again_it_starts_a_run_of_another_name(twice: tuple[Any, Any, Path]) -> None:
    first, second, folder = twice
    names = [outputs(notebook, "start")[0].data["text/plain"].strip("'") for notebook in (first, second)]
    assert sorted(run["name"] for run in lumina.list_runs(folder / "experiments")) == sorted(names)
    [found] = outputs(second, "restart")
    assert names[1] in found.data["text/plain"]


def test_no_cell_complains(twice: tuple[Any, Any, Path]) -> None:
    told = [out for cell in twice[0].cells for out in cell.get("outputs", []) if out.output_type == "stream"]
    assert told == []


def test_the_saved_notebook_carries_what_the_view_showed(twice: tuple[Any, Any, Path]) -> None:
    [shown] = outputs(twice[0], "watch")
    model = shown.data["application/vnd.jupyter.widget-view+json"]["model_id"]
    state = twice[0].metadata.widgets["application/vnd.jupyter.widget-state+json"].state[model].state
    assert state["snapshot"]["run"] == state["name"]
    assert state["catalogue"]
    assert state["name"] in shown.data["text/plain"]


def test_the_notebook_in_the_repository_has_no_outputs_and_no_paths() -> None:
    notebook = nbformat.read(QUICKSTART, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    text = json.dumps(notebook)
    assert not [place for place in (QUICKSTART.parents[1], Path.home(), tempfile.gettempdir()) if f"{place}/" in text]
