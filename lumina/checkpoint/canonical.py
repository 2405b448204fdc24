"""The canonical state of a run: what a checkpoint holds, independent of engine, device and number of ranks.

It is data with a hash; it must not know how it came to be or where it is stored.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class CanonicalState:
    """Parameter name → float32 tensor on the CPU, with its Adam moments and step; buffers; and JSON-able `meta`.

    `sidecar` is what the data's sampler remembers of single samples.
    """

    params: dict[str, Tensor]
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]
    adam_step: dict[str, float]
    buffers: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)
    sidecar: dict[str, Tensor] = field(default_factory=dict)


def state_hash(state: CanonicalState) -> str:
    """sha256 over names, dtypes, shapes and bytes of every tensor, the Adam steps, and the loop's counters.

    What merely describes a run (the orchestrator's windows, ids) is left out, and so is the learning rate: every step
    sets it anew from the schedule and `lr_scale`, and whoever only asked for it must not make two states differ.
    """
    digest = hashlib.sha256()
    for table in (state.params, state.exp_avg, state.exp_avg_sq, state.buffers, state.sidecar):
        for name in sorted(table):
            tensor = table[name].detach().contiguous()
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        digest.update(b"#")
    hparams = {name: value for name, value in (state.meta.get("hparams") or {}).items() if name != "learning_rate"}
    counters = {"adam": state.adam_step, "hparams": hparams, "trainer": state.meta.get("trainer")}
    digest.update(json.dumps(counters, sort_keys=True).encode())
    return digest.hexdigest()
