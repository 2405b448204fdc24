"""Turns the engine's figures of a step into named series with units. It writes to the store's queue and never waits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
import psutil

from lumina.engine.api import StepStats
from lumina.train.state import TrainState

ROLLING = 50  # steps in the rolling loss and in the gradient-norm variance

UNITS: dict[str, str] = {
    "loss": "nats",
    "loss_rolling": "nats",
    "total_loss": "nats",
    "perplexity": "",
    "accuracy": "fraction",
    "learning_rate": "",
    "learning_rate.scheduled": "",
    "lr_scale": "",
    "data.position": "sequences",
    "grad_norm": "",
    "grad_norm_variance": "",
    "throughput": "tokens/s",
    "samples_per_second": "1/s",
    "step_seconds": "s",
    "tokens": "tokens",
    "memory_rss": "bytes",
    "memory_available": "bytes",
    "memory_allocated": "bytes",
    "memory_reserved": "bytes",
    "val_loss": "nats",
    "val_perplexity": "",
    "val_accuracy": "fraction",
    "val_loss_topk": "nats",
    "moe.routing_entropy": "fraction",
    "moe.load_entropy": "fraction",
    "moe.load_balance_loss": "",
    "moe.tokens_dropped": "tokens",
    "moe.drop_fraction": "fraction",
    "moe.expert_efficiency": "fraction",
    "moe.max_share": "fraction",
    "moe.router_z_loss": "",
    "mod.capacity_factor": "fraction",
    "mod.capacity_utilization": "fraction",
    "mod.gate": "",
    "mod.guarded_layers": "layers",
    "mod.average_depth": "layers",
    "mod.compute_savings": "fraction",
    "mod.predictor_agreement": "fraction",
    "mod.predictor_loss": "nats",
    "mod.tokens_processed": "tokens",
    "mod.tokens_skipped": "tokens",
    "chinchilla.progress": "fraction",
    "chinchilla.convergence_score": "%",
    "chinchilla.compute_efficiency": "nats/FLOP",
    "chinchilla.efficiency_trend": "",
    "chinchilla.predicted_final_loss": "nats",
    "chinchilla.predicted_low": "nats",
    "chinchilla.predicted_high": "nats",
    "checkpoint.stall_seconds": "s",
    "data.wait_seconds": "s",
    "data.wait_share": "fraction",
}
"""Every series that a run may record, with its unit; per-layer series add `.layerN` to a name."""

# These differ between two runs of the same steps; everything else is equal bit for bit on one machine.
WALL_CLOCK = frozenset(
    {
        "throughput",
        "samples_per_second",
        "step_seconds",
        "memory_rss",
        "memory_available",
        "memory_allocated",
        "memory_reserved",
        "checkpoint.stall_seconds",
        "data.wait_seconds",
        "data.wait_share",
    }
)


class Recorder:
    """Computes the series of one step; its rolling windows live in `TrainState`, so that a resume continues them."""

    def __init__(self, state: TrainState) -> None:
        self.state = state
        self._process = psutil.Process()
        self._rss = float(self._process.memory_info().rss)
        self._available = float(psutil.virtual_memory().available)

    def series(self, stats: StepStats, *, scheduled: float, first: int, samples: int, seconds: float,
               waited: float) -> dict[str, float]:  # fmt: skip
        """All series of one step. `scheduled` is its rate before decisions, `first` its first sequence, `seconds` the
        whole step, `waited` the part spent waiting for data."""
        loss = self._window("loss", stats.loss)
        norm = self._window("grad_norm", stats.grad_norm)
        self.state.tokens += stats.tokens
        if self.state.step % 10 == 1:
            self._rss = float(self._process.memory_info().rss)
            self._available = float(psutil.virtual_memory().available)
        return {
            **stats.series,
            "loss": stats.loss,
            "loss_rolling": statistics.fmean(loss) if loss else math.nan,
            "total_loss": stats.total_loss,
            "perplexity": perplexity(stats.loss),
            "accuracy": stats.accuracy,
            "learning_rate": stats.learning_rate,
            "learning_rate.scheduled": scheduled,
            "lr_scale": self.state.lr_scale,
            "data.position": float(first),
            "grad_norm": stats.grad_norm,
            "grad_norm_variance": statistics.pvariance(norm) if norm else math.nan,
            "throughput": stats.tokens / seconds,
            "samples_per_second": samples / seconds,
            "step_seconds": seconds,
            "data.wait_seconds": waited,
            "data.wait_share": waited / seconds,
            "tokens": float(self.state.tokens),
            "memory_rss": self._rss,
            "memory_available": self._available,
            **cuda_memory(),
        }

    def _window(self, name: str, value: float) -> list[float]:
        window = self.state.windows.setdefault(name, [])
        if math.isfinite(value):
            window.append(value)
            del window[:-ROLLING]
        return window


def perplexity(loss: float) -> float:
    """exp(loss), infinite where a float cannot hold it."""
    return math.exp(loss) if loss < 700 else math.inf


def cuda_memory() -> dict[str, float]:
    """Bytes held by tensors and reserved by the allocator on the current CUDA device; empty elsewhere."""
    import torch

    if not torch.cuda.is_available():
        return {}
    return {
        "memory_available": float(torch.cuda.mem_get_info()[0]),
        "memory_allocated": float(torch.cuda.memory_allocated()),
        "memory_reserved": float(torch.cuda.memory_reserved()),
    }


def json_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same mapping with numpy scalars and non-finite floats turned into what JSON can hold."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        number = value.item() if isinstance(value, np.generic) else value
        plain[name] = None if isinstance(number, float) and not math.isfinite(number) else number
    return plain
