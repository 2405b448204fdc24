"""`status` has every documented field, from before the first step until after a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from factories import Recording, finished_run, living, loss_at, new_run

from lumina import views
from lumina.store.layout import RunPaths
from lumina.views.status import derived_state

DOCUMENTED = {
    *("name", "state", "phase", "step", "total_steps", "tokens", "loss", "val_loss", "learning_rate", "grad_norm"),
    *("throughput", "eta_s", "params_total", "params_active", "chinchilla", "health", "pending_proposals"),
    *("moe", "mod", "device", "precision"),
}
CHINCHILLA = {
    *("tokens_seen", "tokens_optimal", "progress", "basis", "convergence_score", "phase", "predicted_final_loss"),
}


def json_of(paths: RunPaths) -> dict[str, Any]:
    """The status as it goes over the wire: strict JSON, without NaN."""
    return json.loads(json.dumps(views.status(paths), allow_nan=False))


def test_every_documented_field_is_there_before_the_first_step(tmp_path: Path) -> None:
    status = json_of(new_run(tmp_path))
    assert set(status) >= DOCUMENTED
    assert set(status["chinchilla"]) >= CHINCHILLA
    assert set(status["health"]) == {"status", "issues", "areas", "recommendations"}
    assert (status["state"], status["step"], status["loss"], status["pending_proposals"]) == ("created", None, None, 0)


def test_a_running_run_tells_its_newest_figures(tmp_path: Path) -> None:
    recording = Recording(new_run(tmp_path), total_steps=200)
    recording.train(25)
    recording.propose()
    assert recording.writer.flush()
    status = json_of(recording.paths)
    recording.close()
    assert set(status) >= DOCUMENTED
    known = {
        "name": "first",
        "state": "running",
        "phase": None,
        "step": 25,
        "total_steps": 200,
        "tokens": 2048.0 * 25,
        "loss": loss_at(25),
        "val_loss": loss_at(20) + 0.1,
        "throughput": 4000.0,
        "eta_s": 175 * 0.5,
        "params_total": 2_657_408,
        "params_active": 502_912,
        "pending_proposals": 1,
        "precision": "fp32",
        "autonomy": "ask",
    }
    assert {name: status[name] for name in known} == known
    assert status["chinchilla"]["basis"] == "total"
    assert status["health"] == {"status": "healthy", "issues": [], "areas": {}, "recommendations": []}
    assert (status["moe"]["routing_entropy"], status["mod"]["average_depth"]) == (0.9, 1.0)
    assert not any("layer" in name for name in status["moe"]), "of the layers only their summary"
    assert status["heartbeat_age_s"] >= 0


def test_a_live_state_without_a_living_trainer_is_a_crash(tmp_path: Path) -> None:
    recording = Recording(new_run(tmp_path))
    recording.writer.meta("phase", "validating")
    recording.train(3)
    recording.close()
    status = json_of(recording.paths)
    assert status["state"] == "crashed"
    assert (status["phase"], status["eta_s"], status["heartbeat_age_s"]) == (None, None, None)
    assert status["step"] == 3
    with living(recording.paths):
        assert json_of(recording.paths)["state"] == "running"


@pytest.mark.parametrize(
    ("recorded", "alive", "state"),
    [
        ("starting", False, "crashed"),
        ("running", False, "crashed"),
        ("paused", False, "crashed"),
        ("stopping", False, "crashed"),
        ("paused", True, "paused"),
        ("finished", False, "finished"),
        ("stopped", False, "stopped"),
        ("failed", False, "failed"),
        (None, False, "created"),
        (None, True, "starting"),
    ],
)
def test_the_lock_decides_whether_a_recorded_state_is_true(recorded: str | None, alive: bool, state: str) -> None:
    assert derived_state(recorded, alive) == state


def test_a_finished_run_stays_finished(tmp_path: Path) -> None:
    status = json_of(finished_run(tmp_path))
    assert (status["state"], status["step"], status["total_steps"]) == ("finished", 40, 40)
    assert status["created"] is not None


@pytest.mark.parametrize(
    ("end", "state", "step"), [("finished", "finished", 3), ("stopped", "stopped", 3), (None, "crashed", None)]
)
def test_a_run_whose_database_is_gone_is_known_by_its_journal(
    tmp_path: Path, end: str | None, state: str, step: int | None
) -> None:
    recording = Recording(new_run(tmp_path))
    recording.train(3)
    recording.finish(end) if end else recording.close()
    for file in recording.paths.root.glob("run.sqlite*"):
        file.unlink()
    status = json_of(recording.paths)
    assert (status["state"], status["step"]) == (state, step)


def test_a_value_that_is_not_finite_is_null(tmp_path: Path) -> None:
    recording = Recording(new_run(tmp_path))
    recording.writer.points(recording.segment, 1, {"loss": float("nan"), "grad_norm": float("inf")})
    recording.close()
    status = json_of(recording.paths)
    assert (status["loss"], status["grad_norm"]) == (None, None)


def test_the_figures_are_those_of_the_current_line(tmp_path: Path) -> None:
    first = Recording(new_run(tmp_path))
    first.train(20)
    first.close()
    second = Recording(first.paths, cause="rewind", fork_step=10)
    second.close()
    status = json_of(first.paths)
    assert (status["step"], status["loss"], status["val_loss"]) == (10, loss_at(10), loss_at(10) + 0.1)
