"""The last steps of a run as ring windows of named channels, blocks of ten steps behind them, and robust statistics.
Holds only figures that are equal in two runs of the same steps, and `clock` beside them; it judges nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumina.orchestrator.clock import Clock

Floats = NDArray[np.float64]

CORE = (
    "loss",
    "grad_norm",
    "learning_rate",
    "learning_rate.scheduled",
    "lr_scale",
    "accuracy",
    "data.position",
    "moe.drop_fraction",
    "moe.load_balance_loss",
    "moe.load_entropy",
    "moe.expert_efficiency",
    "mod.capacity_factor",
    "mod.capacity_utilization",
    "mod.average_depth",
    "mod.gate",
    "mod.predictor_agreement",
    "mod.compute_savings",
)
FEWEST_ROWS, MOST_ROWS = 30, 128
BLOCK, MOST_BLOCKS, MOST_VALIDATIONS = 10, 256, 64
NORMAL_MAD = 1.4826  # the MAD of a normal distribution times this is its standard deviation


def entropy_name(layer: int) -> str:
    """The series of one layer's routing entropy."""
    return f"moe.routing_entropy.layer{layer}"


def median(values: Floats) -> float:
    """Median of the finite values; NaN without any."""
    kept = values[np.isfinite(values)]
    return float(np.median(kept)) if kept.size else math.nan


def spread(values: Floats) -> float:
    """Robust standard deviation: 1.4826 x median absolute deviation of the finite values; 0 without any."""
    kept = values[np.isfinite(values)]
    return float(NORMAL_MAD * np.median(np.abs(kept - np.median(kept)))) if kept.size else 0.0


def noise(values: Floats) -> float:
    """Robust standard deviation of what is left without the trend: neighbours differ by noise and hardly by trend."""
    kept = values[np.isfinite(values)]
    return spread(np.diff(kept)) / math.sqrt(2) if kept.size > 1 else 0.0


@dataclass(frozen=True)
class Block:
    """Ten steps that ended with `step`: medians of loss and gradient norm, and how far the loss strayed from its own.

    Missing figures are NaN.
    """

    step: int
    loss: float
    stray: float
    grad_norm: float


@dataclass(frozen=True)
class Reference:
    """What loss and gradient norm usually are just now: level and robust deviation, from the blocks before the last."""

    loss: float
    loss_noise: float
    grad_norm: float
    grad_noise: float


class Signals:
    """Ring windows over the last `rows` steps. Non-finite and missing figures are NaN in them.

    `since_check` counts steps and non-finite steps since the last health check; `load` sums the expert loads of those
    steps, `[layers with experts, expert slots]`. `blocks` reach back further, `validations` are (step, validation
    loss with the training-time choice of tokens, training loss about then).
    """

    def __init__(self, moe_layers: Sequence[int], check_interval: int) -> None:
        self.rows = min(max(check_interval, FEWEST_ROWS), MOST_ROWS)
        self.check_interval = check_interval
        self.layers = tuple(moe_layers)
        self.clock = Clock(self.rows)
        self._read = (*CORE, *(entropy_name(layer) for layer in self.layers))
        self._channels = {name: index for index, name in enumerate(self._read)}
        self._ring: Floats = np.full((self.rows, len(self._read) + 2 * len(self.layers)), np.nan)
        self._steps = np.zeros(self.rows, np.int64)
        self._next = 0
        self._filled = 0
        self.since_check = {"steps": 0, "non_finite": 0}
        self._load: Floats | None = None
        self._load_steps = 0
        self._load_before: Floats | None = None  # mean loads between the two checks before
        self.live: list[int] = []
        self.alive: list[list[bool]] = []
        self.blocks: list[Block] = []
        self.validations: list[tuple[int, float, float]] = []
        self.first_loss = math.nan
        self._in_block = 0
        self.reference: Reference | None = None

    def observe(self, step: int, series: Mapping[str, float], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Takes one step in. Cheap: a row of the ring and a sum of expert loads; every tenth step a few medians."""
        row = [series.get(name, math.nan) for name in self._read]
        self.since_check["steps"] += 1
        if not math.isfinite(row[0]) or ("grad_norm" in series and not math.isfinite(row[1])):
            self.since_check["non_finite"] += 1
        live = arrays.get("expert_live")
        if live is not None and live.shape[0] == len(self.layers):
            alive = live.astype(bool)
            self.alive = alive.tolist()
            self.live = [int(count) for count in alive.sum(axis=1)]
        load = arrays.get("expert_load")
        if load is not None and load.shape[0] == len(self.layers) and load.size:
            row.extend(load.max(axis=1).tolist())
            row.extend(self._least(load))
            self._sum_load(load)
        else:
            row.extend([math.nan] * 2 * len(self.layers))
        self._ring[self._next] = row
        self._steps[self._next] = step
        self._next = (self._next + 1) % self.rows
        self._filled = min(self._filled + 1, self.rows)
        self._to_blocks(step, series)
        self.clock.observe(step, series)

    def _least(self, load: NDArray[Any]) -> list[float]:
        """The smallest share of a live expert of each layer, in multiples of the fair share."""
        alive = np.array(self.alive) if self.alive else np.ones(load.shape, dtype=bool)
        if alive.shape != load.shape:
            return [math.nan] * len(load)
        return (np.where(alive, load, np.inf).min(axis=1) * alive.sum(axis=1)).tolist()  # type: ignore[no-any-return]

    def _sum_load(self, load: NDArray[Any]) -> None:
        if self._load is None or self._load.shape != load.shape:
            self._load = np.zeros(load.shape)
            self._load_steps = 0
        self._load += load
        self._load_steps += 1

    def _to_blocks(self, step: int, series: Mapping[str, float]) -> None:
        loss = float(series.get("loss", math.nan))
        if math.isnan(self.first_loss) and math.isfinite(loss):
            self.first_loss = loss
        self._in_block += 1
        if self._in_block >= BLOCK:
            self._in_block = 0
            losses = self.last("loss", BLOCK)
            self.blocks.append(Block(step, median(losses), spread(losses), median(self.last("grad_norm", BLOCK))))
            del self.blocks[:-MOST_BLOCKS]
            self.reference = reference_of(self.blocks)
        # By top-k where there is Mixture of Depths: the predictor of sampling lags while the share of tokens falls.
        validated = float(series.get("val_loss_topk", series.get("val_loss", math.nan)))
        if math.isfinite(validated):
            self.validations.append((step, validated, median(self.last("loss", BLOCK))))
            del self.validations[:-MOST_VALIDATIONS]

    @property
    def full(self) -> bool:
        """True once the windows are as long as they get."""
        return self._filled == self.rows

    @property
    def count(self) -> int:
        """Steps in the windows."""
        return self._filled

    def steps(self) -> list[int]:
        """The steps in the windows, oldest first."""
        return [int(step) for step in self._ordered(self._steps)]

    def window(self, name: str) -> Floats:
        """One channel, oldest step first."""
        return self._finite(self._channels[name])

    def last(self, name: str, count: int) -> Floats:
        """The newest `count` figures of a channel, oldest first; fewer where there are fewer."""
        count = min(count, self._filled)
        at = (self._next - count + np.arange(count)) % self.rows
        values: Floats = self._ring[at, self._channels[name]]
        values[~np.isfinite(values)] = np.nan
        return values

    def max_share(self, layer: int) -> Floats:
        """The busiest expert's share of a layer's assignments, oldest step first."""
        return self._finite(len(self._read) + self.layers.index(layer))

    def least_share(self, layer: int) -> Floats:
        """The smallest share of a live expert of a layer, in multiples of the fair share, oldest step first."""
        return self._finite(len(self._read) + len(self.layers) + self.layers.index(layer))

    def mean_load(self, layer: int) -> Floats | None:
        """Mean share of assignments of each expert slot since the last check; None without any."""
        if self._load is None or not self._load_steps:
            return None
        mean: Floats = self._load[self.layers.index(layer)] / self._load_steps
        return mean

    def mean_load_before(self, layer: int) -> Floats | None:
        """As `mean_load`, of the steps between the last check and the one before it."""
        mean: Floats | None = None if self._load_before is None else self._load_before[self.layers.index(layer)]
        return mean

    def live_experts(self, layer: int, otherwise: int) -> int:
        """Experts of a layer that take tokens."""
        return self.live[self.layers.index(layer)] if self.live else otherwise

    def alive_experts(self, layer: int) -> list[bool] | None:
        """Which expert slots of a layer take tokens; None where nothing was told."""
        return self.alive[self.layers.index(layer)] if self.alive else None

    def checked(self) -> None:
        """Starts counting anew after a health check."""
        self.since_check = {"steps": 0, "non_finite": 0}
        self._load_before = None if self._load is None else self._load / self._load_steps
        self._load, self._load_steps = None, 0
        self.clock.checked()

    def state(self) -> dict[str, Any]:
        """Plain JSON; the rings in the order of time, so that it does not depend on where they began."""
        return {
            "steps": self.steps(),
            "rows": [[_plain(value) for value in row] for row in self._ordered(self._ring).tolist()],
            "since_check": dict(self.since_check),
            "load": None if self._load is None else self._load.tolist(),
            "load_steps": self._load_steps,
            "load_before": None if self._load_before is None else self._load_before.tolist(),
            "live": list(self.live),
            "alive": [list(row) for row in self.alive],
            "blocks": [[b.step, _plain(b.loss), _plain(b.stray), _plain(b.grad_norm)] for b in self.blocks],
            "in_block": self._in_block,
            "validations": [[step, value, _plain(loss)] for step, value, loss in self.validations],
            "first_loss": _plain(self.first_loss),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from `state`. Raises ValueError when it was taken of another model or another window."""
        rows = np.array([[_number(value) for value in row] for row in state["rows"]], np.float64)
        rows = rows.reshape(-1, self._ring.shape[1]) if rows.size == 0 else rows
        if rows.shape[1] != self._ring.shape[1] or rows.shape[0] > self.rows:
            raise ValueError(
                f"the orchestrator's state has {rows.shape[0]} steps of {rows.shape[1]} signals; "
                f"this run keeps {self.rows} steps of {self._ring.shape[1]}"
            )
        count = rows.shape[0]
        self._ring.fill(np.nan)
        self._ring[:count] = rows
        self._steps[:count] = state["steps"]
        self._filled, self._next = count, count % self.rows
        self.since_check = dict(state["since_check"])
        self._load = None if state["load"] is None else np.array(state["load"], np.float64)
        self._load_steps = int(state["load_steps"])
        before = state.get("load_before")
        self._load_before = None if before is None else np.array(before, np.float64)
        self.live = [int(count) for count in state["live"]]
        self.alive = [[bool(value) for value in row] for row in state["alive"]]
        self.blocks = [Block(int(row[0]), *(_number(value) for value in row[1:])) for row in state["blocks"]]
        self._in_block = int(state["in_block"])
        self.validations = [(int(row[0]), float(row[1]), _number(row[2])) for row in state["validations"]]
        self.first_loss = _number(state["first_loss"])
        self.reference = reference_of(self.blocks)
        self.clock = Clock(self.rows)

    def _finite(self, channel: int) -> Floats:
        values: Floats = self._ordered(self._ring[:, channel]).copy()
        values[~np.isfinite(values)] = np.nan
        return values

    def _ordered(self, ring: NDArray[Any]) -> NDArray[Any]:
        if self._filled < self.rows:
            return ring[: self._filled]
        return np.concatenate([ring[self._next :], ring[: self._next]])


def reference_of(blocks: Sequence[Block]) -> Reference | None:
    """The usual loss and gradient norm before the newest block; None before there are three blocks.

    The newest block is left out, so that trouble that has just begun does not count as usual. Level: median of the
    three blocks before it. Deviation: the larger of the median stray within blocks and the robust deviation between
    the medians of the twelve blocks before it, free of trend.
    """
    if len(blocks) < 3:
        return None
    before = blocks[-13:-1]
    losses = np.array([block.loss for block in before])
    norms = np.array([block.grad_norm for block in before])
    within = median(np.array([block.stray for block in before]))
    level = median(losses[-3:])
    if not math.isfinite(level):
        return None
    return Reference(
        loss=level,
        loss_noise=max(within if math.isfinite(within) else 0.0, noise(losses)),
        grad_norm=median(norms),
        grad_noise=spread(norms),
    )


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
