"""The canonical state of a run: what a checkpoint holds, independent of engine, device and number of ranks.

It is data with a hash; it must not know how it came to be or where it is stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lumina.checkpoint.tensors import digest

MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
TABLES = {MODEL: ("params", "buffers"), OPTIMIZER: ("exp_avg", "exp_avg_sq", "sidecar")}
"""Which tables of a state lie in which file, each under its name and a dot."""


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


def tensors_of(state: CanonicalState, file: str) -> dict[str, Tensor]:
    """The tensors of one file, `table.name` → tensor."""
    return {
        f"{table}.{name}": tensor for table in TABLES[file] for name, tensor in getattr(state, table).items()
    }  # fmt: skip


def state_from(files: Mapping[str, Mapping[str, Tensor]], adam_step: dict[str, float],
               meta: dict[str, Any]) -> CanonicalState:  # fmt: skip
    """The state whose tensors these files have."""
    tables = {table: _under(f"{table}.", files[file]) for file, names in TABLES.items() for table in names}
    return CanonicalState(**tables, adam_step=adam_step, meta=meta)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def state_hash(state: CanonicalState) -> str:
    """sha256 over names, types, shapes and bytes of every tensor, the Adam steps, and the loop's counters.

    What merely describes a run (the orchestrator's windows, ids) is left out, and so is the learning rate: every step
    sets it anew from the schedule and `lr_scale`, and whoever only asked for it must not make two states differ.
    """
    digests = {file: digest(tensors_of(state, file)) for file in TABLES}
    return combined_hash(digests, state.adam_step, state.meta)


def combined_hash(digests: Mapping[str, str], adam_step: Mapping[str, float], meta: Mapping[str, Any]) -> str:
    """`state_hash` from the sha256 of the files that the state makes."""
    hparams = {name: value for name, value in (meta.get("hparams") or {}).items() if name != "learning_rate"}
    counted = {"files": digests, "adam": adam_step, "hparams": hparams, "trainer": meta.get("trainer")}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()
