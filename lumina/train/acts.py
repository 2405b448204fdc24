"""Applies interventions and takes them back between two steps: check, apply, read back, journal, in that order.

It sees interventions and `LiveControls`; who asks for one, and how a value reaches the model, is not its business.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from lumina.checkpoint import CanonicalState, Manifest
from lumina.interventions import Intervention, build
from lumina.interventions.run import RollbackSteps
from lumina.store.errors import Refusal
from lumina.train import undo
from lumina.train.controls import LiveControls
from lumina.train.receipts import receipt
from lumina.train.saver import Saver
from lumina.train.session import Session

log = logging.getLogger(__name__)

Author = Mapping[str, str]
Values = tuple[dict[str, Any], dict[str, Any]]  # as they were read back before and after


class Acts:
    """What may be done to the model, the optimizer and the run's course; each act has one receipt in the journal."""

    def __init__(self, session: Session, saver: Saver, controls: LiveControls) -> None:
        self.session = session
        self.saver = saver
        self.controls = controls

    def intervene(self, method: str, args: Mapping[str, Any], author: Author, *, id: str | None = None,
                  proposal: str | None = None, kind: str = "intervene", **about: Any) -> dict[str, Any]:  # fmt: skip
        """Applies one intervention now and returns its receipt.

        Raises `Refusal` when it cannot be: nothing has changed then.
        """
        action = build(method, args)
        action.check(self.controls)
        if isinstance(action, RollbackSteps):
            return self._rollback(action, author, id or uuid.uuid4().hex, proposal, kind, about)
        if action.declaration.structural:
            self.saver.save("intervention")
        resolved = action.resolve(self.controls)
        before, after = self.apply(action, resolved)
        done = receipt(
            id or uuid.uuid4().hex,
            kind,
            "verified",
            self.session.state.step,
            method=method,
            args=action.declaration.parse(args),
            author=author,
            proposal=proposal,
            before=before,
            after=after,
            resolved=resolved,
            **about,
        )
        self._applied(done, changed=not action.once)
        return done

    def undo(self, wanted: str, author: Author, *, id: str, proposal: str | None = None) -> dict[str, Any]:
        """Sets the old values of receipt `wanted` again and returns the receipt of that. Raises `Refusal`."""
        entry = undo.find_topmost(self.session, wanted)
        before, after = undo.revert(self.controls, entry.doc)
        done = receipt(id, "undo", "verified", self.session.state.step, method=entry.doc["method"],
                       args={"receipt": wanted}, author=author, proposal=proposal, before=before, after=after,
                       undoes=wanted)  # fmt: skip
        self._applied(done)
        return done

    def apply(self, action: Intervention, resolved: dict[str, Any]) -> Values:
        """Applies an action that was checked, and journals nothing. Raises `Refusal` (verify_failed)."""
        before = action.read_back(self.controls)
        snapshot = self.controls.snapshot() if action.declaration.structural else None
        action.apply(self.controls, resolved)
        after = action.read_back(self.controls)
        if not action.verify(before, after):
            if snapshot is not None:
                self.controls.restore(snapshot)
            else:
                action.undo(self.controls, before)
            method = action.declaration.method
            raise Refusal("verify_failed", f"{method}: read back {after} after {before}; the old values are restored")
        return before, after

    def _applied(self, receipt: dict[str, Any], changed: bool = True) -> None:
        session = self.session
        session.commit("applied", receipt["id"], receipt)
        session.answered[receipt["id"]] = receipt
        pending = {"state": "pending", "method": receipt["method"], "due_step": self.measure()}
        session.commit("effect", receipt["id"], pending)
        session.tell_live()
        self.saver.changes += changed
        log.info("applied %s %s: %s -> %s", receipt["method"], receipt["args"], receipt["before"], receipt["after"])

    def measure(self) -> int:
        """Lets the newest intervention's effect be measured; returns when it will be known."""
        session, applied = self.session, self.session.ledger.applied
        proposal = applied[-1].get("proposal")
        together = [number for number, doc in enumerate(applied) if proposal and doc.get("proposal") == proposal]
        return session.orchestrator.applied(session.state.step, len(applied) - 1, together[0] if together else None)

    def once_more(self, doc: Mapping[str, Any]) -> Values:
        """Applies a journalled intervention or undo again; returns what was read back before and after.

        Raises `Refusal` (verify_failed) when the values are not those that its receipt says.
        """
        undone = doc
        if doc["kind"] == "undo":
            undone = next(past for past in self.session.journal.entries if past.id == doc["undoes"]).doc
        action, resolved = build(undone["method"], undone["args"]), undone.get("resolved") or {}
        outdated = action.outdated(self.controls, resolved)
        if doc["kind"] == "undo":
            before, after = undo.revert(self.controls, undone)
        elif outdated:
            before = action.read_back(self.controls)
            action.apply(self.controls, resolved)
            after = action.read_back(self.controls)
        else:
            before, after = self.apply(action, resolved)
        if not outdated and not action.same(after, doc["after"]):
            raise Refusal(
                "verify_failed", f"re-applying {doc['method']} of step {doc['step']} gave {after}, not {doc['after']}"
            )
        return before, after

    def rewind_before(self, wanted: str, asked: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """Goes back to the checkpoint before receipt `wanted`; `asked` makes the receipt. Raises `Refusal`."""
        entry = undo.find_applied(self.session, wanted)
        self.saver.settle()
        found = undo.checkpoint_before(
            self.session, lambda manifest: manifest.journal_seq < entry.seq, f"{entry.doc['method']} of {wanted}"
        )
        return self._rewind(found, asked(method=entry.doc["method"], undoes=wanted))

    def _rollback(self, action: RollbackSteps, author: Author, id: str, proposal: str | None,
                  kind: str, about: Mapping[str, Any]) -> dict[str, Any]:  # fmt: skip
        self.saver.settle()
        goal = self.session.state.step - action.num_steps
        found = undo.checkpoint_before(self.session, lambda manifest: manifest.step <= goal, f"step {goal}")
        asked = receipt(
            id,
            kind,
            "verified",
            None,
            method=action.declaration.method,
            args={"num_steps": action.num_steps},
            author=author,
            proposal=proposal,
            **about,
        )
        return self._rewind(found, asked)

    def _rewind(self, found: tuple[CanonicalState, Manifest], asked: dict[str, Any]) -> dict[str, Any]:
        done = undo.rewind(self.session, *found, asked)
        self.saver.forget()
        return done
