"""Carries out a proposal: one intervention or several in their order, each with a receipt of its own. It sees
the acts of a session and no model; what an intervention does is not its business.

The journal says beforehand what is to be done without a person (`course` of the proposal's line), so that a trainer
that dies in the middle is succeeded by one that goes on at the same place.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from lumina.store.errors import Refusal
from lumina.train.acts import Acts, Author
from lumina.train.history import HalfDone
from lumina.train.session import Session

ORCHESTRATOR = {"name": "orchestrator", "via": "auto"}
Asked = list[tuple[int, str, Mapping[str, Any]]]  # number, method, arguments


def carry_out(acts: Acts, proposal: Mapping[str, Any], args: Mapping[str, Any], author: Author, *,
              id: str) -> dict[str, Any]:  # fmt: skip
    """Makes a proposal's interventions in their order and returns the receipt of the first one that was made.

    One that cannot be made any more (no checkpoint to go back to) does not keep the others from being made. Raises the
    first `Refusal` when none was.
    """
    return _make(acts, proposal, _asked_for(proposal, args), author, id)


def carry_out_alone(acts: Acts, proposal: Mapping[str, Any]) -> None:
    """As `carry_out`, without a person; where nothing of it can be made, the proposal is rejected with the reason."""
    receipt_id = uuid.uuid5(uuid.UUID(proposal["id"]), f"auto/{acts.session.segment}").hex
    try:
        carry_out(acts, proposal, proposal["args"], ORCHESTRATOR, id=receipt_id)
    except Refusal as refusal:
        decide(acts.session, proposal["id"], "rejected", refusal.message)


def take_up(acts: Acts) -> None:
    """Goes on with what a trainer that died had begun, after the step after which it was decided."""
    session = acts.session
    if session.half_done is not None and session.half_done.step == session.state.step:
        begun, session.half_done = session.half_done, None
        _go_on(acts, begun)
    step = session.state.step
    left = {doc["id"]: doc for doc in session.ledger.open() if doc.get("course") == "act" and doc["step"] == step}
    # In the journal's order: what was found by ending a check that had broken off lies behind what it had found before.
    for id in [entry.id for entry in session.journal.entries if entry.id in left] if left else ():
        if session.state.step == step:
            carry_out_alone(acts, left[id])


def decide(session: Session, proposal_id: str, decision: str, why: str, author: Author = ORCHESTRATOR,
           **about: Any) -> None:  # fmt: skip
    """Journals what becomes of a proposal without a person, unless the journal that is being repeated has it."""
    entry_id = uuid.uuid5(uuid.UUID(proposal_id), decision).hex
    if not session.replay.holds("decision", entry_id):
        doc = {"proposal": proposal_id, "decision": decision, "author": dict(author), "why": why, **about}
        session.commit("decision", entry_id, doc)


def _go_on(acts: Acts, begun: HalfDone) -> None:
    proposal, receipt = begun.proposal, begun.receipt
    asked = _asked_for(proposal, proposal["args"])
    made = "undo" if receipt["kind"] == "undo" else receipt["method"]
    newest = next((number for number, method, _ in asked if method == made), len(asked))
    left = asked[newest + 1 :]
    if left:
        acts.session.event("info", "restart", f"Going on with what proposal {proposal['id'][:8]} asks for")
        _make(acts, proposal, left, receipt["author"], str(receipt.get("follows") or receipt["id"]), dict(receipt))


def _asked_for(proposal: Mapping[str, Any], args: Mapping[str, Any]) -> Asked:
    then = [(str(act["method"]), act["args"]) for act in proposal.get("then") or ()]
    return [(number, *act) for number, act in enumerate([(str(proposal["method"]), args), *then])]


def _make(acts: Acts, proposal: Mapping[str, Any], asked: Asked, author: Author, id: str,
          done: dict[str, Any] | None = None) -> dict[str, Any]:  # fmt: skip
    """Makes these acts; `done` is the receipt of one before them, and `id` that of the first."""
    refused = last = None
    for number, method, chosen in asked:
        own = id if done is None else uuid.uuid5(uuid.UUID(id), str(number)).hex
        follows = {} if done is None else {"follows": id}
        last = None
        try:
            made = _one(acts, method, chosen, author, id=own, proposal=proposal["id"], **follows)
        except Refusal as refusal:
            refused, last = refused or refusal, refusal
            acts.session.event("warning", "approve", f"{method} was not made: {refusal.message}")
        else:
            done = done or made
    if done is None:
        raise refused or Refusal("bad_argument", f"proposal {proposal['id']} asks for nothing")
    if last is not None:  # else nothing in the journal would say that this was the end of it
        why = f"the last of it was not made: {last.message}"
        decide(acts.session, proposal["id"], "approved", why, author, args=dict(done["args"]), receipt=id)
    return done


def _one(acts: Acts, method: str, args: Mapping[str, Any], author: Author, *, id: str, proposal: str,
         **about: Any) -> dict[str, Any]:  # fmt: skip
    """One act: an intervention, or an undo."""
    if method == "undo":
        return acts.undo(str(args["receipt"]), author, id=id, proposal=proposal)
    return acts.intervene(method, args, author, id=id, proposal=proposal, kind="approve", **about)
