"""Interventions on how tokens are routed among experts. They know `Controls`, never a router."""

from __future__ import annotations

from lumina.interventions.api import Controls, Intervention, Risk, Values, arg, intervention


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
