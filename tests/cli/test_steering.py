"""Commands to a live run end in a receipt: shown in a line, as JSON, or as the reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from factories import Recording, finished_run

from lumina._cli import control

RECEIPT = {"id", "method", "args", "state", "step", "before", "after", "reason"}


@pytest.mark.parametrize("kind", ["pause", "unpause", "checkpoint", "stop"])
def test_a_control_shows_its_receipt(lumina: Any, live: Recording, answering: Any, kind: str) -> None:
    with answering(live.paths, step=20, after={"state": "done"}) as taken:
        answer = lumina(kind, "first")
        document = lumina(kind, "first", "--json").document
    assert [(command.kind, command.author["via"]) for command in taken] == [(kind, "cli")] * 2
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"{kind} verified at step 20: state = done (receipt {taken[0].id})\n"
    assert set(document) >= RECEIPT
    assert (document["id"], document["state"], document["step"]) == (taken[1].id, "verified", 20)


def test_an_intervention_shows_what_was_read_back(lumina: Any, live: Recording, answering: Any) -> None:
    before, after = {"routing_temperature": 1.0}, {"routing_temperature": 1.5}
    with answering(live.paths, step=21, before=before, after=after) as taken:
        answer = lumina("intervene", "first", "adjust_routing_temperature", "temperature=1.5", "--wait")
    assert answer.out == (
        f"adjust_routing_temperature verified at step 21: routing_temperature 1 → 1.5 (receipt {taken[0].id})\n"
    )
    assert taken[0].args == {"temperature": 1.5}


def test_arguments_may_stand_behind_an_option(lumina: Any, live: Recording) -> None:
    words = ("intervene", "first", "adjust_routing_temperature", "--json", "temperature=1.5")
    assert lumina(*words).document["state"] == "queued"
    answer = lumina("intervene", "first", "adjust_routing_temperature", "temperature=1.5")
    assert answer.out.startswith("adjust_routing_temperature queued (receipt ")


def test_a_refused_command_is_exit_status_1_with_its_reason(lumina: Any, live: Recording, answering: Any) -> None:
    with answering(live.paths, "refused", code="stale", reason="meant for an earlier segment"):
        answer = lumina("pause", "first")
        as_json = lumina("pause", "first", "--json")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "lumina: error: pause refused: meant for an earlier segment (stale)\n"
    assert as_json.code == 1
    assert (as_json.document["state"], as_json.document["code"]) == ("refused", "stale")


def test_what_the_trainer_found_wrong_in_the_request_is_exit_status_2(
    lumina: Any, live: Recording, answering: Any
) -> None:
    with answering(live.paths, "refused", code="bad_argument", reason="layer 7 has no experts"):
        answer = lumina("intervene", "first", "add_expert", "layer_idx=7", "--wait")
    assert (answer.code, answer.err) == (
        2,
        "lumina: error: add_expert refused: layer 7 has no experts (bad_argument)\n",
    )


def test_a_command_without_an_answer_says_that_it_waits(
    lumina: Any, live: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "RECEIPT_SECONDS", 0.0)
    answer = lumina("pause", "first")
    assert (answer.code, answer.out) == (1, "")
    assert "stays queued and is answered before the next step" in answer.err


def test_a_run_that_nobody_trains_takes_no_commands(lumina: Any, runs: Path) -> None:
    finished_run(runs)
    answer = lumina("pause", "first")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "lumina: error: run 'first' is finished; nothing reads its commands (not_running)\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("explode",), "there is no intervention 'explode'; available: adjust_routing_temperature"),
        (("adjust_routing_temperature", "temperature=9"), "temperature = 9 is outside 0.1 to 5 (out_of_range)"),
        (
            ("adjust_routing_temperature", "temperature=warm"),
            "'warm' is not a number; allowed: 0.1 to 5 (bad_argument)",
        ),
        (("add_expert", "layer_idx=0.5"), "layer_idx = 0.5 is not a whole number; allowed: 0 or more (bad_argument)"),
        (("adjust_routing_temperature",), "adjust_routing_temperature needs temperature"),
        (("adjust_routing_temperature", "temperature=1", "temperature=2"), "temperature is given twice"),
    ],
)
def test_what_cannot_be_is_exit_status_2_and_never_sent(
    lumina: Any, live: Recording, words: tuple[str, ...], said: str
) -> None:
    answer = lumina("intervene", "first", *words)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert list(live.paths.inbox.glob("*.json")) == []


def test_proposals_are_shown_with_evidence_and_confidence(lumina: Any, live: Recording) -> None:
    assert lumina("proposals", "first").out == "nothing waits for you\n"
    assert lumina("proposals", "first", "--json").document == []
    proposal = live.propose(1.4)
    assert live.writer.flush()
    (document,) = lumina("proposals", "first", "--json").document
    assert (document["id"], document["confidence"], document["args"]) == (proposal, 0.86, {"temperature": 1.4})
    shown = lumina("proposals", "first").out
    assert f"{proposal}  adjust_routing_temperature(temperature=1.4)  confidence 0.86" in shown
    assert "routing entropy fell to 0.21" in shown


def test_a_proposal_is_approved_by_the_beginning_of_its_id(lumina: Any, live: Recording, answering: Any) -> None:
    proposal = live.propose()
    assert live.writer.flush()
    with answering(live.paths, step=21) as taken:
        answer = lumina("approve", "first", proposal[:6], "--set", "temperature=1.2")
    assert answer.code == 0
    assert (taken[0].kind, taken[0].proposal, taken[0].args) == ("approve", proposal, {"temperature": 1.2})


def test_a_proposal_is_rejected_with_a_reason(lumina: Any, live: Recording, answering: Any) -> None:
    proposal = live.propose()
    assert live.writer.flush()
    with answering(live.paths, step=21) as taken:
        document = lumina("reject", "first", proposal[:6], "--why", "too early", "--json").document
    assert document["state"] == "verified"
    assert (taken[0].kind, taken[0].proposal, taken[0].args) == ("reject", proposal, {"why": "too early"})


@pytest.mark.parametrize("command", ["approve", "reject"])
def test_a_proposal_that_there_is_not_is_refused_before_anything_is_sent(
    lumina: Any, live: Recording, command: str
) -> None:
    proposal = live.propose()
    assert live.writer.flush()
    answer = lumina(command, "first", "zzzz")
    assert (answer.code, answer.out) == (2, "")
    assert f"has no proposal 'zzzz'; open: {proposal[:8]} (adjust_routing_temperature) (not_found)" in answer.err
    assert list(live.paths.inbox.glob("*.json")) == []


def test_a_proposal_that_was_answered_is_known_by_the_beginning_of_its_id(
    lumina: Any, live: Recording, answering: Any
) -> None:
    """The trainer says what became of it; here only that it is asked about the right one."""
    proposal = live.propose()
    live.decide(proposal, "expired")
    assert live.writer.flush()
    with answering(live.paths, "refused", code="expired", reason="expired already") as taken:
        answer = lumina("approve", "first", proposal[:6])
    assert (answer.code, taken[0].proposal) == (1, proposal)
    assert "expired already" in answer.err


def test_an_undo_is_called_one(lumina: Any, live: Recording) -> None:
    doc: dict[str, Any] = {
        **{"id": "e" * 32, "kind": "undo", "method": "prune_expert", "args": {"receipt": "f" * 32}, "step": 20},
        **{"state": "verified", "reason": None, "before": {"num_experts": 3, "capacity_factor": None}},
        "after": {"num_experts": 4, "capacity_factor": None},
    }
    assert control.receipt_line(doc).startswith("undo prune_expert verified at step 20: num_experts 3 → 4 (receipt ")
    live.commit("applied", doc["id"], doc)
    assert live.writer.flush()
    assert lumina("receipts", "first").out.strip().startswith("20  undo prune_expert verified: num_experts 3 → 4 (")


def test_an_intervention_that_there_is_not_is_answered_with_those_that_are(lumina: Any, live: Recording) -> None:
    receipt = live.apply(1.2)
    assert live.writer.flush()
    answer = lumina("undo", "first", "zzzz")
    assert (answer.code, answer.out) == (2, "")
    assert f"there are: {receipt[:8]} (adjust_routing_temperature at step 20)" in answer.err


def test_receipts_show_what_was_read_back_and_what_it_did(lumina: Any, live: Recording) -> None:
    pending, judged = live.apply(1.2), live.apply(1.5)
    live.commit("effect", pending, {"state": "pending", "due_step": 1500})
    figures = {"state": "hurt", "summary": "loss +4.00% against its trend (noise band ±1.00%)", "change": 0.04}
    live.commit("effect", judged, figures)
    live.writer.flush(10.0)
    out = lumina("receipts", "first").out
    assert "adjust_routing_temperature temperature=1.5 verified: routing_temperature 1 → 1.5" in out
    assert "effect hurt: loss +4.00% against its trend" in out
    assert "effect pending until step 1,500" in out
    newest = lumina("receipts", "first", "--json").document[0]
    assert (newest["id"], newest["effect"]["change"]) == (judged, 0.04)


def test_calibration_prints_how_sure_proposals_ended(lumina: Any, runs: Path) -> None:
    finished_run(runs)  # one proposal at confidence 0.86, rejected
    answer = lumina("calibration")
    assert answer.code == 0
    assert "0.75-0.90 |.................|..|  0% of 1 ended well (told 86%)" in answer.out
    assert "router_collapse" in answer.out
    rows = lumina("calibration", "first", "--json").document
    assert [(row["detector"], row["count"], row["share"]) for row in rows if row["count"]] == [
        ("all", 1, 0.0),
        ("router_collapse", 1, 0.0),
    ]
