"""Why an intervention cannot be taken back in place, told from the journal alone: for the trainer, and for screens that
show a button. Whether the live values are still what the receipt says, only the trainer knows."""

from __future__ import annotations

from collections.abc import Sequence

from lumina.interventions.catalogue import build
from lumina.store.errors import Refusal
from lumina.store.journal import Entry

CHANGES = frozenset({"intervene", "approve", "undo"})


def changes_in(held: Sequence[Entry]) -> list[Entry]:
    """The interventions and undos among journal entries."""
    return [entry for entry in held if entry.type == "applied" and entry.doc.get("kind") in CHANGES]


def to_undo(held: Sequence[Entry], receipt: str, journal: Sequence[Entry] = ()) -> Entry:
    """The intervention of that receipt among the entries of the current line, not yet undone.

    `journal` has all entries, so that one on an abandoned branch is told from one that never was. Raises `Refusal`:
    superseded, unsupported, not_found.
    """
    changes = changes_in(held)
    for entry in changes:
        if entry.doc.get("undoes") == receipt:
            raise Refusal("superseded", f"{receipt} was undone already, at step {entry.step}")
    found = next((entry for entry in changes if entry.id == receipt), None)
    if found is None:
        raise _not_in_force(receipt, changes, journal)
    if found.doc["kind"] == "undo":
        raise Refusal("unsupported", f"{receipt} is itself an undo; send {found.doc['method']} again instead")
    return found


def refuse_beneath(held: Sequence[Entry], entry: Entry) -> None:
    """Raises `Refusal` (superseded) when a later intervention changed what the undo of `entry` would set."""
    needed = build(entry.doc["method"], entry.doc["args"]).undo_sets(entry.doc["after"])
    changes = changes_in(held)
    undone = {other.doc.get("undoes") for other in changes}
    for later in reversed(changes):
        if later.seq <= entry.seq or later.doc["kind"] == "undo" or later.id in undone:
            continue
        touched = needed & build(later.doc["method"], later.doc["args"]).touches(later.doc["after"])
        if touched:
            raise Refusal(
                "superseded",
                f"{later.doc['method']} of step {later.step} (receipt {str(later.id)[:8]}) changed "
                f"{', '.join(sorted(touched))} after it: a later change lies on top of it; undo that one first",
            )


def why_not(held: Sequence[Entry], receipt: str) -> str | None:
    """Why the journal alone forbids to undo it, or None."""
    try:
        refuse_beneath(held, to_undo(held, receipt))
    except Refusal as refusal:
        return refusal.message
    return None


def _not_in_force(receipt: str, changes: Sequence[Entry], journal: Sequence[Entry]) -> Refusal:
    for entry in journal:
        if entry.type == "segment" and (entry.doc.get("receipt") or {}).get("id") == receipt:
            step = entry.doc["fork_step"]
            return Refusal("unsupported", f"{receipt} went back to step {step}; what it left stays a branch of the run")
        if entry.id == receipt and entry.type == "applied" and entry.doc.get("kind") in CHANGES:
            return Refusal("not_found", f"{entry.doc['method']} of step {entry.step} was left behind by a later rewind")
    gone = {entry.doc.get("undoes") for entry in changes}
    in_force = [entry for entry in changes if entry.doc["kind"] != "undo" and entry.id not in gone]
    listed = ", ".join(f"{str(entry.id)[:8]} ({entry.doc['method']} at step {entry.step})" for entry in in_force)
    return Refusal("not_found", f"no intervention {receipt} is in force in this run; there are: {listed or 'none'}")
