"""What a replay has to do and to compare: the decisions of a run's current line, and the hash at each checkpoint.

It reads the journal and the manifests; it must not know how a step is computed or a decision applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumina.checkpoint import list_checkpoints
from lumina.store.errors import Refusal
from lumina.store.journal import Entry, current_line, entries_on_line, read_entries
from lumina.store.layout import RunPaths
from lumina.store.line import LineSegment
from lumina.store.reader import StoreReader


@dataclass(frozen=True)
class Mark:
    """A checkpoint of the current line: the state after `step` and after the journal's entry `seq`."""

    name: str
    reason: str
    step: int
    seq: int
    state_hash: str
    ended: bool = False
    """The run had finished there, and therefore validated once more before it saved."""


@dataclass(frozen=True)
class Stretch:
    """Steps up to `until` (None: to the end) as one segment ran them: on a plan of so many steps, asked for as
    often as that (see `Plan.asked`), on such a machine."""

    until: int | None
    total_steps: int
    asked: int
    fingerprint: Mapping[str, Any]


@dataclass(frozen=True)
class Script:
    """`entries` are the decisions in force, `marks` what to compare with, both in order; `last_step` is the end."""

    entries: list[Entry]
    marks: list[Mark]
    stretches: list[Stretch]
    last_step: int

    @classmethod
    def of(cls, paths: RunPaths, *, to: int | None, whole: bool) -> Script:
        """The script of a run up to step `to`; without it to the newest checkpoint, or, if `whole`, to the last step.

        Raises `Refusal` (unsupported) where there is nothing to replay.
        """
        entries = read_entries(paths)
        line = current_line(entries)
        marks = _marks(paths, entries, line)
        if not marks and not whole:
            raise Refusal("unsupported", f"run {paths.name!r} has no checkpoint yet; there is nothing to compare with")
        reached = max(marks[-1].step if marks else 0, _newest_step(paths) if whole else 0)
        last = reached if to is None else min(to, reached)
        if last < 1:
            raise Refusal("unsupported", f"run {paths.name!r} has not taken a step; there is nothing to replay")
        held = [entry for entry in entries_on_line(entries) if entry.type != "segment" and entry.step <= last]
        opened = {entry.segment: entry.doc for entry in entries if entry.type == "segment"}
        stretches = [
            Stretch(part.until, doc["total_steps"], int(doc.get("asked", 0)), doc.get("fingerprint") or {})
            for part, doc in ((part, opened[part.id]) for part in line)
        ]
        return cls(held, [mark for mark in marks if mark.step <= last], stretches, last)

    def stretch(self, step: int) -> Stretch:
        """How step `step` was taken; its learning rate follows from the planned length."""
        return next(part for part in self.stretches if part.until is None or step <= part.until)

    def differences(self, step: int, fingerprint: Mapping[str, Any]) -> list[str]:
        """How the machines that computed the steps up to `step` differ from this one; none where bits must agree."""
        told: dict[str, None] = {}
        before = 0
        for part in self.stretches:
            if before < max(step, 1):
                for name, there in part.fingerprint.items():
                    if name in fingerprint and fingerprint[name] != there:
                        told[f"{name} {there} there, {fingerprint[name]} here"] = None
            before = step if part.until is None else part.until
        return list(told)


def _newest_step(paths: RunPaths) -> int:
    newest = StoreReader(paths).latest(["loss"]).get("loss")
    return newest[0] if newest else 0


def _marks(paths: RunPaths, entries: Sequence[Entry], line: Sequence[LineSegment]) -> list[Mark]:
    """Every checkpoint of the line with a known hash: from the journal, or, of older runs, from its manifest."""
    stored = {(folder.name, m.segment, m.step): m for folder, m in list_checkpoints(paths.checkpoints)}
    held = {part.id: part for part in line}
    finished = {(entry.segment, entry.step) for entry in entries if entry.type == "end" and _is_finish(entry)}
    found: dict[tuple[int, int, str], Mark] = {}
    for entry in entries:
        part = held.get(entry.segment)
        if entry.type != "checkpoint" or part is None:
            continue
        doc = entry.doc
        manifest = stored.get((str(doc["name"]), entry.segment, entry.step))
        step = int(doc.get("step", entry.step))
        seq = int(doc.get("journal_seq", manifest.journal_seq if manifest else entry.seq - 1))
        state_hash = doc.get("state_hash") or (manifest.state_hash if manifest else None)
        on_line = (part.after is None or step >= part.after) and (part.until is None or step <= part.until)
        if state_hash and on_line and part.decides(step, seq):
            ended = (entry.segment, step) in finished and "final" in str(doc["reason"]).split("+")
            found[step, seq, doc["name"]] = Mark(doc["name"], doc["reason"], step, seq, state_hash, ended)
    return [found[key] for key in sorted(found)]


def _is_finish(entry: Entry) -> bool:
    return bool(entry.doc.get("state") == "finished")
