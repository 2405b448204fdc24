"""Interventions on how many tokens take a layer. They know `Controls`, never a layer."""

from __future__ import annotations

from lumina.interventions.api import Controls, Intervention, Risk, Values, arg, intervention


@intervention("adjust_mod_capacity", risk=Risk.ROUTINE, affects="depth")
class AdjustModCapacity(Intervention):
    """The share of each sequence's tokens that goes through a layer with Mixture of Depths.

    A lower one saves compute and may cost quality. While the share is still warming up or falling to its target, this
    moves the target.
    """

    capacity_factor: float = arg(gt=0.0, le=1.0, help="1 is every token; typical 0.3 to 0.7", unit="fraction")

    def check(self, controls: Controls) -> None:
        controls.get("mod_capacity_factor")  # refused where no layer has Mixture of Depths

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.set("mod_capacity_factor", self.capacity_factor)

    def read_back(self, controls: Controls) -> Values:
        return {"mod_capacity_factor": controls.get("mod_capacity_factor")}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["mod_capacity_factor"] == self.capacity_factor)

    def undo(self, controls: Controls, before: Values) -> None:
        controls.set("mod_capacity_factor", before["mod_capacity_factor"])


@intervention("adjust_mod_schedule", risk=Risk.ROUTINE, affects="depth")
class AdjustModSchedule(Intervention):
    """When the share of tokens in layers with Mixture of Depths falls from all of them to its target.

    Steps count from the start of the run. A warm-up that lasts longer than the run has come sends every token through
    every layer again.
    """

    warmup_steps: int = arg(ge=0, help="steps with every token in every layer", unit="steps")
    anneal_steps: int = arg(ge=0, help="steps after them over which the share falls to the target", unit="steps")
    target: float = arg(gt=0.0, le=1.0, help="share of the tokens from then on; typical 0.3 to 0.7", unit="fraction")

    def check(self, controls: Controls) -> None:
        controls.get("mod_capacity_factor")  # refused where no layer has Mixture of Depths

    def apply(self, controls: Controls, resolved: Values) -> None:
        for name, value in self._wanted().items():
            controls.set(name, value)

    def _wanted(self) -> Values:
        return dict(zip(SCHEDULE, (self.warmup_steps, self.anneal_steps, self.target), strict=True))

    def read_back(self, controls: Controls) -> Values:
        return {name: controls.get(name) for name in SCHEDULE}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after == self._wanted())

    def undo(self, controls: Controls, before: Values) -> None:
        for name in SCHEDULE:
            controls.set(name, before[name])


SCHEDULE = ("mod_warmup_steps", "mod_anneal_steps", "mod_capacity_factor")
