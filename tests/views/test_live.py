"""One document carries all that a live screen shows, and after the first one only what is new."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import PERSON, Recording, new_run

from lumina import views
from lumina.views.panels import receipts

KEYS = {
    *("run", "state", "full", "series", "status", "experts", "depth", "budget", "queue", "marks", "receipts"),
    *("events", "cursor", "branches", "children", "rehearsals"),
}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Recording]:
    recording = Recording(new_run(tmp_path))
    yield recording
    if recording.lock is not None:
        recording.close()


def live(run: Recording, cursor: str | None = None) -> dict[str, Any]:
    assert run.lock is None or run.writer.flush()
    return json.loads(json.dumps(views.live(run.paths, cursor), allow_nan=False))


def test_the_first_document_is_full(run: Recording) -> None:
    run.train(20)
    run.apply(1.5)
    document = live(run)
    assert set(document) == KEYS
    assert (document["run"], document["state"], document["full"]) == ("first", "running", True)
    assert document["series"]["loss"]["step"] == list(range(1, 21))
    assert document["series"]["val_loss"]["step"] == [10, 20]
    assert [event["kind"] for event in document["events"]] == ["run", "intervention"]
    assert document["status"] == {**views.status(run.paths), "heartbeat_age_s": document["status"]["heartbeat_age_s"]}


def test_the_next_document_has_what_is_new(run: Recording) -> None:
    run.train(20)
    first = live(run)
    nothing = live(run, first["cursor"])
    assert (nothing["full"], nothing["series"], nothing["events"]) == (False, {}, [])
    assert set(nothing) == KEYS - {"branches"}, "which change only when everything does"
    run.train(22)
    run.propose()
    second = live(run, nothing["cursor"])
    assert not second["full"]
    assert second["series"]["loss"]["step"] == [21, 22]
    assert [event["kind"] for event in second["events"]] == ["proposal"]
    assert live(run, second["cursor"])["events"] == []


def test_a_rewind_makes_everything_new(run: Recording) -> None:
    run.train(20)
    seen = live(run)
    run.close()
    again = Recording(run.paths, cause="rewind", fork_step=10)
    document = live(again, seen["cursor"])
    again.close()
    assert document["full"]
    assert document["series"]["loss"]["step"] == list(range(1, 11))
    assert [event["kind"] for event in document["events"]] == ["run", "run"]
    assert seen["branches"] == []
    [left] = document["branches"]
    assert (left["back_to"], left["left_at"], left["step"]) == (10, 20, list(range(11, 21)))
    assert left["value"] == seen["series"]["loss"]["value"][10:]


@pytest.mark.parametrize(
    "cursor", ["", "nonsense", "[]", "{", '{"event": "x"}', '{"series": 5}', '{"series": ["a"], "event": 1}', "null"]
)
def test_a_cursor_that_nobody_gave_out_brings_everything(run: Recording, cursor: str) -> None:
    run.train(2)
    document = live(run, cursor)
    assert document["full"]
    assert document["series"]["loss"]["step"] == [1, 2]
    assert len(document["events"]) == 1


def test_a_run_before_its_first_step_has_empty_panels(tmp_path: Path) -> None:
    document = views.live(new_run(tmp_path, "new"))
    assert (document["state"], document["full"], document["series"], document["events"]) == ("created", True, {}, [])
    assert (document["experts"], document["depth"], document["marks"], document["receipts"]) == (None, None, [], [])
    assert document["queue"] == {"open": [], "recent": []}


def test_expert_load_is_in_multiples_of_the_fair_share(run: Recording) -> None:
    load = np.zeros((2, 8), dtype=np.float32)
    load[:, 0], load[:, 1] = 0.75, 0.25
    alive = np.ones((2, 8), dtype=np.float32)
    alive[1, 4:] = 0
    run.writer.array(run.segment, 3, "expert_load", load)
    run.writer.array(run.segment, 3, "expert_live", alive)
    experts = live(run)["experts"]
    assert (experts["step"], experts["layers"]) == (3, [0, 1])
    assert [row[:2] for row in experts["load"]] == [[6.0, 2.0], [3.0, 1.0]]
    assert experts["live"][1] == [True] * 4 + [False] * 4


def test_depth_is_the_share_of_tokens_in_each_layer(run: Recording) -> None:
    run.writer.array(run.segment, 3, "depth", np.array([0.25, 0.75]))
    assert live(run)["depth"] == {"step": 3, "usage": [0.25, 0.75], "mean": 0.5, "mod_layers": [0, 1]}


def test_the_budget_tells_progress_and_when_it_is_reached(run: Recording) -> None:
    run.writer.meta("chinchilla", {"tokens_optimal": 100_000, "basis": "total"})
    run.writer.points(run.segment, 1, {"tokens": 25_000.0, "throughput": 500.0})
    assert live(run)["budget"] == {
        "tokens_optimal": 100_000,
        "basis": "total",
        "tokens_seen": 25_000.0,
        "progress": 0.25,
        "eta_s": 150.0,
    }


def test_the_queue_keeps_waiting_and_decided_proposals_apart(run: Recording) -> None:
    run.train(5)
    waiting, approved, rejected = run.propose(), run.propose(2.0), run.propose(3.0)
    run.apply(2.0, proposal=approved)
    run.decide(rejected, why="too early")
    queue = live(run)["queue"]
    assert [p["id"] for p in queue["open"]] == [waiting]
    assert queue["open"][0]["evidence"]["summary"] == "routing entropy fell to 0.21"
    assert queue["open"][0]["confidence"] == 0.86
    assert {p["id"]: p["state"] for p in queue["recent"]} == {rejected: "rejected", approved: "approved"}
    assert next(p for p in queue["recent"] if p["id"] == rejected)["decided"]["why"] == "too early"


def test_an_open_proposal_stays_in_the_queue_however_many_came_after_it(run: Recording) -> None:
    waiting = run.propose()
    for _ in range(210):
        run.decide(run.propose())
    document = live(run)
    assert [p["id"] for p in document["queue"]["open"]] == [waiting]
    assert document["status"]["pending_proposals"] == 1
    assert len(document["queue"]["recent"]) == 20


def test_a_mark_tells_what_was_changed_where_and_what_it_did(run: Recording) -> None:
    run.train(5)
    id = run.apply(1.5)
    run.commit("effect", id, {"state": "helped"})
    run.commit("applied", "c" * 32, {"kind": "pause", "state": "verified"})
    (mark,) = live(run)["marks"]
    assert (mark["id"], mark["step"], mark["method"]) == (id, 5, "adjust_routing_temperature")
    assert (mark["before"], mark["after"]) == ({"routing_temperature": 1.0}, {"routing_temperature": 1.5})
    assert (mark["author"], mark["effect"]["state"]) == (PERSON, "helped")


def test_marks_of_an_abandoned_stretch_are_not_shown(run: Recording) -> None:
    run.train(5)
    kept = run.apply(1.5)
    seq = run.journal.last_seq
    run.train(15)
    run.apply(2.0)
    run.close()
    again = Recording(run.paths, cause="rewind", fork_step=10, fork_seq=seq)
    assert [mark["id"] for mark in live(again)["marks"]] == [kept]
    again.close()


def test_receipts_are_listed_newest_first_with_their_reason(run: Recording) -> None:
    applied = run.apply(1.5)
    doc = {"kind": "intervene", "method": "add_expert", "state": "refused", "reason": "no such layer"}
    run.commit("refused", "d" * 32, doc)
    assert run.writer.flush()
    found = receipts(run.paths)
    assert [(r["id"], r["state"], r.get("reason")) for r in found] == [
        ("d" * 32, "refused", "no such layer"),
        (applied, "verified", None),
    ]


def test_events_tell_a_decision_in_words(run: Recording) -> None:
    run.train(5)
    run.apply(1.5)
    run.writer.event(run.segment, 5, "warning", "health", "loss rises")
    told = [event["message"] for event in live(run)["events"]]
    assert told[1:] == [
        "adjust_routing_temperature(temperature=1.5) applied at step 5 by ada (cli): routing_temperature 1 → 1.5",
        "loss rises",
    ]


def test_the_catalogue_has_a_form_for_every_action() -> None:
    listed = {method["method"]: method for method in views.catalogue()}
    (temperature,) = listed["adjust_routing_temperature"]["args"]
    assert (temperature["name"], temperature["ge"], temperature["le"]) == ("temperature", 0.1, 5.0)
    assert temperature["help"]
    assert listed["get_current_metrics"]["kind"] == "query"
    json.dumps(views.catalogue(), allow_nan=False)
