"""Changes of a model's shape as pure functions on its canonical state, moments included.

Written once for every engine: the engine exports the state, a function here changes it, the engine rebuilds from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from lumina.checkpoint.canonical import CanonicalState
from lumina.model.moe import PRUNED, STACKED
from lumina.store.errors import Refusal

NOISE = 0.01  # standard deviation of the copy's noise, as a share of each weight tensor's own


def initialize_new_expert(
    new_expert: int, existing_experts: Sequence[Tensor], *, noise: float, generator: torch.Generator
) -> list[Tensor]:
    """Each stacked tensor [experts, ...] with a noisy copy of expert `new_expert` behind the last one."""
    grown = []
    for stacked in existing_experts:
        copy = stacked[new_expert]
        spread = copy.std() if copy.numel() > 1 else torch.zeros(())
        noisy = copy + torch.randn(copy.shape, generator=generator) * spread * noise
        grown.append(torch.cat((stacked, noisy.unsqueeze(0))))
    return grown


def add_expert(state: CanonicalState, layer_idx: int, *, source_expert: int, step: int, seed: int) -> CanonicalState:
    """`state` with one more expert in a layer: a noisy copy of `source_expert`, its Adam moments, its router row.

    It is born at `step`: masked in that step's forward, so every loss is unchanged, and ramped in from the next.
    Raises `Refusal` (bad_argument) when the layer or the expert does not exist.
    """
    prefix = f"layers.{layer_idx}.moe."
    names = sorted(prefix + name for name in STACKED if prefix + name in state.params)
    if not names:
        raise Refusal("bad_argument", f"layer {layer_idx} has no experts")
    if not 0 <= source_expert < len(state.params[names[0]]):
        raise Refusal("bad_argument", f"layer {layer_idx} has no expert {source_expert}")
    grown = initialize_new_expert(
        source_expert,
        [state.params[name] for name in names],
        noise=NOISE,
        generator=generator_of(seed, step, layer_idx),
    )
    params = {**state.params, **dict(zip(names, grown, strict=True))}
    moments = [
        {**table, **{name: _with_copy(table[name], source_expert) for name in names}}
        for table in (state.exp_avg, state.exp_avg_sq)
    ]
    buffers = dict(state.buffers)
    buffers[prefix + "born_E"] = torch.cat((buffers[prefix + "born_E"], torch.tensor([step])))
    buffers[prefix + "load_ema_E"] = torch.cat((buffers[prefix + "load_ema_E"], torch.zeros(1)))
    if prefix + "choice_bias_E" in buffers:
        buffers[prefix + "choice_bias_E"] = _with_copy(buffers[prefix + "choice_bias_E"], source_expert)
    return dataclasses.replace(state, params=params, exp_avg=moments[0], exp_avg_sq=moments[1], buffers=buffers)


def prune_expert(state: CanonicalState, layer_idx: int, expert_idx: int) -> CanonicalState:
    """`state` with an expert masked from the next forward pass on; its weights and moments stay as they are.

    Capacity and the balance loss count the experts that are left.
    """
    return _birth_moved(state, layer_idx, expert_idx, PRUNED)


def restore_expert(state: CanonicalState, layer_idx: int, expert_idx: int) -> CanonicalState:
    """`state` with a pruned expert live again as it was; a ramp that it was on has gone on meanwhile."""
    return _birth_moved(state, layer_idx, expert_idx, -PRUNED)


def _birth_moved(state: CanonicalState, layer_idx: int, expert_idx: int, steps: int) -> CanonicalState:
    name = f"layers.{layer_idx}.moe.born_E"
    born = state.buffers[name].clone()
    born[expert_idx] += steps
    return dataclasses.replace(state, buffers={**state.buffers, name: born})


def generator_of(seed: int, step: int, layer_idx: int) -> torch.Generator:
    """The source of an added expert's noise: the same in a replay."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step * 1009 + layer_idx)


def _with_copy(stacked: Tensor, index: int) -> Tensor:
    return torch.cat((stacked, stacked[index].unsqueeze(0)))
