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
        controls.set("lr_scale", controls.get("lr_scale") / self.reduction_factor)

    def read_back(self, controls: Controls) -> Values:
        return {"learning_rate": controls.get("learning_rate"), "lr_scale": controls.get("lr_scale")}

    def verify(self, before: Values, after: Values) -> bool:
        return math.isclose(after["learning_rate"] * self.reduction_factor, before["learning_rate"], rel_tol=1e-9)

    def undo(self, controls: Controls, before: Values) -> None:
        controls.set("lr_scale", before["lr_scale"])

    def same(self, first: Values, second: Values) -> bool:
        return bool(first["lr_scale"] == second["lr_scale"])  # the rate itself follows the schedule


@intervention("adjust_learning_rate", risk=Risk.CAREFUL, affects="optimizer")
class AdjustLearningRate(Intervention):
    """Multiplies the learning rate of every later step; the schedule keeps its shape."""

    factor: float = arg(gt=0.0, le=1000.0, help="2 doubles the rate, 0.5 halves it", unit="dimensionless")

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.set("lr_scale", controls.get("lr_scale") * self.factor)

    def read_back(self, controls: Controls) -> Values:
        return {"learning_rate": controls.get("learning_rate"), "lr_scale": controls.get("lr_scale")}

    def verify(self, before: Values, after: Values) -> bool:
        return math.isclose(after["learning_rate"], before["learning_rate"] * self.factor, rel_tol=1e-9)

    def undo(self, controls: Controls, before: Values) -> None:
        controls.set("lr_scale", before["lr_scale"])

    def same(self, first: Values, second: Values) -> bool:
        return bool(first["lr_scale"] == second["lr_scale"])  # the rate itself follows the schedule


@intervention("adjust_gradient_clip", risk=Risk.ROUTINE, affects="optimizer")
class AdjustGradientClip(Intervention):
    """The norm that gradients are scaled down to when theirs is larger, from the next step on."""

    max_norm: float = arg(gt=0.0, help="typical 0.5 to 5.0", unit="dimensionless")

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.set("gradient_clip_val", self.max_norm)

    def read_back(self, controls: Controls) -> Values:
        return {"gradient_clip_val": controls.get("gradient_clip_val")}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["gradient_clip_val"] == self.max_norm)

    def undo(self, controls: Controls, before: Values) -> None:
        controls.set("gradient_clip_val", before["gradient_clip_val"])


@intervention("adjust_weight_decay", risk=Risk.ROUTINE, affects="optimizer")
class AdjustWeightDecay(Intervention):
    """How strongly the optimizer pulls the matrices toward zero at each later step; norms and biases are left alone."""

    weight_decay: float = arg(ge=0.0, help="0 turns it off; typical 0.01 to 0.1", unit="dimensionless")

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.set("weight_decay", self.weight_decay)

    def read_back(self, controls: Controls) -> Values:
        return {"weight_decay": controls.get("weight_decay")}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["weight_decay"] == self.weight_decay)

    def undo(self, controls: Controls, before: Values) -> None:
        controls.set("weight_decay", before["weight_decay"])
