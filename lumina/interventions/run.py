"""Interventions on the course of the run itself: back, around some data, held, saved, ended, left alone. The trainer
does them; an action only says which."""

from __future__ import annotations

from lumina.interventions.api import Controls, Intervention, Risk, Values, arg, intervention
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


@intervention("skip_data_range", risk=Risk.CAREFUL, affects="data")
class SkipDataRange(Intervention):
    """Leaves a range of training sequences out, in the order in which the run comes to them.

    A step that would meet the range starts behind it instead. The run takes as many steps as before.
    """

    sequences: int = arg(ge=1, help="how many are left out", unit="sequences")
    first_sequence: int = arg(ge=-1, default=-1, help="where the range begins; -1 is the next one that is due",
                              unit="sequences")  # fmt: skip

    def check(self, controls: Controls) -> None:
        first = self._first(controls)
        if first + self.sequences <= controls.position:
            raise Refusal(
                "out_of_range",
                f"skip_data_range: sequences {first} to {first + self.sequences - 1} lie behind the run, which comes "
                f"to {controls.position} next",
            )

    def resolve(self, controls: Controls) -> Values:
        return {"first_sequence": self._first(controls)}

    def _first(self, controls: Controls) -> int:
        return controls.position if self.first_sequence < 0 else self.first_sequence

    def apply(self, controls: Controls, resolved: Values) -> None:
        first = int(resolved["first_sequence"])
        controls.skipped = (*controls.skipped, (first, first + self.sequences))

    def read_back(self, controls: Controls) -> Values:
        return {"skipped": [list(pair) for pair in controls.skipped]}

    def verify(self, before: Values, after: Values) -> bool:
        return len(after["skipped"]) == len(before["skipped"]) + 1

    def undo(self, controls: Controls, before: Values) -> None:
        controls.skipped = tuple((int(first), int(stop)) for first, stop in before["skipped"])


@intervention("pause", risk=Risk.ROUTINE, affects="run", once=True)
class Pause(Intervention):
    """Holds the run before its next step, with everything in memory, until somebody lets it go on."""

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.pause(True)

    def read_back(self, controls: Controls) -> Values:
        return {"paused": controls.paused}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["paused"])

    def undo(self, controls: Controls, before: Values) -> None:
        controls.pause(bool(before["paused"]))


@intervention("checkpoint", risk=Risk.ROUTINE, affects="nothing", once=True)
class Checkpoint(Intervention):
    """Writes a checkpoint of the state after this step."""

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.save()

    def read_back(self, controls: Controls) -> Values:
        return {"checkpoint": controls.saved}

    def verify(self, before: Values, after: Values) -> bool:
        return after["checkpoint"] is not None


@intervention("early_stop", risk=Risk.CAREFUL, affects="run", once=True)
class EarlyStop(Intervention):
    """Ends the run after this step, with a checkpoint. `lumina resume` continues it."""

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.stop("early stop, asked for by an intervention")

    def read_back(self, controls: Controls) -> Values:
        return {"stopping": controls.stopping}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["stopping"])


@intervention("adjust_training_length", risk=Risk.CAREFUL, affects="run")
class AdjustTrainingLength(Intervention):
    """Ends the run after another number of steps. What is left of the learning rate's schedule is stretched to it.

    So a shortened run still ends at the lowest rate. Where `--steps` is given on a resume, that counts from then on.
    """

    total_steps: int = arg(ge=1, help="the whole run, with the steps taken so far", unit="steps")

    def check(self, controls: Controls) -> None:
        if self.total_steps <= controls.step:
            raise Refusal(
                "out_of_range",
                f"adjust_training_length: total_steps = {self.total_steps}, and the run is at step {controls.step}; "
                f"allowed: {controls.step + 1} or more; early_stop ends it now",
            )

    def resolve(self, controls: Controls) -> Values:
        return {"lengths_given": controls.lengths_given}

    def outdated(self, controls: Controls, resolved: Values) -> bool:
        return int(resolved["lengths_given"]) < controls.lengths_given

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.end_after(self.total_steps, int(resolved["lengths_given"]))

    def read_back(self, controls: Controls) -> Values:
        return {"total_steps": controls.get("total_steps")}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["total_steps"] == self.total_steps)

    def undo(self, controls: Controls, before: Values) -> None:
        if before["total_steps"] <= controls.step and not self.outdated(controls, {"lengths_given": 0, **before}):
            raise Refusal(
                "unsupported",
                f"the run was to end after step {before['total_steps']}, and it is at {controls.step}: give a length "
                "by adjust_training_length, or take it back by undo --rewind",
            )
        controls.end_after(before["total_steps"], int(before.get("lengths_given", controls.lengths_given)))


AUTONOMY = ("observe", "ask", "auto")


@intervention("set_autonomy", risk=Risk.CAREFUL, affects="orchestrator")
class SetAutonomy(Intervention):
    """What becomes of the orchestrator's proposals from now on: only logged, put to a person, or made when confident.

    Methods that have an autonomy of their own in the configuration keep it.
    """

    level: int = arg(ge=0, le=2, help="0 observe, 1 ask, 2 auto")

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.autonomy = AUTONOMY[self.level]

    def read_back(self, controls: Controls) -> Values:
        return {"autonomy": controls.autonomy}

    def verify(self, before: Values, after: Values) -> bool:
        return bool(after["autonomy"] == AUTONOMY[self.level])

    def undo(self, controls: Controls, before: Values) -> None:
        controls.autonomy = str(before["autonomy"])
