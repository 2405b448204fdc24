"""The live values of a model, read by every layer at each forward pass; interventions change them here only.

It knows what each value is now, not who changes it or why.
"""

from __future__ import annotations

from dataclasses import dataclass

from lumina.config import Config


@dataclass
class Knobs:
    """`step` is the optimizer step that is being computed; `opened` names layers that the collapse guard holds open."""

    routing_temperature: float
    capacity_factor: float | None
    load_balancing_weight: float
    expert_dropout: float
    mod_capacity_factor: float
    mod_routing_temperature: float
    mod_warmup_steps: int = 0
    mod_anneal_steps: int = 0
    step: int = 0
    opened: frozenset[int] = frozenset()

    @classmethod
    def of(cls, config: Config) -> Knobs:
        moe, mod = config.moe, config.mod
        return cls(
            routing_temperature=moe.routing_temperature,
            capacity_factor=moe.capacity_factor,
            load_balancing_weight=0.0 if moe.bias_balancing else moe.load_balancing_weight,
            expert_dropout=moe.expert_dropout,
            mod_capacity_factor=mod.mod_capacity_factor,
            mod_routing_temperature=mod.mod_routing_temperature,
            mod_warmup_steps=mod.mod_warmup_steps,
            mod_anneal_steps=mod.mod_anneal_steps,
        )

    @property
    def mod_capacity(self) -> float:
        """Share of the tokens in a layer with MoD at this step: 1 in the warm-up, then a line to the factor."""
        target, since = self.mod_capacity_factor, self.step - self.mod_warmup_steps
        if since <= 0 < self.mod_warmup_steps + self.mod_anneal_steps:
            return 1.0
        if since >= self.mod_anneal_steps:
            return target
        return 1.0 - (1.0 - target) * since / self.mod_anneal_steps
