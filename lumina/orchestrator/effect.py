"""What an intervention did to the loss: the steps after it against the trend of the steps before it.

Holds the last steps and which interventions are being measured; whose they are and what they changed it must not know.

y = log(loss) is taken as a straight line in x = log(step), which a power law is, locally. Slope and level are fitted on
the steps before by Theil and Sen (the median of all pairwise slopes; Sen, JASA 63, 1968), which a quarter of outliers
does not move. With n steps before and m after, at distance d in x, and residuals of robust deviation s (1.4826 MAD)
before and s' after:

effect    e = median over the steps after, without the first quarter, of y - line; the loss changed by exp(e) - 1
band      b = 3 r sqrt(1.57 s^2/n + 1.57 s'^2/m + 1.1 s^2 d^2 / sum((x - mean x)^2)) + bend
          r^2 = (1 + q) / (1 - q) for residuals whose lag-one correlation q is 0 to 0.8; 1.57 = pi/2 is what a median
          costs against a mean; bend = half the curvature of the steps before x (d^2 - var x), as far as the slopes of
          their halves differ by more than one standard error, and at most what the line itself falls over d
verdict   helped or hurt where |e| > max(b, 0.005); neutral within a band of at most 0.1; else inconclusive, as where
          too few steps are finite, or where another intervention is within one window (confounded)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumina.orchestrator.signals import Floats, median, spread
from lumina.orchestrator.types import Finding

SIGMAS = 3.0
SHORTEST, LONGEST = 30, 128  # steps after, that a measurement takes
SMALLEST = 0.005  # relative change of the loss that counts
WIDEST = 0.1  # a band beyond this says nothing
FEWEST = 10  # finite steps needed on either side
SETTLE = 4  # the first 1/SETTLE of the steps after is left out of the verdict
MEDIAN_COST = math.pi / 2
CAUSE = "hurt"  # of the finding that asks for an undo

KEPT = ("loss", "grad_norm", "moe.routing_entropy", "moe.drop_fraction", "moe.max_share", "mod.compute_savings")
CLOCKED = ("throughput", "memory_rss")  # differ between two runs of the same steps: shown, never kept or judged
AIMS: dict[str, tuple[str, ...]] = {
    "router": ("moe.routing_entropy", "moe.drop_fraction"),
    "experts": ("moe.max_share", "moe.drop_fraction"),
    "depth": ("mod.compute_savings", "throughput"),
    "optimizer": ("grad_norm",),
    "data": ("throughput", "memory_rss"),
}
"""What an intervention affects → the series that it aims at, reported beside the loss."""


@dataclass(frozen=True)
class Trend:
    """The line y = level + slope (x - centre) through the steps before, and how far it can be trusted."""

    level: float
    slope: float
    centre: float
    noise: float
    inertia: float  # sum of (x - centre)^2
    correlation: float
    curvature: float
    count: int

    def at(self, x: Floats) -> Floats:
        return self.level + self.slope * (x - self.centre)


@dataclass(frozen=True)
class Measured:
    """`state` is helped, neutral, hurt or inconclusive; `change` and `band` are relative to the expected loss."""

    state: str
    change: float | None
    band: float | None
    confidence: float
    first_step: int
    last_step: int
    before: float | None
    expected: float | None
    after: float | None
    signals: dict[str, dict[str, float | None]]
    confounded_by: tuple[int, ...] = ()

    def to_json(self, aims: Sequence[str]) -> dict[str, Any]:
        doc = dataclasses.asdict(self)
        doc.pop("confounded_by")
        doc["signals"] = {name: self.signals[name] for name in aims if name in self.signals}
        return {**doc, "summary": self.summary(aims)}

    def summary(self, aims: Sequence[str] = ()) -> str:
        """The verdict in a sentence."""
        if self.confounded_by:
            said = "another intervention lies within the same steps"
        elif self.change is None or self.band is None:
            said = "too few steps with a finite loss"
        else:
            said = f"loss {self.change:+.2%} against its trend (noise band ±{self.band:.2%})"
        moved = [_moved(name, self.signals[name]) for name in aims if name in self.signals]
        return "; ".join([said, *[text for text in moved if text]])


def _moved(name: str, signal: Mapping[str, float | None]) -> str:
    before, after = signal["before"], signal["after"]
    if before is None or after is None:
        return ""
    return f"{name.rpartition('.')[2].replace('_', ' ')} {before:.4g} → {after:.4g}"


class EffectMeter:
    """Measures what was applied. A pending measurement is (number of the intervention, step); numbers are the caller's,
    so that two runs with other ids keep the same state."""

    def __init__(self, check_interval: int) -> None:
        self.window = min(max(check_interval, SHORTEST), LONGEST)
        self._rows: list[list[float]] = []  # step, then KEPT
        self._clocked: list[list[float]] = []
        self._pending: list[tuple[int, int]] = []
        # (number, step, number of the first that was made for the same proposal) of all that a window still reaches
        self._recent: list[tuple[int, int, int]] = []
        self._hurt: list[dict[str, Any]] = []

    def observe(self, step: int, series: Mapping[str, float]) -> None:
        """Takes one step in."""
        self._rows.append([float(step), *(series.get(name, math.nan) for name in KEPT)])
        self._clocked.append([float(step), *(series.get(name, math.nan) for name in CLOCKED)])
        del self._rows[: -3 * self.window], self._clocked[: -3 * self.window]

    def applied(self, step: int, number: int, group: int | None = None) -> int:
        """Begins to measure intervention `number`, applied after `step`; returns the step at which it will be known.

        Those with the same `group` were made together, for one proposal: they are measured as one.
        """
        kept = [one for one in self._recent if one[1] > step - 3 * self.window]
        self._recent = [*kept, (number, step, number if group is None else group)]
        self._pending.append((number, step))
        return step + self.window

    def intervened(self) -> tuple[int, ...]:
        """The steps after which something was lately applied."""
        return tuple(step for _, step, _ in self._recent)

    def forget(self) -> None:
        """Leaves out every intervention so far, and keeps the steps."""
        self._pending, self._recent, self._hurt = [], [], []

    def conclude(self, step: int, *, finished: bool = False) -> list[tuple[int, Measured]]:
        """What is known after `step`; with `finished`, as much as the steps so far tell of all that is pending."""
        due = [pair for pair in self._pending if finished or step >= pair[1] + self.window]
        self._pending = [pair for pair in self._pending if pair not in due]
        return [(number, self._measure(number, at)) for number, at in due]

    def _measure(self, number: int, at: int) -> Measured:
        own = next(group for other, _, group in self._recent if other == number)
        near = [(other, when) for other, when, group in self._recent if group != own]
        confounded = tuple(other for other, when in near if abs(when - at) < self.window)
        start = max([at - 2 * self.window, *(when for _, when in near if when <= at - self.window)])
        rows = np.array(self._rows, np.float64).reshape(-1, 1 + len(KEPT))
        before = rows[(rows[:, 0] > start) & (rows[:, 0] <= at)]
        after = rows[(rows[:, 0] > at) & (rows[:, 0] <= at + self.window)]
        signals = {**_signals(KEPT, before, after), **self._clocked_signals(at)}
        measured = compare(before[:, :2], after[:, :2])
        state = "inconclusive" if confounded else measured.state
        return dataclasses.replace(measured, state=state, confounded_by=confounded, signals=signals)

    def _clocked_signals(self, at: int) -> dict[str, dict[str, float | None]]:
        rows = np.array(self._clocked, np.float64).reshape(-1, 1 + len(CLOCKED))
        steps = rows[:, 0]
        before, after = (
            rows[(steps > at - self.window) & (steps <= at)],
            rows[(steps > at) & (steps <= at + self.window)],
        )
        return _signals(CLOCKED, before, after)

    # What asks for an undo

    def remember_hurt(self, number: int, measured: Measured) -> None:
        """Intervention `number` made things worse: `findings` asks for its undo until that is answered."""
        doc = {"number": number, "summary": measured.summary(), "confidence": round(measured.confidence, 4),
               "first_step": measured.first_step, "last_step": measured.last_step, "change": measured.change,
               "band": measured.band, "asked": False}  # fmt: skip
        self._hurt.append(doc)

    def findings(
        self, applied: Sequence[Mapping[str, Any]], open_proposals: Sequence[Mapping[str, Any]]
    ) -> list[Finding]:
        """One finding per change that hurt, is still in force, and was not answered for yet."""
        undone = {doc.get("undoes") for doc in applied}
        waiting = {proposal["cause"] for proposal in open_proposals}
        kept, found = [], []
        for hurt in self._hurt:
            receipt = applied[hurt["number"]]
            cause = f"{CAUSE}/{hurt['number']}"
            if receipt["id"] in undone or (hurt["asked"] and cause not in waiting):
                continue
            kept.append({**hurt, "asked": True})
            found.append(_undo_finding(cause, receipt, hurt))
        self._hurt = kept
        return found

    def state(self) -> dict[str, Any]:
        """Plain JSON; nothing in it depends on the clock or on ids."""
        rows = [[value if math.isfinite(value) else None for value in row] for row in self._rows]
        return {
            "rows": rows,
            "pending": [list(pair) for pair in self._pending],
            "recent": [list(one) for one in self._recent],
            "hurt": [dict(doc) for doc in self._hurt],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._rows = [[math.nan if value is None else float(value) for value in row] for row in state["rows"]]
        self._clocked = []
        self._pending = [(int(number), int(step)) for number, step in state["pending"]]
        self._recent = [(int(number), int(step), int(group)) for number, step, group in state["recent"]]
        self._hurt = [dict(doc) for doc in state["hurt"]]


def compare(before: Floats, after: Floats) -> Measured:
    """The verdict on two arrays of (step, loss). Steps whose loss is not finite and above zero are left out."""
    early, late = _usable(before), _usable(after)
    first = int(before[0, 0]) if len(before) else 0
    last = int(after[-1, 0]) if len(after) else 0
    settled = late[len(late) // SETTLE :]
    if len(early) < FEWEST or len(settled) < FEWEST:
        lone = median(late[:, 1]) if len(late) else None
        return Measured("inconclusive", None, None, 0.0, first, last, None, None, lone, {})
    trend = fit_trend(np.log(early))
    points = np.log(settled)
    residuals = points[:, 1] - trend.at(points[:, 0])
    effect = float(np.median(residuals))
    deviation, bend = _uncertainty(trend, points[:, 0], spread(residuals))
    band = SIGMAS * deviation + bend
    limit = max(band, SMALLEST)
    if abs(effect) > limit:
        state = "hurt" if effect > 0 else "helped"
    else:
        state = "neutral" if band <= WIDEST else "inconclusive"
    level = float(np.exp(np.median(trend.at(points[:, 0]))))
    sure = 0.5 * (1 + math.erf((abs(effect) - SMALLEST - bend) / max(deviation, 1e-12) / math.sqrt(2)))
    return Measured(state, math.expm1(effect), math.expm1(limit), sure, first, last, float(np.exp(trend.level)),
                    level, level * math.exp(effect), {})  # fmt: skip


def fit_trend(points: Floats) -> Trend:
    """The robust line through points (x, y), with the noise around it and how it bends."""
    x, y = points[:, 0], points[:, 1]
    slope = _slope(x, y)
    centre = float(x.mean())
    level = float(np.median(y - slope * (x - centre)))
    residuals = y - level - slope * (x - centre)
    noise, inertia = spread(residuals), float(((x - centre) ** 2).sum())
    return Trend(level, slope, centre, noise, inertia, _lag_one(residuals, noise), _curvature(x, y, noise), len(x))


def _slope(x: Floats, y: Floats) -> float:
    first, second = np.triu_indices(len(x), 1)
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))


def _lag_one(residuals: Floats, noise: float) -> float:
    if noise <= 0:
        return 0.0
    kept = np.clip(residuals, -3 * noise, 3 * noise)
    total = float((kept**2).sum())
    return min(max(float((kept[1:] * kept[:-1]).sum()) / total, 0.0), 0.8) if total > 0 else 0.0


def _curvature(x: Floats, y: Floats, noise: float) -> float:
    """Second derivative by the slopes of both halves, less one standard error of their difference."""
    half = len(x) // 2
    early, late = x[:half], x[half:]
    error = noise * math.sqrt(1 / max(_inertia(early), 1e-12) + 1 / max(_inertia(late), 1e-12))
    difference = abs(_slope(late, y[half:]) - _slope(early, y[:half]))
    return max(0.0, difference - error) / max(float(late.mean() - early.mean()), 1e-12)


def _inertia(x: Floats) -> float:
    return float(((x - x.mean()) ** 2).sum())


def _uncertainty(trend: Trend, x: Floats, noise_after: float) -> tuple[float, float]:
    """Standard error of the effect, and what the bend of the curve may add to it."""
    distance = float(np.median(x)) - trend.centre
    variance = MEDIAN_COST * (trend.noise**2 / trend.count + noise_after**2 / len(x))
    variance += 1.1 * trend.noise**2 * distance**2 / max(trend.inertia, 1e-12)
    variance *= (1 + trend.correlation) / (1 - trend.correlation)
    bend = 0.5 * trend.curvature * max(0.0, distance**2 - trend.inertia / trend.count)
    return math.sqrt(variance), min(bend, abs(trend.slope) * distance)


def _usable(points: Floats) -> Floats:
    kept: Floats = points[np.isfinite(points[:, 1]) & (points[:, 1] > 0)]
    return kept


def _signals(names: Sequence[str], before: Floats, after: Floats) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for column, name in enumerate(names, start=1):
        pair = {"before": _middle(before[:, column]), "after": _middle(after[:, column])}
        if pair["before"] is not None or pair["after"] is not None:
            found[name] = pair
    return found


def _middle(values: Floats) -> float | None:
    middle = median(values)
    return middle if math.isfinite(middle) else None


def _undo_finding(cause: str, receipt: Mapping[str, Any], hurt: Mapping[str, Any]) -> Finding:
    summary = f"{receipt['method']} at step {receipt['step']} made things worse: {hurt['summary']}."
    evidence = {
        "summary": f"{summary} Undo takes it back.",
        "numbers": {"method": receipt["method"], "change": hurt["change"], "band": hurt["band"]},
        "window": {"first_step": hurt["first_step"], "last_step": hurt["last_step"]},
        "threshold": hurt["band"],
    }
    return Finding(cause, float(hurt["confidence"]), "warning", evidence, "undo", {"receipt": receipt["id"]})
