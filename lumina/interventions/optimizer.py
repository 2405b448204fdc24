"""Interventions on the optimizer. They know `Controls`, never a parameter group."""

from __future__ import annotations

import math

from lumina.interventions.api import Controls, Intervention, Risk, Values, arg, intervention


@intervention("emergency_lr_reduction", risk=Risk.EMERGENCY, affects="optimizer")
class EmergencyLrReduction(Intervention):
    """Divides the learning rate of every later step by the factor: 10 makes the rate a tenth."""

    reduction_factor: float = arg(gt=1.0, le=1000.0, default=10.0, help="the rate is divided by it; typical 5 to 10",
                                  unit="dimensionless")  # fmt: skip

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.scale_learning_rate(1.0 / self.reduction_factor)

    def read_back(self, controls: Controls) -> Values:
        return {"learning_rate": controls.get("learning_rate")}

    def verify(self, before: Values, after: Values) -> bool:
        return math.isclose(after["learning_rate"] * self.reduction_factor, before["learning_rate"], rel_tol=1e-9)

    def undo(self, controls: Controls, before: Values) -> None:
        controls.scale_learning_rate(self.reduction_factor)
