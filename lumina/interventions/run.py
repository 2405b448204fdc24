"""Interventions on the course of the run itself. The trainer goes back; the action only says how far."""

from __future__ import annotations

from lumina.interventions.api import Controls, Intervention, Risk, arg, intervention
from lumina.store.errors import Refusal


@intervention("rollback_steps", risk=Risk.CAREFUL, affects="run")
class RollbackSteps(Intervention):
    """Goes back to the newest checkpoint at least so many steps ago, with model, optimizer, schedule and data.

    The steps since then stay in the store as a branch; interventions made in them are left behind and named.
    """

    num_steps: int = arg(ge=1, help="how far back at least; the checkpoint before that is taken", unit="steps")

    def check(self, controls: Controls) -> None:
        if self.num_steps > controls.step:
            raise Refusal(
                "out_of_range", f"rollback_steps: num_steps = {self.num_steps}, and the run is at step {controls.step}"
            )
