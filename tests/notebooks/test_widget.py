"""The notebook's widget without a page: what it tells, what it does with clicks, and when it stops."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comm
import pytest
from ipywidgets.widgets import widget
from small import RUN, until

import lumina
from lumina.client import Run
from lumina.views import live
from lumina_app.notebook import SNAPSHOT_POINTS, Dashboard, thinned

pytestmark = pytest.mark.notebook


class Listener(Dashboard):
    """A dashboard that keeps what it would tell the page."""

    def __init__(self, *args: Any) -> None:
        self.told: list[dict[str, Any]] = []
        super().__init__(*args)

    def send(self, content: dict[str, Any], buffers: Any = None) -> None:
        self.told.append(content)

    def say(self, **message: Any) -> None:
        self._handle_custom_msg(message, [])

    def click(self, action: str, **rest: Any) -> dict[str, Any]:
        """The answer to a click."""
        click = f"click {len(self.told)} {action}"
        self.say(kind="command", click=click, action=action, **rest)
        return until(lambda: next((told for told in self.told if told.get("click") == click), None))

    @property
    def docs(self) -> list[dict[str, Any]]:
        return [told["doc"] for told in self.told if told["kind"] == "live"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run that trains until the module is done."""
    run = lumina.start("debug", name="watched", steps=100_000, directory=tmp_path_factory.mktemp("runs"), **RUN)
    until(lambda: (run.status()["step"] or 0) > 1)
    yield run
    run.stop().wait()
    run.wait(60)


@pytest.fixture
def view(run: Run) -> Iterator[Listener]:
    view = Listener(run)
    yield view
    view.close()


def test_a_page_is_told_everything_first_and_then_what_is_new(view: Listener) -> None:
    view.say(kind="hello", page="a")
    until(lambda: len(view.docs) > 2)
    first, second = view.docs[:2]
    assert first["full"]
    assert not second["full"]
    assert second["series"]["loss"]["step"][0] == first["series"]["loss"]["step"][-1] + 1
    assert first["run"] == "watched"
    assert "run" not in second  # it has not changed


def test_a_second_page_is_told_everything_too(view: Listener) -> None:
    view.say(kind="hello", page="a")
    until(lambda: len(view.docs) > 1)
    view.say(kind="hello", page="b")
    until(lambda: sum(doc["full"] for doc in view.docs) == 2)
    first, second = (doc for doc in view.docs if doc["full"])
    assert set(second) == set(first)
    assert len(second["series"]["loss"]["step"]) >= len(first["series"]["loss"]["step"])


def test_nothing_is_told_when_no_page_looks(view: Listener) -> None:
    view.say(kind="hello", page="a")
    until(lambda: view.docs)
    view.say(kind="bye", page="a")
    assert view._look() > 1
    told = len(view.told)
    view._look()
    assert len(view.told) == told


def test_clicks_are_answered_with_what_was_read_back(view: Listener, run: Run) -> None:
    assert view.click("pause")["receipt"]["after"] == {"state": "paused"}
    until(lambda: run.status()["state"] == "paused")
    receipt = view.click("intervene", method="adjust_routing_temperature", args={"temperature": "1.5"})["receipt"]
    assert (receipt["state"], receipt["after"]) == ("verified", {"routing_temperature": 1.5})
    assert view.click("unpause")["receipt"]["after"] == {"state": "running"}
    assert view.click("checkpoint")["receipt"]["state"] == "verified"


def test_receipts_say_that_the_notebook_asked(view: Listener, run: Run) -> None:
    id = view.click("checkpoint")["receipt"]["id"]
    receipt = until(lambda: next((r for r in live(run.paths)["receipts"] if r["id"] == id), None))
    assert receipt["author"]["via"] == "notebook"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"action": "intervene", "method": "adjust_routing_temperature", "args": {"temperature": "9"}}, "0.1 to 5"),
        ({"action": "intervene", "method": "no_such", "args": {}}, "no_such"),
        ({"action": "approve", "proposal": "0" * 32}, "no proposal"),
        ({"action": "__init__"}, "not a command"),
        ({"action": None}, "not a command"),
    ],
)
def test_a_refusal_is_shown(view: Listener, message: dict[str, Any], reason: str) -> None:
    assert reason in view.click(**message)["refusal"]


def test_a_click_on_a_run_that_has_ended_is_refused(tmp_path: Path) -> None:
    with lumina.Trainer("debug", name="short", steps=2, directory=tmp_path, **RUN) as trainer:
        trainer.train()
    view = Listener("short", tmp_path)
    assert "is finished" in view.click("pause")["refusal"]
    view.close()


def test_a_run_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with lumina.Trainer("debug", name="short", steps=2, directory=tmp_path, **RUN) as trainer:
        trainer.train()
    view = Listener("short", tmp_path)
    view.run.paths.database.write_bytes(b"no database" * 1000)
    view.say(kind="hello", page="a")
    trouble = until(lambda: next((told for told in view.told if told["kind"] == "trouble"), None))
    assert "cannot be read" in trouble["message"]
    assert view._watcher.is_alive()
    view.close()


def test_closing_stops_watching_and_leaves_the_run_alone(run: Run) -> None:
    view = Listener(run)
    view.close()
    view._watcher.join(10)
    assert not view._watcher.is_alive()
    assert run.status()["state"] == "running"


def test_a_widget_that_nobody_holds_stops_watching(run: Run) -> None:
    view = Listener(run)
    watcher, gone = view._watcher, weakref.ref(view)
    widget._instances.pop(view.model_id)
    comm.get_comm_manager().unregister_comm(view.comm)
    del view
    until(lambda: gc.collect() is not None and gone() is None)
    watcher.join(10)
    assert not watcher.is_alive()


def test_a_name_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(lumina.Refusal, match="no run"):
        Dashboard("nowhere", tmp_path)


def test_a_snapshot_is_small_and_keeps_the_last_point(view: Listener) -> None:
    steps = list(range(1, 6002))
    long = dict(view.snapshot, series={"loss": {"step": steps, "value": steps}})
    small = thinned(long)["series"]["loss"]
    assert len(small["step"]) <= SNAPSHOT_POINTS
    assert small["step"][-1] == 6001
    assert small["step"] == small["value"]
    assert "path" not in view.snapshot["status"]
    json.dumps(view.snapshot)


def test_what_to_type_after_a_restart_finds_the_run(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "experiments").symlink_to(run.paths.root.parent)
    for folder in (run.paths.root.parent, tmp_path):
        monkeypatch.chdir(folder)
        view = Dashboard(run)
        found = eval(view.again.removeprefix("Dashboard(").removesuffix(")"), {"lumina": lumina})
        assert found.paths.root == run.paths.root
        view.close()


def test_the_widget_needs_neither_torch_nor_gradio() -> None:
    code = "import sys, lumina_app.notebook as n; print([m for m in ('torch', 'gradio', 'plotly') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
