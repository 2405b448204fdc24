"""What the journal says must still happen: proposals that are open, and decisions to repeat after a restart.

It folds the journal's entries that are in force; it decides nothing and touches no model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lumina.engine.api import VALIDATION
from lumina.orchestrator import Attempt
from lumina.orchestrator.calibration import Record
from lumina.store.journal import Entry

CHANGES_THE_MODEL = frozenset({"intervene", "approve", "undo"})


def answered(entries: Iterable[Entry]) -> dict[str, dict[str, Any]]:
    """Command id → receipt of every command that was ever answered in this run, on any line."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry.type in ("applied", "refused"):
            found[entry.id or ""] = dict(entry.doc)
        elif entry.type == "segment" and entry.doc.get("receipt"):
            found[entry.doc["receipt"]["id"]] = dict(entry.doc["receipt"])
    return found


def extended(entries: Iterable[Entry]) -> int | None:
    """The total number of steps that a person gave on a resume, if the newest segment runs on it."""
    segments = [entry.doc for entry in entries if entry.type == "segment"]
    return segments[-1]["total_steps"] if segments and segments[-1].get("extended") else None


def times_asked(entries: Iterable[Entry]) -> int:
    """How often a person gave the number of steps when the run was started or resumed, up to the newest segment."""
    return max((int(entry.doc.get("asked", 0)) for entry in entries if entry.type == "segment"), default=0)


@dataclass
class Past:
    """What was done for proposals, on any line: going back does not make a run forget that it has tried.

    `causes` and `positions` have the cause of every proposal ever made and where in the data it lay; `attempts` has
    the first intervention of each that was carried out.
    """

    causes: dict[str, str] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    positions: dict[str, int | None] = field(default_factory=dict)

    def fold(self, entry: Entry) -> None:
        """Takes one journal entry into account."""
        if entry.type == "proposal":
            self.causes[entry.id or ""] = str(entry.doc["cause"])
            numbers = (entry.doc.get("evidence") or {}).get("numbers") or {}
            self.positions[entry.id or ""] = numbers.get("position")
            return
        rewound = entry.type == "segment"
        done = entry.doc.get("receipt") if rewound else entry.doc if entry.type == "applied" else None
        if done and done.get("proposal") in self.causes and not done.get("follows"):
            step = int(done["before"]["step"]) if rewound else entry.step
            alone = done["author"].get("via") == "auto"
            cause, position = self.causes[done["proposal"]], self.positions[done["proposal"]]
            self.attempts.append(Attempt(cause, step, str(done["method"]), alone, rewound, position))

    @classmethod
    def before(cls, entries: Sequence[Entry], held: Iterable[Entry], seq: int) -> Past:
        """What lies behind a run that goes on after journal position `seq`: that, and what the rewinds since have left.

        `held` are the entries in force; those after `seq` are met again and are not past yet.
        """
        ahead = {entry.seq for entry in held if entry.seq > seq and entry.type != "segment"}
        left = [entry.seq for entry in entries if entry.type == "segment" and entry.doc.get("cause") == "rewind"]
        past = cls()
        for entry in entries:
            if entry.seq <= max([seq, *left]) and entry.seq not in ahead:
                past.fold(entry)
        return past


@dataclass
class Ledger:
    """Proposals and where each stands; `values` are the live values as the newest receipt about each left it."""

    proposals: dict[str, dict[str, Any]] = field(default_factory=dict)
    decided_at: dict[str, int] = field(default_factory=dict)
    applied: list[dict[str, Any]] = field(default_factory=list)  # receipts of what changed the model, in order
    record: Record = field(default_factory=Record)  # how proposals ended
    values: dict[str, Any] = field(default_factory=dict)

    def fold(self, entry: Entry) -> None:
        """Takes one journal entry into account."""
        self.record.fold(entry.type, entry.id, entry.doc)
        if entry.type == "applied":
            self.values.update(entry.doc.get("after") or {})
        if entry.type == "proposal":
            self.proposals[entry.id or ""] = {**entry.doc, "state": "open"}
        elif entry.type == "decision":
            self._decide(entry.doc["proposal"], entry.doc["decision"], entry.step)
        elif entry.type == "applied":
            self._applied(dict(entry.doc), entry.step)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Ledger:
        """What these entries, in order, leave."""
        ledger = cls()
        for entry in entries:
            ledger.fold(entry)
        return ledger

    def open(self) -> list[dict[str, Any]]:
        return [doc for doc in self.proposals.values() if doc["state"] == "open"]

    def _applied(self, receipt: dict[str, Any], step: int) -> None:
        if receipt.get("kind") not in CHANGES_THE_MODEL:
            return  # the receipt of a rejection names the proposal, too
        self.applied.append(receipt)
        if receipt.get("proposal"):
            self._decide(receipt["proposal"], "approved", step)

    def _decide(self, proposal: str, decision: str, step: int) -> None:
        if proposal in self.proposals:
            self.proposals[proposal]["state"] = decision
            self.decided_at[proposal] = step


@dataclass
class Replay:
    """Journal entries that a restarted run meets again, in order, at the steps where they were made."""

    entries: list[Entry]
    until: int
    breaks_off: int | None = None
    """The step in whose check the journal ends: whether the orchestrator had said all is not known."""

    @classmethod
    def after(cls, entries: Sequence[Entry], seq: int, step: int, pending: Collection[int] = ()) -> Replay:
        """What is in force after journal position `seq` (that of the checkpoint at `step`).

        `pending` has the positions before `seq` that were still to be repeated when that checkpoint was taken.
        """
        later = [entry for entry in entries if (entry.seq > seq or entry.seq in pending) and entry.type != "segment"]
        # By step: what a process decided while it repeated others' decisions lies behind those in the journal.
        later.sort(key=lambda entry: entry.step)
        until = max((entry.step for entry in later), default=step)
        checked = all(_comes_with_the_check(entry) for entry in later if entry.step == until)
        return cls(later, until, until if checked and later else None)

    def due(self, step: int) -> list[Entry]:
        """Takes out the entries of all steps up to `step`."""
        taken: list[Entry] = []
        while self.entries and self.entries[0].step <= step:
            taken.append(self.entries.pop(0))
        return taken

    def holds(self, type: str, id: str) -> bool:
        """Whether such an entry is still to come."""
        return any(entry.type == type and entry.id == id for entry in self.entries)

    def proposals(self, step: int) -> list[Mapping[str, Any]]:
        """What the orchestrator found at that step and is still to come."""
        return [entry.doc for entry in self.entries if entry.type == "proposal" and entry.step == step]

    def acts_at_once(self, step: int) -> bool:
        """Whether an emergency of that step was acted on."""
        return any(doc.get("emergency") and doc.get("course") == "act" for doc in self.proposals(step))

    def active(self, step: int) -> bool:
        """True while decisions come from the journal: nothing is decided anew."""
        return step < self.until or bool(self.entries)


def _comes_with_the_check(entry: Entry) -> bool:
    """Whether it was journalled before, or by, the orchestrator's check after the same step; a check journals all that
    it decides before its first act."""
    if entry.type == "oom_split":
        return bool(entry.doc.get("phase") == VALIDATION)
    alone = (entry.doc.get("author") or {}).get("via") == "auto"
    return entry.type in ("batch_skipped", "proposal") or (entry.type == "decision" and alone)


@dataclass(frozen=True)
class HalfDone:
    """A proposal of several acts at the journal's end, and the receipt of the newest that was made, after `step`."""

    proposal: Mapping[str, Any]
    receipt: Mapping[str, Any]
    step: int


def half_done(entries: Sequence[Entry]) -> HalfDone | None:
    """What a trainer that died may have left half done; nothing where the run went on, or ended, after it."""
    for entry in reversed(entries):
        if entry.type in ("checkpoint", "effect", "oom_split", "batch_skipped") or entry.doc.get("cause") == "restart":
            continue  # what a resume met on its way to that step lies behind it in the journal
        receipt = entry.doc if entry.type == "applied" else entry.doc.get("receipt") or {}
        wanted = receipt.get("proposal")
        made_for = next((past.doc for past in entries if past.type == "proposal" and past.id == wanted), None)
        return HalfDone(made_for, receipt, entry.step) if made_for is not None else None
    return None
