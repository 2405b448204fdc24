"""Figures of one optimizer step, gathered on the device and brought to the host in one transfer.
It computes what a step was; it must not know what anyone makes of it."""

# L layers   E experts   P buckets of positions   R micro-batches
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lumina.accounting import compute_savings
from lumina.config import Config
from lumina.model import ModelOutput, Transformer
from lumina.model.mod import ModStats
from lumina.model.moe import MoEStats

Floats = NDArray[np.float64]
POSITIONS = 32  # buckets of the skip pattern


@dataclass(frozen=True)
class StepValues:
    """What a step was, as plain numbers."""

    loss_sum: float
    correct: float
    total_loss: float
    grad_norm: float
    series: dict[str, float]
    arrays: dict[str, NDArray[Any]]
    sequence_losses: Floats


class StepFigures:
    """Collects the statistics of the micro-batches of one step.

    Of each layer with experts, as `moe.NAME.layerN`, and as their mean over layers (tokens_dropped: sum), `moe.NAME`:
    - routing_entropy: entropy of the mean router probability over log(live experts), 0 to 1 (1 of a lone expert);
      load_entropy: the same of the realised shares; max_share: the largest realised share;
    - expert_efficiency: share of assignments that were computed, times load_entropy;
    - load_balance_loss, tokens_dropped, drop_fraction; router_z_loss where it has a weight.
    Of each layer with MoD: `mod.usage.layerN`, tokens computed in the layer over tokens. Of all layers:
    - average_depth: layers that a token went through, mean over tokens; compute_savings: see `accounting`;
    - capacity_factor: the share asked for at this step; capacity_utilization: the share chosen over it;
    - gate: mean factor on what MoD layers add to their tokens.
    Arrays: expert_load [L, E] (shares), expert_live [L, E], expert_efficiency [L, E], depth [L] (usage),
    depth_histogram [MoD layers + 1] (share of tokens that went through 0, 1, ... of the MoD layers), skip_pattern [MoD
    layers, P] (share of tokens chosen, by position in the sequence). One expert's efficiency is its utilisation,
    min(1, live experts * computed share), times its quality, k * the mean routing weight of the tokens it computed.

    Without `telemetry` only losses and the gradient norm are taken.
    """

    def __init__(self, model: Transformer, telemetry: bool = True) -> None:
        self._model, self._telemetry = model, telemetry
        self._outputs: list[ModelOutput] = []
        self._transfer = _Transfer()

    def add(self, output: ModelOutput, total: Tensor) -> None:
        """Takes one micro-batch; nothing is copied to the host yet."""
        put = self._transfer
        put.begin()
        put("head", torch.stack((output.loss_sum, output.correct, total)))
        put("sequences", output.loss_B)
        if self._telemetry:
            for index, layer in enumerate(output.layers):
                if layer.moe is not None:
                    _put_moe(put, f"moe{index}", layer.moe)
                if layer.mod is not None:
                    mod = layer.mod
                    put(f"mod{index}", torch.stack((mod.chosen, mod.gate, mod.agreement, mod.predictor_loss)))
            _put_masks(put, [layer.mod for layer in output.layers if layer.mod is not None])
        self._outputs.append(output)

    def collect(self, grad_norm: Tensor) -> StepValues:
        """The one transfer of the step."""
        rows, norm = self._transfer.fetch(grad_norm)
        head = rows["head"].sum(0)
        series: dict[str, float] = {}
        arrays: dict[str, NDArray[Any]] = {}
        if self._telemetry:
            self._experts(rows, series, arrays)
            self._depth(rows, series, arrays)
        sequences = rows["sequences"].reshape(-1)
        return StepValues(float(head[0]), float(head[1]), float(head[2]), norm, series, arrays, sequences)

    def _experts(self, rows: dict[str, Floats], series: dict[str, float], arrays: dict[str, NDArray[Any]]) -> None:
        table = _Experts(self._model.config)
        for index in range(len(self._outputs[0].layers)):
            stats = [output.layers[index].moe for output in self._outputs]
            if stats[0] is not None:
                assignments = sum(one.assignments for one in stats if one is not None)
                table.add(index, rows[f"moe{index}"], len(stats[0].share_E), assignments)
        series.update(table.series())
        if table.rows:
            arrays["expert_load"] = _ragged(table.load)
            arrays["expert_live"] = _ragged(table.live)
            arrays["expert_efficiency"] = _ragged(table.efficiency)

    def _depth(self, rows: dict[str, Floats], series: dict[str, float], arrays: dict[str, NDArray[Any]]) -> None:
        layers, usage, parts = self._outputs[0].layers, [], []
        tokens = 0
        for index in range(len(layers)):
            if f"mod{index}" not in rows:
                usage.append(1.0)
                continue
            stats = [output.layers[index].mod for output in self._outputs]
            tokens = sum(one.tokens for one in stats if one is not None)
            chosen = float(rows[f"mod{index}"][:, 0].sum())
            usage.append(chosen / tokens)
            series[f"mod.usage.layer{index}"] = chosen / tokens
            parts.append((chosen, tokens - chosen, *rows[f"mod{index}"][:, 1:].mean(0).tolist()))
        arrays["depth"] = np.array(usage, dtype=np.float32)
        if not parts:
            return
        first = next(layer.mod for layer in layers if layer.mod is not None)
        series.update(self._mod_series(parts, usage, first.mask_BT.shape[1]))
        arrays["depth_histogram"] = (rows["depth_histogram"].sum(0) / tokens).astype(np.float32)
        arrays["skip_pattern"] = rows["skip_pattern"].mean(0).reshape(len(parts), -1).astype(np.float32)

    def _mod_series(self, parts: list[tuple[float, ...]], usage: list[float], length: int) -> dict[str, float]:
        processed, skipped, gate, agreement, loss = (float(sum(column)) for column in zip(*parts, strict=True))
        knobs = self._model.knobs
        return {
            "mod.tokens_processed": processed,
            "mod.tokens_skipped": skipped,
            "mod.gate": gate / len(parts),
            "mod.predictor_agreement": agreement / len(parts),
            "mod.predictor_loss": loss / len(parts),
            "mod.capacity_factor": knobs.mod_capacity,
            "mod.capacity_utilization": processed / (processed + skipped) / knobs.mod_capacity,
            "mod.average_depth": float(sum(usage)),
            "mod.compute_savings": compute_savings(self._model.config, length, usage),
            "mod.guarded_layers": float(len(knobs.opened)),
        }

    def layer_gates(self) -> dict[int, float]:
        """Mean true gate of each layer with MoD, of the step that was collected."""
        return {
            index: float(self._transfer.rows[f"mod{index}"][:, 1].mean())
            for index in range(len(self._outputs[0].layers))
            if f"mod{index}" in self._transfer.rows
        }


class _Transfer:
    """Named tensors of each micro-batch, one row per micro-batch, brought over together."""

    def __init__(self) -> None:
        self._rows: list[list[Tensor]] = []
        self._names: list[tuple[str, int]] = []
        self.rows: dict[str, Floats] = {}

    def begin(self) -> None:
        self._rows.append([])
        self._names.clear()

    def __call__(self, name: str, values: Tensor) -> None:
        flat = values.detach().reshape(-1).float()
        self._rows[-1].append(flat)
        self._names.append((name, flat.numel()))

    def fetch(self, last: Tensor) -> tuple[dict[str, Floats], float]:
        flat = torch.cat([part for row in self._rows for part in row] + [last.detach().float().reshape(1)])
        numbers = flat.cpu().numpy().astype(np.float64)
        table, at = numbers[:-1].reshape(len(self._rows), -1), 0
        for name, width in self._names:
            self.rows[name] = table[:, at : at + width]
            at += width
        return self.rows, float(numbers[-1])


def _put_moe(put: _Transfer, name: str, moe: MoEStats) -> None:
    scalars = torch.stack((moe.dropped, moe.balance_loss.detach(), moe.z_loss.detach()))
    put(
        name,
        torch.cat(
            (moe.probability_E, moe.share_E, moe.live_E.float(), moe.computed_E, moe.weight_per_expert(), scalars)
        ),
    )


def _put_masks(put: _Transfer, layers: list[ModStats]) -> None:
    """Which tokens skip which layers: by how many layers a token takes, and by its position."""
    if not layers:
        return
    mask_LBT = torch.stack([mod.mask_BT for mod in layers])
    depth = mask_LBT.sum(0).reshape(-1)
    histogram = torch.zeros(len(layers) + 1, device=depth.device)
    put("depth_histogram", histogram.scatter_add_(0, depth, torch.ones(depth.shape, device=depth.device)))
    buckets = min(POSITIONS, mask_LBT.shape[2])
    put("skip_pattern", F.adaptive_avg_pool1d(mask_LBT.float().mean(1), buckets))


@dataclass
class _Experts:
    """Figures of the layers with experts; rows are dictionaries of equal keys."""

    config: Config
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    load: list[Floats] = field(default_factory=list)
    live: list[Floats] = field(default_factory=list)
    efficiency: list[Floats] = field(default_factory=list)

    def add(self, layer: int, row_R: Floats, width: int, assignments: int) -> None:
        """Takes one layer's step in: a row for each micro-batch, as `_put_moe` lays it out for `width` expert slots."""
        probability, share, alive, computed, weight = (row_R[:, i * width : (i + 1) * width] for i in range(5))
        dropped, balance, z_loss = row_R[:, -3].sum(), row_R[:, -2].mean(), row_R[:, -1].mean()
        live, share_E = alive[0], share.mean(0)
        experts = int(live.sum())
        load = _evenness(share_E, experts)
        self.rows[layer] = {
            "routing_entropy": _evenness(probability.mean(0), experts),
            "load_entropy": load,
            "load_balance_loss": float(balance),
            "tokens_dropped": float(dropped),
            "drop_fraction": float(dropped) / assignments,
            "expert_efficiency": (1.0 - float(dropped) / assignments) * load,
            "max_share": float(share_E.max()),
        }
        if self.config.moe.router_z_loss_weight:
            self.rows[layer]["router_z_loss"] = float(z_loss)
        computed_E, weight_E = computed.sum(0), weight.sum(0)
        utilisation = np.minimum(1.0, live.sum() * computed_E / assignments)
        quality = self.config.moe.moe_top_k * weight_E / np.maximum(1.0, computed_E)
        self.load.append(share_E)
        self.live.append(live)
        self.efficiency.append(utilisation * quality)

    def series(self) -> dict[str, float]:
        """Means over layers first, then every layer's own."""
        if not self.rows:
            return {}
        rows = list(self.rows.values())
        found = {f"moe.{name}": sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        found["moe.tokens_dropped"] = sum(row["tokens_dropped"] for row in rows)
        for layer, row in self.rows.items():
            found.update({f"moe.{name}.layer{layer}": value for name, value in row.items()})
        return found


def _evenness(share_E: Floats, experts: int) -> float:
    """Entropy over that of even use of `experts`. A lone expert is in even use: nothing could collapse."""
    if experts < 2:
        return 1.0
    positive = share_E[share_E > 0]
    return float(-(positive * np.log(positive)).sum()) / math.log(experts)


def _ragged(rows: list[Floats]) -> NDArray[np.float32]:
    """Rows of different length as one array, padded with zeros (layers may have gained experts)."""
    table = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.float32)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table
