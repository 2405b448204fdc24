"""The live values of a run as interventions see them: every read goes to the engine, every write through it."""

from __future__ import annotations

from typing import Protocol

from lumina.checkpoint import CanonicalState
from lumina.interventions import ExpertCounts
from lumina.model import surgery
from lumina.store.errors import Refusal
from lumina.train.session import Session


class Course(Protocol):
    """What only the loop's own hand can do: hold, save and end the run."""

    paused: bool
    stopping: str | None

    @property
    def saved(self) -> str | None: ...

    def pause(self, paused: bool) -> None: ...

    def save(self) -> None: ...

    def stop(self, reason: str) -> None: ...


class LiveControls:
    """`lumina.interventions.Controls` over a session's engine and the loop's own state."""

    def __init__(self, session: Session, run: Course) -> None:
        self._session = session
        self._run = run
        self._engine = session.engine
        self._state = session.state

    @property
    def step(self) -> int:
        return self._state.step

    def next_learning_rate(self) -> float:
        """Learning rate of the next step: the schedule times what interventions made of it."""
        return self._session.learning_rate(self._state.step + 1) * self._state.lr_scale

    def get(self, name: str) -> float:
        if name == "learning_rate":
            self._engine.set_hparams(learning_rate=self.next_learning_rate())
        value = self.find(name)
        if value is None:
            raise Refusal("unsupported", f"this run's model has no {name}")
        return value

    def find(self, name: str) -> float | None:
        return self._session.hparams().get(name)

    def set(self, name: str, value: float | None) -> None:
        if name == "lr_scale" and value is not None:
            self._state.lr_scale = value
            self._engine.set_hparams(learning_rate=self.next_learning_rate())
        elif name == "batch_size" and value is not None:
            self._state.batch_size = int(value)
            self._session.recreate_loader()
        elif name == "difficulty_sampling" and value is not None:
            self._session.sample_by_difficulty(value)
        else:
            self._engine.set_hparams(**{name: value})

    @property
    def expert_layers(self) -> tuple[int, ...]:
        return tuple(self._engine.describe().experts)

    def experts(self, layer_idx: int) -> ExpertCounts:
        described = self._engine.describe()
        layers = described.experts
        if layer_idx not in layers:
            listed = ", ".join(str(index) for index in layers) or "none"
            raise Refusal("out_of_range", f"layer {layer_idx} has no experts; layers with experts: {listed}")
        found = layers[layer_idx]
        return ExpertCounts(found.live, found.ramping, found.busiest, found.pruned, described.top_k)

    def add_expert(self, layer_idx: int, source_expert: int) -> None:
        state = surgery.add_expert(
            self._engine.export_state(),
            layer_idx,
            source_expert=source_expert,
            step=self._state.step,
            seed=self._session.plan.seed,
        )
        self._engine.rebuild(state)

    def prune_expert(self, layer_idx: int, expert_idx: int) -> None:
        self._engine.rebuild(surgery.prune_expert(self._engine.export_state(), layer_idx, expert_idx))

    def restore_expert(self, layer_idx: int, expert_idx: int) -> None:
        self._engine.rebuild(surgery.restore_expert(self._engine.export_state(), layer_idx, expert_idx))

    # The course of the run

    @property
    def lengths_given(self) -> int:
        return self._session.plan.asked

    def end_after(self, total_steps: int, given: int) -> None:
        self._session.change_length(total_steps, given)
        self._engine.set_hparams(learning_rate=self.next_learning_rate())

    @property
    def position(self) -> int:
        return self._state.position

    @property
    def skipped(self) -> tuple[tuple[int, int], ...]:
        return tuple((first, stop) for first, stop in self._state.skipped)

    @skipped.setter
    def skipped(self, ranges: tuple[tuple[int, int], ...]) -> None:
        self._state.skipped = [list(pair) for pair in ranges]

    @property
    def autonomy(self) -> str:
        return self._session.autonomy

    @autonomy.setter
    def autonomy(self, level: str) -> None:
        self._state.autonomy = level
        self._session.tell_run()

    @property
    def paused(self) -> bool:
        return self._run.paused

    @property
    def stopping(self) -> str | None:
        return self._run.stopping

    @property
    def saved(self) -> str | None:
        return self._run.saved

    def pause(self, paused: bool) -> None:
        self._run.pause(paused)

    def save(self) -> None:
        self._run.save()

    def stop(self, reason: str) -> None:
        self._run.stop(reason)

    def snapshot(self) -> tuple[CanonicalState, float]:
        """The engine's whole state, to be handed back to `restore` when an action did not verify."""
        return self._engine.export_state(), self._state.lr_scale

    def restore(self, snapshot: tuple[CanonicalState, float]) -> None:
        state, self._state.lr_scale = snapshot
        self._engine.rebuild(state)
