"""Finds a run that is longer or shorter than its loss speaks for, and data that is easier than its phase could take.
Reads what `advice` says of it, only where the configuration asks for it; it fits no curve.

length      from three tenths of the run on, where the advised number of steps is a tenth off the plan or more; longer
            only where the token budget chose the length. Confidence: 1 - 5 x (half of the band of the predicted loss /
            that loss)
curriculum  the advised share of the configured difficulty sampling is off the live one by more than an eighth of the
            configured; confidence 1 - 1/8 / that / 2
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lumina.orchestrator.detectors.view import View, beyond, evidence
from lumina.orchestrator.types import Finding

LENGTH, CURRICULUM = "length", "curriculum"
EARLIEST, OFF = 0.3, 0.1
DOUBT = 5.0  # confidence lost by half a band as wide as the loss itself
CLOSE = 0.125


class TrainingLength:
    """At most one finding."""

    def find(self, view: View) -> Sequence[Finding]:
        """Whether the rest of the run is worth its steps, or more of them."""
        told, planned = view.outlook.get("epochs_advice"), view.facts.total_steps
        if not told or view.step < EARLIEST * planned:
            return ()
        advised, loss = int(told["steps"]), _loss(view)
        if loss <= 0:
            return ()
        wanted = max(advised, view.step + math.ceil(OFF * view.step))  # the schedule needs steps to come down in
        if advised > planned and not view.facts.automatic:
            return ()
        if abs(wanted / planned - 1) < OFF or (wanted > planned) != (advised > planned):
            return ()
        doubt = (view.outlook["predicted_high"] - view.outlook["predicted_low"]) / 2 / loss
        words = (
            f"{planned:,} steps are planned, and {wanted:,} would do"
            if wanted < planned
            else (f"{planned:,} steps are planned, and {wanted:,} would be worth it")
        )
        numbers = {"planned": planned, "wanted": wanted, "predicted": loss, "half_band": doubt * loss}
        found = evidence(view, f"{words}: {told['why']}.", OFF, numbers)
        args = {"total_steps": wanted}
        sure = min(max(1 - DOUBT * doubt, 0.0), 1.0)
        return (Finding(LENGTH, sure, "info", found, "adjust_training_length", args, ("total_steps",)),)


class Curriculum:
    """At most one finding. `configured` is the chance of difficulty sampling that the run began with."""

    def __init__(self, configured: float = 0.0) -> None:
        self._configured = configured

    def find(self, view: View) -> Sequence[Finding]:
        """Whether the data is as hard as the phase of the run can take."""
        whole, live = self._configured, view.hparams.get("difficulty_sampling")
        told = view.outlook.get("curriculum")
        if not whole or live is None or not told:
            return ()
        wanted = round(float(told["difficulty"]) * whole, 3)
        off = abs(wanted - live) / whole
        if off <= CLOSE:
            return ()
        phase = view.outlook["phase"]
        summary = f"In its phase of {phase} the run speaks for difficulty sampling of {wanted:g}; it is {live:g}."
        found = evidence(view, summary, CLOSE * whole, {"wanted": wanted, "live": live, "configured": whole})
        args, watched = {"strength": wanted}, ("difficulty_sampling",)
        return (Finding(CURRICULUM, beyond(off, CLOSE), "info", found, "adjust_difficulty_sampling", args, watched),)


def _loss(view: View) -> float:
    return float(view.outlook["predicted_final_loss"])
