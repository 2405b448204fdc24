"""Interventions on how tokens are routed among experts. They know `Controls`, never a router."""

from __future__ import annotations

from lumina.interventions.api import Controls, Intervention, Risk, Values, arg, intervention
from lumina.store.errors import Refusal


@intervention("adjust_routing_temperature", risk=Risk.ROUTINE, affects="router")
class AdjustRoutingTemperature(Intervention):
    """Softer (above 1) or sharper (below 1) routing: softmax(logits / temperature) in every MoE layer."""

    temperature: float = arg(ge=0.1, le=5.0, help="1.0 is neutral; typical 0.5 to 2.0", unit="dimensionless")

    def check(self, controls: Controls) -> None:
        controls.get("routing_temperature")  # refused where the model has no router

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.set("routing_temperature", self.temperature)

    def read_back(self, controls: Controls) -> Values:
        return {"routing_temperature": controls.get("routing_temperature")}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["routing_temperature"] == self.temperature)

    def undo(self, controls: Controls, before: Values) -> None:
        controls.set("routing_temperature", before["routing_temperature"])


@intervention("adjust_capacity_factor", risk=Risk.ROUTINE, affects="router")
class AdjustCapacityFactor(Intervention):
    """How many tokens each expert takes in a training step: factor x k x tokens / live experts, rounded up.

    A higher one drops fewer tokens and takes more memory; a run that drops nothing gets a capacity by it.
    """

    factor: float = arg(gt=0.0, help="1 is the fair share; typical 1.0 to 2.0", unit="dimensionless")

    def check(self, controls: Controls) -> None:
        _need_experts(controls, self.declaration.method)

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.set("capacity_factor", self.factor)

    def read_back(self, controls: Controls) -> Values:
        return {"capacity_factor": controls.find("capacity_factor")}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["capacity_factor"] == self.factor)

    def undo(self, controls: Controls, before: Values) -> None:
        controls.set("capacity_factor", before["capacity_factor"])


@intervention("adjust_load_balancing_weight", risk=Risk.ROUTINE, affects="router")
class AdjustLoadBalancingWeight(Intervention):
    """How strongly the auxiliary loss evens out the load of the experts; 0 turns it off."""

    weight: float = arg(ge=0.0, help="typical 0.001 to 0.1", unit="dimensionless")

    def check(self, controls: Controls) -> None:
        controls.get("load_balancing_weight")  # refused without experts, and where a bias balances them

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.set("load_balancing_weight", self.weight)

    def read_back(self, controls: Controls) -> Values:
        return {"load_balancing_weight": controls.get("load_balancing_weight")}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["load_balancing_weight"] == self.weight)

    def undo(self, controls: Controls, before: Values) -> None:
        controls.set("load_balancing_weight", before["load_balancing_weight"])


@intervention("enable_expert_dropout", risk=Risk.ROUTINE, affects="router")
class EnableExpertDropout(Intervention):
    """Leaves each expert out of a training step by chance, so that tokens do not come to rely on few of them.

    As many experts as a token needs always stay. Evaluation and generation use them all. 0 turns it off.
    """

    dropout_prob: float = arg(ge=0.0, le=1.0, help="chance of each expert; typical 0.1 to 0.2", unit="fraction")

    def check(self, controls: Controls) -> None:
        _need_experts(controls, self.declaration.method)

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.set("expert_dropout", self.dropout_prob)

    def read_back(self, controls: Controls) -> Values:
        return {"expert_dropout": controls.get("expert_dropout")}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["expert_dropout"] == self.dropout_prob)

    def undo(self, controls: Controls, before: Values) -> None:
        controls.set("expert_dropout", before["expert_dropout"])


def _need_experts(controls: Controls, method: str) -> None:
    if not controls.expert_layers:
        raise Refusal("unsupported", f"{method}: this run's model has no experts")
