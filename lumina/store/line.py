"""Segments of a run and the current line through them: what is still true after restarts and rewinds.

It works on plain records; it must not know where they are stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """One stretch of training without a restart or rewind.

    It continues its parent's state after `fork_step`. `cause` is start, restart or rewind. `fork_seq`, where given, is
    the journal's seq that the state at the fork had applied: it settles which decisions made *at* `fork_step` count.
    """

    id: str
    parent: str | None = None
    fork_step: int | None = None
    cause: str = "start"
    cause_id: str | None = None
    started: float | None = None
    fork_seq: int | None = None


@dataclass(frozen=True)
class LineSegment:
    """A segment as the current line sees it: its points with `after < step <= until` count (None: no bound).

    Decisions are bounded by rewinds only (`decided_until`, `decided_seq`): a restart re-runs the steps after its
    checkpoint with the decisions that its parent's journal entries hold, so these stay in force.
    """

    id: str
    after: int | None = None
    until: int | None = None
    decided_until: int | None = None
    decided_seq: int | None = None

    def shows(self, step: int) -> bool:
        """Whether the segment's point of that step lies on the line."""
        return (self.after is None or step > self.after) and (self.until is None or step <= self.until)

    def decides(self, step: int, seq: int) -> bool:
        """Whether the segment's journal entry lies on the line."""
        if self.decided_seq is not None and seq > self.decided_seq:
            return False
        return self.decided_until is None or step <= self.decided_until


def line_of(segments: Sequence[Segment], head: str | None = None) -> list[LineSegment]:
    """The chain of segments that ends in `head` (default: the last opened), oldest first, clipped at the forks."""
    if not segments:
        return []
    by_id = {segment.id: segment for segment in segments}
    chain: list[LineSegment] = []
    visited: set[str] = set()
    until: int | None = None
    decided_until: int | None = None
    decided_seq: int | None = None
    current = by_id.get(head) if head is not None else segments[-1]
    while current is not None and current.id not in visited:
        visited.add(current.id)
        parent = by_id.get(current.parent) if current.parent is not None else None
        after = current.fork_step if parent is not None else None
        chain.append(LineSegment(current.id, after, until, decided_until, decided_seq))
        until = _least(until, current.fork_step)
        if current.cause == "rewind":
            # With a seq the bound is exact; the step alone cannot tell before from after within one boundary.
            decided_seq = _least(decided_seq, current.fork_seq)
            decided_until = _least(decided_until, current.fork_step)
        current = parent
    return chain[::-1]


def _least(*bounds: int | None) -> int | None:
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known else None


def index_line(line: Iterable[LineSegment]) -> dict[str, LineSegment]:
    """The line's segments by id."""
    return {segment.id: segment for segment in line}
