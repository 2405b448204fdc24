"""Interventions on what the next batches are made of. They know `Controls`, never a loader."""

from __future__ import annotations

from lumina.interventions.api import Controls, Intervention, Risk, Values, arg, intervention
from lumina.store.errors import Refusal


@intervention("adjust_batch_size", risk=Risk.ROUTINE, affects="data")
class AdjustBatchSize(Intervention):
    """Sequences per micro-batch, from the next batch on; a smaller one takes less memory.

    Gradient accumulation follows, so that a step sees as many sequences as before and none twice.
    """

    new_batch_size: int = arg(ge=1, help="a divisor of the sequences per step; typical 1 to 128", unit="sequences")

    def check(self, controls: Controls) -> None:
        effective = _effective(self.read_back(controls))
        if effective % self.new_batch_size:
            fitting = ", ".join(str(size) for size in range(1, effective + 1) if effective % size == 0)
            raise Refusal(
                "out_of_range",
                f"adjust_batch_size: new_batch_size = {self.new_batch_size} does not divide the {effective} sequences "
                f"of a step; use one of {fitting}",
            )

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.set("batch_size", self.new_batch_size)

    def read_back(self, controls: Controls) -> Values:
        return {name: int(controls.get(name)) for name in ("batch_size", "gradient_accumulation_steps")}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["batch_size"] == self.new_batch_size and _effective(after) == _effective(before))

    def undo(self, controls: Controls, before: Values) -> None:
        controls.set("batch_size", before["batch_size"])


@intervention("adjust_difficulty_sampling", risk=Risk.ROUTINE, affects="data")
class AdjustDifficultySampling(Intervention):
    """The chance that a sequence gives way to one whose last loss was higher, from the next batch on.

    Only in a run that was begun with `data.difficulty_sampling` above 0: another one has not kept the losses.
    """

    strength: float = arg(ge=0.0, le=1.0, help="0 takes sequences as they come; typical 0.1 to 0.5", unit="fraction")

    def check(self, controls: Controls) -> None:
        if controls.find("difficulty_sampling") is None:
            raise Refusal(
                "unsupported",
                "adjust_difficulty_sampling: the run keeps no losses of its sequences; begin one with "
                "data.difficulty_sampling above 0",
            )

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.set("difficulty_sampling", self.strength)

    def read_back(self, controls: Controls) -> Values:
        return {"difficulty_sampling": controls.get("difficulty_sampling")}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["difficulty_sampling"] == self.strength)

    def undo(self, controls: Controls, before: Values) -> None:
        controls.set("difficulty_sampling", before["difficulty_sampling"])


def _effective(values: Values) -> int:
    return int(values["batch_size"] * values["gradient_accumulation_steps"])
