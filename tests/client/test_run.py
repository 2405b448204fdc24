"""A run is commanded through its inbox and watched through its store, wherever its trainer is."""

from __future__ import annotations

import getpass
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from factories import Recording, finished_run, living, new_run, receipt

import lumina
from lumina import client, launch, receipts
from lumina.client import Run
from lumina.config import ConfigError
from lumina.data import DataError, DataReport
from lumina.hardware.detect import Hardware
from lumina.receipts import PendingReceipt, Receipt
from lumina.store.errors import Refusal
from lumina.store.inbox import Command, Inbox
from lumina.store.layout import RunPaths
from lumina.store.lock import RunLock


@pytest.fixture
def live_run(tmp_path: Path) -> Iterator[tuple[Run, Recording]]:
    """A run whose trainer lives and has made 20 steps."""
    recording = Recording(new_run(tmp_path))
    recording.train(20)
    assert recording.writer.flush()
    yield Run(recording.paths), recording
    if recording.lock is not None:
        recording.close()


def only_command(paths: RunPaths) -> Command:
    (command,) = Inbox(paths).take()
    return command


def answer(paths: RunPaths, command: Command, state: str = "verified", **rest: Any) -> None:
    doc = receipt(command.id, command.kind, state, method=command.method, args=dict(command.args), **rest)
    Inbox(paths).done(command.id, doc)


def refusal_of(call: Any, *args: Any, **kwargs: Any) -> Refusal:
    with pytest.raises(Refusal) as refused:
        call(*args, **kwargs)
    return refused.value


# Commands


@pytest.mark.parametrize("kind", ["pause", "unpause", "checkpoint", "stop"])
def test_a_control_lies_in_the_inbox_with_its_author(live_run: tuple[Run, Recording], kind: str) -> None:
    run, _ = live_run
    pending = getattr(run, kind)()
    command = only_command(run.paths)
    assert (command.id, command.kind, command.method, command.args) == (pending.id, kind, None, {})
    assert command.author == {"name": getpass.getuser(), "via": "api"}


def test_an_intervention_is_sent_with_checked_arguments(live_run: tuple[Run, Recording]) -> None:
    run, _ = live_run
    run.intervene("adjust_routing_temperature", temperature="1.5")
    command = only_command(run.paths)
    assert (command.kind, command.method, command.args) == (
        "intervene",
        "adjust_routing_temperature",
        {"temperature": 1.5},
    )


def test_an_answer_becomes_a_receipt(live_run: tuple[Run, Recording]) -> None:
    run, _ = live_run
    pending = run.intervene("adjust_routing_temperature", temperature=1.5)
    answer(run.paths, only_command(run.paths), step=20, after={"routing_temperature": 1.5})
    found = pending.wait(check=True)
    assert (found.state, found.step, found["after"]) == ("verified", 20, {"routing_temperature": 1.5})
    assert set(found) >= {"id", "method", "args", "state", "step", "before", "after", "reason"}
    assert dict(found)["id"] == pending.id


def test_waiting_for_a_refused_command_tells_code_and_reason(live_run: tuple[Run, Recording]) -> None:
    run, _ = live_run
    pending = run.pause()
    answer(run.paths, only_command(run.paths), "refused", code="stale", reason="meant for an earlier segment")
    assert pending.wait().state == "refused"
    refused = refusal_of(pending.wait, check=True)
    assert (refused.code, refused.message) == ("stale", "meant for an earlier segment")


def test_a_command_without_an_answer_is_queued(live_run: tuple[Run, Recording]) -> None:
    run, _ = live_run
    pending = run.pause()
    assert pending.wait(timeout=0).state == "queued"
    assert refusal_of(pending.wait, timeout=0, check=True).code == "busy"


def test_a_command_that_the_trainer_did_not_live_to_read_is_refused(live_run: tuple[Run, Recording]) -> None:
    run, recording = live_run
    pending = run.pause()
    recording.close()
    found = pending.wait(timeout=60)
    assert (found.state, found.code, found.kind) == ("refused", "not_running", "pause")


def test_an_answer_that_came_before_the_end_is_believed(live_run: tuple[Run, Recording]) -> None:
    run, recording = live_run
    pending = run.stop()
    answer(run.paths, only_command(run.paths))
    recording.close()
    assert pending.wait().state == "verified"


def test_an_answer_that_came_with_the_last_breath_is_believed(
    live_run: tuple[Run, Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = live_run
    pending = run.stop()

    def answered_and_ended(paths: RunPaths) -> bool:
        answer(paths, pending.command)
        return False

    monkeypatch.setattr(receipts, "is_locked", answered_and_ended)
    assert pending.wait().state == "verified"


def test_a_quarantined_command_is_refused_with_its_reason(live_run: tuple[Run, Recording]) -> None:
    run, _ = live_run
    pending = run.pause()
    (run.paths.inbox / f"{pending.id}.json").write_text("{")
    assert Inbox(run.paths).take() == []
    found = pending.wait()
    assert (found.state, found.code) == ("refused", "bad_argument")
    assert "not JSON" in str(found.reason)


def test_nothing_is_sent_to_a_run_that_nobody_trains(tmp_path: Path) -> None:
    run = Run(finished_run(tmp_path))
    for send in (run.pause, run.unpause, run.checkpoint, run.stop):
        refused = refusal_of(send)
        assert (refused.code, refused.exit_code) == ("not_running", 1)
        assert refused.message == "run 'first' is finished; nothing reads its commands"
    assert refusal_of(run.intervene, "adjust_routing_temperature", temperature=1.5).code == "not_running"
    assert list(run.paths.inbox.glob("*.json")) == []


@pytest.mark.parametrize(
    ("method", "args", "code", "said"),
    [
        ("explode", {}, "unknown_method", "there is no intervention 'explode'"),
        ("get_current_metrics", {}, "bad_argument", "is a query"),
        ("adjust_routing_temperature", {}, "bad_argument", "needs temperature"),
        ("adjust_routing_temperature", {"heat": 1}, "bad_argument", "has no argument 'heat'"),
        ("adjust_routing_temperature", {"temperature": "warm"}, "bad_argument", "is not a number"),
        ("adjust_routing_temperature", {"temperature": 9.0}, "out_of_range", "0.1 to 5"),
        ("adjust_routing_temperature", {"temperature": math.nan}, "out_of_range", "not finite"),
        ("add_expert", {"layer_idx": 0.5}, "bad_argument", "not a whole number"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(
    live_run: tuple[Run, Recording], method: str, args: dict[str, Any], code: str, said: str
) -> None:
    run, _ = live_run
    refused = refusal_of(run.intervene, method, **args)
    assert refused.code == code
    assert said in refused.message
    assert list(run.paths.inbox.glob("*.json")) == []


def test_a_proposal_is_approved_with_changed_arguments(live_run: tuple[Run, Recording]) -> None:
    run, recording = live_run
    proposal = recording.propose(1.4)
    assert recording.writer.flush()
    assert [p["id"] for p in run.proposals()] == [proposal]
    run.approve(proposal, temperature=1.2)
    command = only_command(run.paths)
    assert (command.kind, command.proposal, command.args) == ("approve", proposal, {"temperature": 1.2})


def test_a_changed_argument_of_an_approval_is_checked(live_run: tuple[Run, Recording]) -> None:
    run, recording = live_run
    proposal = recording.propose()
    assert recording.writer.flush()
    assert refusal_of(run.approve, proposal, temperature=50).code == "out_of_range"
    assert refusal_of(run.approve, "f" * 32).code == "not_found"


def test_a_rejection_says_why(live_run: tuple[Run, Recording]) -> None:
    run, recording = live_run
    proposal = recording.propose()
    assert recording.writer.flush()
    run.reject(proposal, why="too early")
    command = only_command(run.paths)
    assert (command.kind, command.proposal, command.args) == ("reject", proposal, {"why": "too early"})


def test_proposals_can_be_asked_for_by_state(live_run: tuple[Run, Recording]) -> None:
    run, recording = live_run
    waiting, decided = recording.propose(), recording.propose()
    recording.decide(decided)
    assert recording.writer.flush()
    assert [p["id"] for p in run.proposals()] == [waiting]
    assert [p["id"] for p in run.proposals("rejected")] == [decided]
    assert {p["id"] for p in run.proposals(None)} == {waiting, decided}


# Watching


def test_metrics_are_a_frame_with_a_column_for_each_series(tmp_path: Path) -> None:
    run = Run(finished_run(tmp_path))
    frame = run.metrics(["loss", "val_loss"])
    assert frame.columns == ["step", "loss", "val_loss"]
    assert frame["step"].to_list() == list(range(1, 41))
    assert frame.filter(frame["val_loss"].is_not_null())["step"].to_list() == [10, 20, 30, 40]
    assert set(run.metrics().columns) >= {"step", "loss", "throughput", "moe.routing_entropy"}


def test_metrics_of_a_run_without_steps_are_an_empty_frame(tmp_path: Path) -> None:
    run = Run(new_run(tmp_path))
    assert (run.metrics(["loss"]).height, run.metrics().columns) == (0, ["step"])
    assert run.metrics(all_segments=True).columns == ["series", "segment", "step", "value"]


def test_a_series_that_nobody_recorded_is_an_empty_column_or_none(tmp_path: Path) -> None:
    frame = Run(finished_run(tmp_path)).metrics(["loss", "no_such_series"])
    assert frame.columns == ["step", "loss"]


def test_all_segments_give_a_long_frame_with_what_was_abandoned(tmp_path: Path) -> None:
    first = Recording(new_run(tmp_path))
    first.train(20)
    first.close()
    second = Recording(first.paths, cause="rewind", fork_step=10)
    second.train(12)
    second.finish()
    frame = Run(first.paths).metrics(["loss"], all_segments=True)
    assert frame["segment"].to_list() == [first.segment] * 20 + [second.segment] * 2
    assert set(frame["series"]) == {"loss"}
    assert Run(first.paths).metrics(["loss"])["step"].to_list() == list(range(1, 13))


def test_waiting_for_a_run_that_has_ended_returns_its_state(tmp_path: Path) -> None:
    assert Run(finished_run(tmp_path)).wait() == "finished"


def test_waiting_with_a_limit_returns_the_state_of_now(live_run: tuple[Run, Recording]) -> None:
    run, _ = live_run
    assert run.wait(timeout=0) == "running"
    assert repr(run) == "Run('first', running)"


def test_a_run_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    paths = finished_run(tmp_path)
    assert lumina.attach("first", tmp_path).paths == lumina.attach(paths.root).paths == paths


@pytest.mark.parametrize("name", ["second", "../first", "/nowhere/at/all", "first/..", ""])
def test_a_run_that_is_not_there_is_not_found(tmp_path: Path, name: str) -> None:
    finished_run(tmp_path)
    refused = refusal_of(lumina.attach, name, tmp_path)
    assert (refused.code, refused.exit_code) == ("not_found", 2)
    assert "there are: first" in refused.message


def test_runs_are_listed_with_state_step_and_loss(tmp_path: Path) -> None:
    finished_run(tmp_path, "second")
    crashed = Recording(new_run(tmp_path, "first"))
    crashed.train(3)
    crashed.close()
    (tmp_path / "no run").mkdir()
    found = {run["name"]: (run["state"], run["step"], run["loss"] is not None) for run in lumina.list_runs(tmp_path)}
    assert found == {"first": ("crashed", 3, True), "second": ("finished", 40, True)}
    assert lumina.list_runs(tmp_path / "missing") == []


def test_one_damaged_run_does_not_hide_the_others(tmp_path: Path) -> None:
    finished_run(tmp_path, "good")
    finished_run(tmp_path, "bad").database.write_bytes(b"no database" * 500)
    found = {run["name"]: run["state"] for run in lumina.list_runs(tmp_path)}
    assert found == {"bad": "unreadable", "good": "finished"}


# Starting


def test_nothing_is_written_when_something_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "spawn", lambda paths: pytest.fail("a trainer was started"))
    empty = tmp_path / "empty.txt"
    empty.touch()
    runs = tmp_path / "runs"
    for wrong, error in (
        ({"name": "a/b"}, Refusal),
        ({"name": ".."}, Refusal),
        ({"name": ""}, Refusal),
        ({"name": "x" * 101}, Refusal),
        ({"name": "-rf"}, Refusal),
        ({"data": [empty]}, DataError),
        ({"data": [tmp_path / "missing.txt"]}, DataError),
        ({"batch_size": 0}, ConfigError),
        ({"batch_sise": 4}, ConfigError),
        ({"steps": 0}, ConfigError),
    ):
        with pytest.raises(error):
            lumina.start("debug", directory=runs, **wrong)  # type: ignore[arg-type]
        assert not runs.exists() or list(runs.iterdir()) == [], wrong


def test_a_format_that_the_machine_lacks_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "spawn", lambda paths, **_: pytest.fail("a trainer was started"))
    old_gpu = Hardware("cuda", "GPU sm_75", (7, 5), False, 8, 2**34)
    monkeypatch.setattr("lumina.hardware.demands.detect_apart", lambda: old_gpu)
    refused = refusal_of(lumina.start, "debug", precision="mixed_bf16", directory=tmp_path)
    assert (refused.exit_code, "is not supported by GPU sm_75" in refused.message) == (2, True)
    assert list(tmp_path.iterdir()) == []
    moved = Run(new_run(tmp_path, precision="mixed_bf16"))
    assert "is not supported by GPU sm_75" in refusal_of(moved.resume).message


def test_what_the_files_hold_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "spawn", lambda paths, **_: 0)
    (tmp_path / "a.jsonl").write_text('{"text": "a sample"}\n' * 30 + "{oops\n")
    reports: list[DataReport] = []
    lumina.start("debug", data=[tmp_path / "a.jsonl"], directory=tmp_path / "runs", on_report=reports.append)
    lumina.start("debug", directory=tmp_path / "runs", on_report=reports.append)
    assert [report.totals["invalid"] for report in reports] == [1], "the built-in corpus needs no report"


def test_a_taken_name_is_refused_and_the_run_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "spawn", lambda paths: pytest.fail("a trainer was started"))
    paths = finished_run(tmp_path)
    before = {path: path.read_bytes() for path in paths.root.rglob("*") if path.is_file()}
    assert refusal_of(lumina.start, "debug", name="first", directory=tmp_path).code == "name_taken"
    assert {path: path.read_bytes() for path in paths.root.rglob("*") if path.is_file()} == before


def test_a_second_trainer_is_refused_and_told_who_trains(tmp_path: Path) -> None:
    paths = new_run(tmp_path)
    with RunLock.acquire(paths):
        refused = refusal_of(Run(paths).resume)
    assert refused.code == "locked"
    assert "process " in refused.message


def test_what_a_resume_needs_is_checked_before_a_trainer_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "spawn", lambda paths, **_: pytest.fail("a trainer was started"))
    run = Run(finished_run(tmp_path))
    (run.paths.checkpoints / "checkpoint_step_20").mkdir()
    (run.paths.checkpoints / "checkpoint_step_20" / "manifest.json").write_text("{}")
    (run.paths.checkpoints / "checkpoint_step_40").mkdir()
    assert refusal_of(run.resume, "newest").code == "bad_argument"
    missing = refusal_of(run.resume, 40)
    assert (missing.code, missing.message) == ("not_found", "run 'first' has no checkpoint of step 40; there are: 20")
    run.paths.config.write_text("training:\n  batch_size: many\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:2"):
        run.resume(steps=60)


def test_a_damaged_database_does_not_keep_a_run_from_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(launch, "spawn", lambda paths, **options: started.append(options))
    run = Run(finished_run(tmp_path))
    run.paths.database.write_bytes(b"no database" * 500)
    run.resume(steps=60)
    assert started == [{"resume": "latest", "steps": 60}]


def test_a_finished_run_asks_for_the_new_total(tmp_path: Path) -> None:
    run = Run(finished_run(tmp_path))
    assert "give --steps, the new total" in refusal_of(run.resume).message
    assert "is the new total" in refusal_of(run.resume, steps=40).message


def test_a_trainer_that_dies_at_once_is_reported_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no memory left >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    refused = refusal_of(launch.spawn, new_run(tmp_path))
    assert (refused.code, refused.message) == ("not_running", "the trainer ended at once: no memory left")


def test_a_free_name_is_not_taken(tmp_path: Path) -> None:
    first = launch.free_name(tmp_path, "debug")
    new_run(tmp_path, first)
    assert launch.free_name(tmp_path, "debug") != first
    assert first.startswith("debug-")


def test_data_is_sorted_into_text_and_conversations(tmp_path: Path) -> None:
    text, chat = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_text("words\n")
    chat.write_text('{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n')
    assert client.run_overrides([tmp_path], 5, "auto", {"batch_size": 2}) == {
        "data.base_paths": [str(text)],
        "data.finetuning_paths": [str(chat)],
        "training.max_steps": 5,
        "orchestrator.autonomy": "auto",
        "batch_size": 2,
    }


def test_a_receipt_ignores_fields_of_later_versions() -> None:
    found = Receipt.of({**receipt("a" * 32), "invented": 1})
    assert found.id == "a" * 32
    assert "invented" not in found


def test_a_pending_receipt_belongs_to_its_command(tmp_path: Path) -> None:
    paths = new_run(tmp_path)
    command = Command("a" * 32, "pause")
    with living(paths):
        assert PendingReceipt(paths, command).wait(timeout=0).id == "a" * 32
