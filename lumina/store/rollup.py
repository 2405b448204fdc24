"""Summaries of each series over buckets of 8, 64, 512 ... steps, so that long runs are drawn from few rows.

It knows points and buckets; it must not know what a series means or which segments are current.

A bucket of level L spans 8**L steps. Its row exists exactly when the series has a point in it and has reached the
bucket's end; the open end of a series is read from finer levels, down to the points themselves.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

BASE: Final = 8
LEVELS: Final = 7
_PAGE: Final = 20_000  # rows per read transaction, about 20 ms


@dataclass(frozen=True)
class Bar:
    """One drawn position: a point (n = 1) or a bucket. `value` is the mean of the finite points, None if none is."""

    step: int
    n: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Stretch:
    """Steps `first..last`, both included, of one series in one segment."""

    segment: int
    series: int
    first: int
    last: int


def last_step(db: sqlite3.Connection, segment: int, series: int) -> int | None:
    """The newest step of a series in a segment, or None."""
    row = db.execute("SELECT max(step) FROM point WHERE segment=? AND series=?", (segment, series)).fetchone()
    return None if row[0] is None else int(row[0])


def update(db: sqlite3.Connection, segment: int, series: int, first: int, previous: int | None, last: int) -> None:
    """Bring the rows up to date after points from step `first` on were written.

    `previous` and `last` are the series' newest steps before and after that.
    """
    start = first if previous is None else min(first, previous + 1)
    for level in range(1, LEVELS + 1):
        width = BASE**level
        low, high = start // width, (last + 1) // width
        if low >= high:
            # A coarser bucket that is still open holds everything that changed.
            return
        if level == 1:
            source = "SELECT step / 8 AS b, count(value), min(value), max(value), sum(value) FROM point"
            bounds = "step >= ? AND step < ?"
            limits = (low * width, high * width)
        else:
            source = "SELECT bucket / 8 AS b, sum(n), min(min), max(max), sum(sum) FROM rollup"
            bounds = f"level = {level - 1} AND bucket >= ? AND bucket < ?"
            limits = (low * BASE, high * BASE)
        rows = db.execute(
            f"{source} WHERE segment=? AND series=? AND {bounds} GROUP BY b", (segment, series, *limits)
        ).fetchall()
        db.executemany(
            "INSERT OR REPLACE INTO rollup VALUES (?,?,?,?,?,?,?,?)",
            [(segment, series, level, *row) for row in rows],
        )


def read(db: sqlite3.Connection, stretches: Sequence[Stretch], max_points: int | None) -> list[list[Bar]]:
    """The bars of each stretch; at most `max_points` together (None: every point)."""
    if max_points is None or _fits(db, stretches, max_points):
        return [list(_points(db, stretch)) for stretch in stretches]
    level = level_for(sum(stretch.last - stretch.first + 1 for stretch in stretches), max_points)
    bars = [list(_cover(db, stretch, level)) for stretch in stretches]
    while sum(map(len, bars)) > max_points and level < LEVELS:
        level += 1
        bars = [list(_cover(db, stretch, level)) for stretch in stretches]
    return [thin(each, max(1, max_points * len(each) // max(1, sum(map(len, bars))))) for each in bars]


def level_for(steps: int, max_points: int) -> int:
    """The finest level at which that many steps make at most `max_points` buckets."""
    level = 0
    while level < LEVELS and steps > max_points * BASE**level:
        level += 1
    return level


def thin(bars: list[Bar], limit: int) -> list[Bar]:
    """At most `limit` bars with the same lows and highs, made by joining neighbours."""
    if len(bars) <= limit:
        return bars
    size = math.ceil(len(bars) / limit)
    return [_join(bars[start : start + size]) for start in range(0, len(bars), size)]


def _join(bars: list[Bar]) -> Bar:
    finite = [bar for bar in bars if bar.value is not None]
    count = sum(bar.n for bar in finite)
    return Bar(
        step=bars[len(bars) // 2].step,
        n=count,
        value=sum(bar.value * bar.n for bar in finite if bar.value is not None) / count if count else None,
        low=min((bar.low for bar in finite if bar.low is not None), default=None),
        high=max((bar.high for bar in finite if bar.high is not None), default=None),
    )


def _fits(db: sqlite3.Connection, stretches: Sequence[Stretch], limit: int) -> bool:
    count = 0
    for stretch in stretches:
        # The inner LIMIT bounds the cost: a full count would read every point of a long run.
        count += db.execute(
            "SELECT count(*) FROM (SELECT 1 FROM point WHERE segment=? AND series=? AND step BETWEEN ? AND ? LIMIT ?)",
            (stretch.segment, stretch.series, stretch.first, stretch.last, limit + 1 - count),
        ).fetchone()[0]
        if count > limit:
            return False
    return True


def _points(db: sqlite3.Connection, stretch: Stretch) -> Iterator[Bar]:
    first = stretch.first
    while True:
        rows = db.execute(
            "SELECT step, value FROM point WHERE segment=? AND series=? AND step BETWEEN ? AND ? ORDER BY step LIMIT ?",
            (stretch.segment, stretch.series, first, stretch.last, _PAGE),
        ).fetchall()
        for step, value in rows:
            yield Bar(step, 1, value, value, value)
        if len(rows) < _PAGE:
            return
        first = rows[-1][0] + 1


def _cover(db: sqlite3.Connection, stretch: Stretch, level: int) -> Iterator[Bar]:
    """The stretch from rows of `level` where these lie wholly inside it, and from finer ones at its ends."""
    if level == 0:
        yield from _points(db, stretch)
        return
    width = BASE**level
    newest = last_step(db, stretch.segment, stretch.series)
    low = -(-stretch.first // width)
    high = 0 if newest is None else (min(stretch.last, newest) + 1) // width
    if low >= high:
        yield from _cover(db, stretch, level - 1)
        return
    if stretch.first < low * width:
        yield from _cover(db, Stretch(stretch.segment, stretch.series, stretch.first, low * width - 1), level - 1)
    yield from _buckets(db, stretch, level, low, high)
    if stretch.last >= high * width:
        yield from _cover(db, Stretch(stretch.segment, stretch.series, high * width, stretch.last), level - 1)


def _buckets(db: sqlite3.Connection, stretch: Stretch, level: int, low: int, high: int) -> Iterator[Bar]:
    width = BASE**level
    while low < high:
        rows = db.execute(
            "SELECT bucket, n, min, max, sum FROM rollup"
            " WHERE segment=? AND series=? AND level=? AND bucket >= ? AND bucket < ? ORDER BY bucket LIMIT ?",
            (stretch.segment, stretch.series, level, low, high, _PAGE),
        ).fetchall()
        for bucket, n, least, most, total in rows:
            yield Bar(bucket * width + width // 2, n, total / n if n else None, least, most)
        if len(rows) < _PAGE:
            return
        low = rows[-1][0] + 1
