"""Journal entries as rows of the database: proposals, receipts, effects, segments, and events in words.

It is a pure function of the journal, so the rows can be made again at any time; it must not decide anything.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from lumina.store.journal import Entry, entries_on_line, segment_of
from lumina.store.line import Segment

FINAL_STATES = frozenset({"finished", "stopped", "failed"})


def project(db: sqlite3.Connection, entry: Entry) -> None:
    """Write the rows that one entry stands for; doing it again changes nothing."""
    if entry.type == "segment":
        put_segment(db, segment_of(entry))
        if entry.doc.get("receipt"):  # a rewind's receipt travels in the line that is its commit
            _put(db, "receipt", entry.doc["receipt"]["id"], entry, "verified", {**entry.doc["receipt"], "at": entry.at})
    elif entry.type == "proposal":
        _put(db, "proposal", entry.id, entry, str(entry.doc.get("state", "open")), entry.doc)
    elif entry.type == "decision":
        _decide(db, entry, entry.doc.get("proposal"), str(entry.doc.get("decision")), entry.doc)
    elif entry.type in ("accepted", "applied", "refused") or (entry.type == "oom_split" and entry.doc.get("method")):
        _put_receipt(db, entry)
    elif entry.type == "effect":
        _put(db, "effect", entry.id, entry, str(entry.doc.get("state", "pending")), entry.doc)
    told = describe(entry)
    if told is not None:
        level, kind, message = told
        doc = orjson.dumps({"at": entry.at, "kind": kind, "message": message}).decode()
        db.execute(
            "INSERT INTO event(journal_seq, segment, step, state, doc) VALUES (?,?,?,?,?) ON CONFLICT(journal_seq)"
            " DO UPDATE SET segment=excluded.segment, step=excluded.step, state=excluded.state, doc=excluded.doc",
            (entry.seq, entry.segment, entry.step, level, doc),
        )
    put_meta(db, "projected_seq", entry.seq, entry.at)


def put_segment(db: sqlite3.Connection, segment: Segment) -> None:
    """Open a segment unless it is open already; its number counts the segments in the journal's order."""
    db.execute(
        "INSERT INTO segment(num, id, parent, fork_step, cause, cause_id, started, fork_seq)"
        " SELECT coalesce(max(num), 0) + 1, ?,?,?,?,?,?,? FROM segment WHERE true ON CONFLICT(id) DO UPDATE SET"
        " parent=excluded.parent, fork_step=excluded.fork_step, cause=excluded.cause, cause_id=excluded.cause_id,"
        " started=excluded.started, fork_seq=excluded.fork_seq",
        (
            segment.id,
            segment.parent,
            segment.fork_step,
            segment.cause,
            segment.cause_id,
            segment.started,
            segment.fork_seq,
        ),
    )


def put_meta(db: sqlite3.Connection, key: str, value: Any, at: float) -> None:
    """Set one fact of the run."""
    text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    db.execute("INSERT OR REPLACE INTO meta VALUES (?,?,?)", (key, text, at))


def reproject(db: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    """Make every projected row anew from the journal. Points, arrays and free events stay as they are."""
    listed = list(entries)
    for table in ("proposal", "receipt", "effect"):
        db.execute(f"DELETE FROM {table}")
    kept = {entry.seq for entry in listed if describe(entry) is not None}
    for (seq,) in db.execute("SELECT journal_seq FROM event WHERE journal_seq IS NOT NULL").fetchall():
        if seq not in kept:
            db.execute("DELETE FROM event WHERE journal_seq=?", (seq,))
    for entry in listed:
        project(db, entry)
    _recall_meta(db, listed)


def _recall_meta(db: sqlite3.Connection, entries: list[Entry]) -> None:
    """Facts that a lost database held and the journal still tells, without touching those that are there."""
    if not entries:
        return
    last = entries[-1]
    state = str(last.doc.get("state", "stopped")) if last.type == "end" else "running"
    facts = {"state": state, "step": max(entry.step for entry in entries), "segment": last.segment}
    total = _total_steps(entries)
    if total is not None:
        facts["total_steps"] = total
    for key, value in facts.items():
        text = orjson.dumps(value).decode()
        db.execute("INSERT OR IGNORE INTO meta VALUES (?,?,?)", (key, text, last.at))


def _total_steps(entries: list[Entry]) -> int | None:
    """The length of the run on its current line: as planned, or as changed since a person last gave it on a resume."""
    total, asked = None, None
    for entry in entries_on_line(entries):
        doc = entry.doc
        if entry.type == "segment" and "total_steps" in doc and (doc.get("asked") != asked or asked is None):
            total, asked = int(doc["total_steps"]), doc.get("asked")
        elif entry.type == "applied" and "total_steps" in (doc.get("after") or {}):
            total = int(doc["after"]["total_steps"])
    return total


def _put(db: sqlite3.Connection, table: str, id: str | None, entry: Entry, state: str, doc: Mapping[str, Any]) -> None:
    text = orjson.dumps({**doc, "id": id, "state": state}).decode()
    db.execute(
        f"INSERT OR REPLACE INTO {table}(id, journal_seq, segment, step, state, doc) VALUES (?,?,?,?,?,?)",
        (id, entry.seq, entry.segment, entry.step, state, text),
    )


def _put_receipt(db: sqlite3.Connection, entry: Entry) -> None:
    usual = {"accepted": "queued", "refused": "refused"}.get(entry.type, "verified")
    state = str(entry.doc.get("state") or usual)
    _put(db, "receipt", entry.id, entry, state, {**entry.doc, "at": entry.at})
    proposal = entry.doc.get("proposal")
    if entry.type == "applied" and proposal is not None and entry.doc.get("kind") in ("approve", "undo"):
        decision = {"author": entry.doc.get("author"), "args": entry.doc.get("args"), "receipt": entry.id}
        _decide(db, entry, proposal, "approved", decision)


def _decide(
    db: sqlite3.Connection, entry: Entry, proposal: str | None, state: str, decision: Mapping[str, Any]
) -> None:
    row = db.execute("SELECT doc FROM proposal WHERE id=?", (proposal,)).fetchone()
    if row is None:
        return
    decided = {name: value for name, value in decision.items() if name != "proposal" and value is not None}
    doc = {**orjson.loads(row[0]), "state": state, "decided": {**decided, "step": entry.step, "at": entry.at}}
    db.execute("UPDATE proposal SET state=?, doc=? WHERE id=?", (state, orjson.dumps(doc).decode(), proposal))


# Events: what an entry says to a person, as (level, kind, message); None for entries that say nothing on their own.


def describe(entry: Entry) -> tuple[str, str, str] | None:
    """The entry in words."""
    doc = entry.doc
    if entry.type == "segment":
        return _describe_segment(entry)
    if entry.type == "proposal":
        summary = (doc.get("evidence") or {}).get("summary")
        # The rest of the evidence is on the proposal itself.
        why = f": {summary.split('. ')[0].rstrip('.')}" if summary else ""
        return "warning", "proposal", f"{call(doc)} proposed, confidence {doc.get('confidence') or 0:.2f}{why}"
    if entry.type == "decision":
        why = f": {doc['why']}" if doc.get("why") else ""
        return "info", "decision", f"Proposal {str(doc.get('proposal'))[:8]} {doc.get('decision')}{_by(doc)}{why}"
    if entry.type in ("applied", "refused"):
        return _describe_receipt(entry)
    if entry.type == "effect":
        return _describe_effect(doc)
    if entry.type == "checkpoint":
        reason = f" ({doc['reason']})" if doc.get("reason") else ""
        return "info", "checkpoint", f"{doc.get('name') or f'checkpoint_step_{entry.step}'} saved{reason}"
    if entry.type == "oom_split":
        return "warning", "memory", _describe_split(entry)
    if entry.type == "batch_skipped":
        return "critical", "health", f"Step {entry.step} skipped: {doc.get('reason') or 'loss or gradient not finite'}"
    if entry.type == "end":
        reason = f": {doc['reason']}" if doc.get("reason") else ""
        level = "critical" if doc.get("state") == "failed" else "info"
        return level, "run", f"Run {doc.get('state', 'ended')} at step {entry.step}{reason}"
    return None


def _describe_split(entry: Entry) -> str:
    phase, after = entry.doc.get("phase"), entry.doc.get("after") or {}
    if "validation_batch_size" in after:
        size = after["validation_batch_size"]
        return f"Out of memory in the validation of step {entry.step}: by {size} sequences from now on, the same ones"
    told = f"Out of memory in step {entry.step + 1}" + (f", in {phase}" if phase else "")
    if "batch_size" not in after:
        return f"{told}: the micro-batch was split"
    return (
        f"{told}: micro-batches of {after['batch_size']} from now on, {after['gradient_accumulation_steps']} per step; "
        "a step sees the same sequences as before"
    )


def _describe_segment(entry: Entry) -> tuple[str, str, str]:
    cause, step = str(entry.doc.get("cause", "start")), entry.doc.get("fork_step") or 0
    words = {"restart": f"Run resumed from step {step}", "rewind": f"Run rewound to step {step}"}
    receipt = entry.doc.get("receipt")
    if receipt:
        after = receipt["after"]
        left = ", ".join(after["interventions_left_behind"]) or "no intervention"
        told = f"Run rewound from step {after['from_step']} to step {step}{_by(receipt)}; left behind: {left}"
        return "warning", "run", told
    return "info", "run", words.get(cause, "Run started")


def _describe_receipt(entry: Entry) -> tuple[str, str, str]:
    doc, kind = entry.doc, str(entry.doc.get("kind") or "intervene")
    what = call(doc) if doc.get("method") else kind
    if entry.type == "refused":
        state = doc.get("state") or "refused"
        return "warning", "intervention" if doc.get("method") else "control", f"{what} {state}: {doc.get('reason')}"
    if doc.get("method") is None:
        return "info", "control", f"{kind}{_by(doc)} at step {entry.step}"
    change = _change(doc.get("before"), doc.get("after"))
    if kind == "undo":
        return "warning", "intervention", f"{doc['method']} undone at step {entry.step}{_by(doc)}{change}"
    return "warning", "intervention", f"{what} applied at step {entry.step}{_by(doc)}{change}"


def _describe_effect(doc: Mapping[str, Any]) -> tuple[str, str, str] | None:
    state = str(doc.get("state", "pending"))
    if state not in _VERDICTS:
        return None  # still being measured: the mark and the receipt show it
    what = f": {doc['summary']}" if doc.get("summary") else ""
    return "warning" if state == "hurt" else "info", "effect", f"{doc.get('method')} {_VERDICTS[state]}{what}"


_VERDICTS = {"helped": "helped", "neutral": "made no difference", "hurt": "hurt", "inconclusive": "cannot be judged"}


def call(doc: Mapping[str, Any]) -> str:
    """A method and its arguments as a person would write them."""
    args = ", ".join(f"{name}={_short(value)}" for name, value in (doc.get("args") or {}).items())
    return f"{doc.get('method')}({args})"


def _by(doc: Mapping[str, Any]) -> str:
    author = doc.get("author") or {}
    if not author.get("name"):
        return ""
    via = author.get("via")
    return f" by {author['name']}" + (f" ({via})" if via else "")


def _change(before: Any, after: Any) -> str:
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return ""
    changed = [
        f"{name} {_short(before.get(name))} → {_short(value)}"
        for name, value in after.items()
        if before.get(name) != value and not isinstance(value, (list, dict))
    ]
    return ": " + ", ".join(changed) if changed else ""


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
