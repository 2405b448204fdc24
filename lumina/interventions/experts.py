"""Interventions on the number of experts. They know `Controls`, never a weight."""

from __future__ import annotations

from lumina.interventions.api import Controls, Intervention, Risk, Values, arg, intervention


@intervention("add_expert", risk=Risk.CAREFUL, affects="experts", structural=True)
class AddExpert(Intervention):
    """Adds an expert to one layer: a noisy copy of its busiest expert that takes over tokens over a short ramp.

    The loss of the step at which it is applied does not change: the copy is masked until the next step.
    """

    layer_idx: int = arg(ge=0, help="layer that gets the expert, counted from 0", unit="layer")

    def check(self, controls: Controls) -> None:
        controls.experts(self.layer_idx)

    def resolve(self, controls: Controls) -> Values:
        return {"source_expert": controls.experts(self.layer_idx).busiest}

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.add_expert(self.layer_idx, resolved["source_expert"])

    def read_back(self, controls: Controls) -> Values:
        return {"num_experts": controls.experts(self.layer_idx).total}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["num_experts"] == before["num_experts"] + 1)
