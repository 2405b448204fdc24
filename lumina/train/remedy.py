"""Carries out a proposal: one intervention or several in their order, each with a receipt of its own. It sees the
steering of a session and no model; what an intervention does is not its business."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lumina.store.errors import Refusal

if TYPE_CHECKING:
    from lumina.train.steering import Author, Steering


def carry_out(steering: Steering, proposal: Mapping[str, Any], args: Mapping[str, Any], author: Author, *,
              id: str) -> dict[str, Any]:  # fmt: skip
    """Makes a proposal's interventions in their order and returns the receipt of the first one that was made.

    One that cannot be made any more (no checkpoint to go back to) does not keep the others from being made. Raises the
    first `Refusal` when none was.
    """
    acts = [(str(proposal["method"]), args)]
    acts += [(str(act["method"]), act["args"]) for act in proposal.get("then") or ()]
    done: dict[str, Any] | None = None
    refused: Refusal | None = None
    for number, (method, chosen) in enumerate(acts):
        own = id if done is None else uuid.uuid5(uuid.UUID(id), str(number)).hex
        follows = {} if done is None else {"follows": done["id"]}
        try:
            made = _one(steering, method, chosen, author, id=own, proposal=proposal["id"], **follows)
        except Refusal as refusal:
            refused = refused or refusal
            steering.session.event("warning", "approve", f"{method} was not made: {refusal.message}")
        else:
            done = done or made
    if done is None:
        raise refused or Refusal("bad_argument", f"proposal {proposal['id']} asks for nothing")
    return done


def _one(steering: Steering, method: str, args: Mapping[str, Any], author: Author, *, id: str, proposal: str,
         **about: Any) -> dict[str, Any]:  # fmt: skip
    """One act: an intervention, or an undo."""
    if method == "undo":
        return steering.undo(str(args["receipt"]), author, id=id, proposal=proposal)
    return steering.intervene(method, args, author, id=id, proposal=proposal, kind="approve", **about)
