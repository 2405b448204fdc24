"""Carries out a proposal: one intervention or several in their order, each with a receipt of its own. It sees the
steering of a session and no model; what an intervention does is not its business.

The journal says beforehand what is to be done without a person (`course` of the proposal's line), so that a trainer
that dies in the middle is succeeded by one that goes on at the same place.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lumina.store.errors import Refusal
from lumina.train.history import HalfDone
from lumina.train.session import Session

if TYPE_CHECKING:
    from lumina.train.steering import Author, Steering

ORCHESTRATOR = {"name": "orchestrator", "via": "auto"}
Acts = list[tuple[int, str, Mapping[str, Any]]]


def carry_out(steering: Steering, proposal: Mapping[str, Any], args: Mapping[str, Any], author: Author, *,
              id: str) -> dict[str, Any]:  # fmt: skip
    """Makes a proposal's interventions in their order and returns the receipt of the first one that was made.

    One that cannot be made any more (no checkpoint to go back to) does not keep the others from being made. Raises the
    first `Refusal` when none was.
    """
    return _make(steering, proposal, _acts(proposal, args), author, id)


def carry_out_alone(steering: Steering, proposal: Mapping[str, Any]) -> None:
    """As `carry_out`, without a person; where nothing of it can be made, the proposal is rejected with the reason."""
    receipt_id = uuid.uuid5(uuid.UUID(proposal["id"]), f"auto/{steering.session.segment}").hex
    try:
        carry_out(steering, proposal, proposal["args"], ORCHESTRATOR, id=receipt_id)
    except Refusal as refusal:
        decide(steering.session, proposal["id"], "rejected", refusal.message)


def take_up(steering: Steering) -> None:
    """Goes on with what a trainer that died had begun, after the step after which it was decided."""
    session = steering.session
    if session.half_done is not None and session.half_done.step == session.state.step:
        begun, session.half_done = session.half_done, None
        _go_on(steering, begun)
    step = session.state.step
    left = {doc["id"]: doc for doc in session.ledger.open() if doc.get("course") == "act" and doc["step"] == step}
    # In the journal's order: what was found by ending a check that had broken off lies behind what it had found before.
    for id in [entry.id for entry in session.journal.entries if entry.id in left] if left else ():
        if session.state.step == step:
            carry_out_alone(steering, left[id])


def decide(session: Session, proposal_id: str, decision: str, why: str) -> None:
    """Journals what becomes of a proposal without a person, unless the journal that is being repeated has it."""
    entry_id = uuid.uuid5(uuid.UUID(proposal_id), decision).hex
    if not session.replay.holds("decision", entry_id):
        doc = {"proposal": proposal_id, "decision": decision, "author": ORCHESTRATOR, "why": why}
        session.commit("decision", entry_id, doc)


def _go_on(steering: Steering, begun: HalfDone) -> None:
    proposal, receipt = begun.proposal, begun.receipt
    acts = _acts(proposal, proposal["args"])
    made = "undo" if receipt["kind"] == "undo" and acts[0][1] == "undo" else receipt["method"]
    newest = next((number for number, method, _ in acts if method == made), len(acts))
    left = [act for act in acts if act[0] > newest]
    if left:
        steering.session.event("info", "restart", f"Going on with what proposal {proposal['id'][:8]} asks for")
        _make(steering, proposal, left, receipt["author"], str(receipt.get("follows") or receipt["id"]), dict(receipt))


def _acts(proposal: Mapping[str, Any], args: Mapping[str, Any]) -> Acts:
    then = [(str(act["method"]), act["args"]) for act in proposal.get("then") or ()]
    return [(number, *act) for number, act in enumerate([(str(proposal["method"]), args), *then])]


def _make(steering: Steering, proposal: Mapping[str, Any], acts: Acts, author: Author, id: str,
          done: dict[str, Any] | None = None) -> dict[str, Any]:  # fmt: skip
    """Makes these acts; `done` is the receipt of one before them, and `id` that of the first."""
    refused = last = None
    for number, method, chosen in acts:
        own = id if done is None else uuid.uuid5(uuid.UUID(id), str(number)).hex
        follows = {} if done is None else {"follows": id}
        last = None
        try:
            made = _one(steering, method, chosen, author, id=own, proposal=proposal["id"], **follows)
        except Refusal as refusal:
            refused, last = refused or refusal, refusal
            steering.session.event("warning", "approve", f"{method} was not made: {refusal.message}")
        else:
            done = done or made
    if done is None:
        raise refused or Refusal("bad_argument", f"proposal {proposal['id']} asks for nothing")
    if last is not None:  # else nothing in the journal would say that this was the end of it
        decide(steering.session, proposal["id"], "approved", f"the last of it was not made: {last.message}")
    return done


def _one(steering: Steering, method: str, args: Mapping[str, Any], author: Author, *, id: str, proposal: str,
         **about: Any) -> dict[str, Any]:  # fmt: skip
    """One act: an intervention, or an undo."""
    if method == "undo":
        return steering.undo(str(args["receipt"]), author, id=id, proposal=proposal)
    return steering.intervene(method, args, author, id=id, proposal=proposal, kind="approve", **about)
