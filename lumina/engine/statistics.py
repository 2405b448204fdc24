"""Figures of one optimizer step, gathered on the device and brought to the host in one transfer."""

# E experts
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.model import ModelOutput, Transformer

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StepValues:
    """What a step was, as plain numbers."""

    loss_sum: float
    correct: float
    total_loss: float
    grad_norm: float
    series: dict[str, float]
    arrays: dict[str, NDArray[Any]]


class StepFigures:
    """Collects the statistics of the micro-batches of one step.

    - routing_entropy: entropy of the mean router probability over log(live experts), 0 to 1; load_entropy: the same of
      the realised shares; max_share: the largest realised share; each the mean over layers.
    - expert_efficiency: share of assignments that were computed, times load_entropy.
    - compute_savings: 1 - (tokens computed in a layer / tokens), mean over all layers.
    """

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._rows: list[Tensor] = []
        self._outputs: list[ModelOutput] = []

    def add(self, output: ModelOutput, total: Tensor) -> None:
        """Takes one micro-batch; nothing is copied to the host yet."""
        parts = [torch.stack((output.loss_sum, output.correct, output.auxiliary, total)).detach().float()]
        for layer in output.layers:
            if layer.moe is not None:
                moe = layer.moe
                parts += [moe.probability_E, moe.share_E, moe.live_E.float()]
                parts.append(torch.stack((moe.dropped, moe.balance_loss.detach())))
            if layer.mod is not None:
                mod = layer.mod
                parts.append(torch.stack((mod.chosen, mod.agreement, mod.predictor_loss.detach())))
        self._rows.append(torch.cat(parts))
        self._outputs.append(output)

    def collect(self, grad_norm: Tensor) -> StepValues:
        """The one transfer of the step."""
        flat = torch.cat((torch.stack(self._rows).reshape(-1), grad_norm.detach().float().reshape(1)))
        numbers = flat.cpu().numpy().astype(np.float64)
        rows = numbers[:-1].reshape(len(self._rows), -1)
        head, series, arrays = rows[:, :4].sum(0), {}, {}
        load, live, depth, cursor = [], [], [], 4
        moe_rows, mod_rows = [], []
        for index, layer in enumerate(self._outputs[0].layers):
            usage = 1.0
            if layer.moe is not None:
                width = len(layer.moe.share_E)
                probability, share, alive = (rows[:, cursor + i * width : cursor + (i + 1) * width] for i in range(3))
                cursor += 3 * width
                dropped, balance = rows[:, cursor].sum(), rows[:, cursor + 1].mean()
                cursor += 2
                count = sum(output.layers[index].moe.assignments for output in self._outputs)  # type: ignore[union-attr,misc]
                figures = _moe_figures(probability.mean(0), share.mean(0), alive[0], dropped, balance, count)
                series[f"moe.routing_entropy.layer{index}"] = figures["routing_entropy"]
                moe_rows.append(figures)
                load.append(share.mean(0))
                live.append(alive[0])
            if layer.mod is not None:
                tokens = sum(output.layers[index].mod.tokens for output in self._outputs)  # type: ignore[union-attr,misc]
                chosen = rows[:, cursor].sum()
                usage = chosen / tokens
                series[f"mod.usage.layer{index}"] = usage
                mod_rows.append((chosen, tokens - chosen, rows[:, cursor + 1].mean(), rows[:, cursor + 2].mean()))
                cursor += 3
            depth.append(usage)
        series.update(_moe_series(moe_rows))
        series.update(_mod_series(mod_rows, depth, self._model.knobs.mod_capacity_factor))
        arrays["depth"] = np.array(depth, dtype=np.float32)
        if load:
            arrays["expert_load"] = _ragged(load)
            arrays["expert_live"] = _ragged(live)
        return StepValues(head[0], head[1], float(head[3]), float(numbers[-1]), series, arrays)


def _moe_figures(probability: Floats, share: Floats, live: Floats, dropped: float, balance: float,
                 assignments: int) -> dict[str, float]:  # fmt: skip
    experts = max(2.0, live.sum())
    load = _entropy(share) / math.log(experts)
    return {
        "routing_entropy": _entropy(probability) / math.log(experts),
        "load_entropy": load,
        "load_balance_loss": float(balance),
        "tokens_dropped": float(dropped),
        "drop_fraction": float(dropped) / assignments,
        "expert_efficiency": (1.0 - float(dropped) / assignments) * load,
        "max_share": float(share.max()),
    }


def _moe_series(rows: list[dict[str, float]]) -> dict[str, float]:
    if not rows:
        return {}
    mean = {f"moe.{name}": sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    mean["moe.tokens_dropped"] = sum(row["tokens_dropped"] for row in rows)
    return mean


def _mod_series(rows: list[tuple[float, float, float, float]], depth: list[float], capacity: float) -> dict[str, float]:
    if not rows:
        return {}
    processed, skipped, agreement, loss = (float(sum(column)) for column in zip(*rows, strict=True))
    return {
        "mod.tokens_processed": processed,
        "mod.tokens_skipped": skipped,
        "mod.predictor_agreement": agreement / len(rows),
        "mod.predictor_loss": loss / len(rows),
        "mod.capacity_utilization": processed / (processed + skipped) / capacity,
        "mod.average_depth": float(sum(depth)),
        "mod.compute_savings": 1.0 - float(sum(depth)) / len(depth),
    }


def _entropy(share: Floats) -> float:
    positive = share[share > 0]
    return float(-(positive * np.log(positive)).sum())


def _ragged(rows: list[Floats]) -> NDArray[np.float32]:
    """Rows of different length as one array, padded with zeros (layers may have gained experts)."""
    table = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.float32)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table
