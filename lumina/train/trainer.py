"""`Trainer`: one run, trained in this process, with the source document's methods under their names.

Every method is a short delegation; calls that change the run are journalled like anyone else's.
"""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from lumina.client import check_needs, configure
from lumina.config import Config
from lumina.data import Dataset
from lumina.hardware import detect
from lumina.launch import create_run
from lumina.model import surgery
from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths
from lumina.store.lock import RunLock
from lumina.store.writer import StoreWriter
from lumina.train.ending import end_session
from lumina.train.interrupts import Interrupts
from lumina.train.loop import Loop
from lumina.train.saver import Saver
from lumina.train.session import Session
from lumina.train.setup import open_session
from lumina.train.steering import Steering
from lumina.views.queries import current_metrics, expert_statistics, mod_statistics


class Trainer:
    """Trains one run in this process.

    ```python
    with lumina.Trainer("debug", data=["my.txt"], name="script", steps=100) as trainer:
        trainer.train(until=50)
        trainer.adjust_routing_temperature(1.5)
        trainer.train()
    ```
    """

    def __init__(self, preset: str | Path | Config = "debug", *, data: Sequence[str | Path] | None = None,
                 name: str, steps: int | None = None, directory: str | Path = "experiments",
                 **overrides: Any) -> None:  # fmt: skip
        """Creates the run `directory/name` and opens it.

        Raises `ConfigError`, `DataError`, or `Refusal` (name_taken, locked).
        """
        config = configure(preset, data, steps, None, overrides)
        check_needs(config, detect())
        self._open(create_run(config, name, Path(directory)))

    @classmethod
    def open(cls, paths: RunPaths, *, lock: RunLock | None = None, writer: StoreWriter | None = None,
             resume: str | None = None, steps: int | None = None,
             interrupts: Interrupts | None = None) -> Trainer:  # fmt: skip
        """A trainer for an existing run directory; `resume` is None for a new run, else latest, best_val or a step."""
        trainer = cls.__new__(cls)
        trainer._open(paths, lock=lock, writer=writer, resume=resume, steps=steps, interrupts=interrupts)
        return trainer

    def _open(self, paths: RunPaths, *, lock: RunLock | None = None, writer: StoreWriter | None = None,
              resume: str | None = None, steps: int | None = None,
              interrupts: Interrupts | None = None) -> None:  # fmt: skip
        self._interrupts = interrupts or Interrupts()
        self._session: Session = open_session(
            paths,
            lock or RunLock.acquire(paths),
            writer or StoreWriter(paths),
            resume=resume,
            steps=steps,
            interrupts=self._interrupts,
        )
        self._saver = Saver(self._session)
        self._steering = Steering(self._session, self._saver, self._interrupts)
        self._loop = Loop(self._session, self._steering, self._saver)
        self._outcome = "running"

    @property
    def step(self) -> int:
        """The last optimizer step that was attempted."""
        return self._session.state.step

    @property
    def session(self) -> Session:
        """The parts of this run, for programs that put something around them: the gym, benchmarks."""
        return self._session

    def train(self, until: int | None = None) -> str:
        """Trains up to step `until`, or to the end of the budget; returns `running`, `finished` or `stopped`."""
        self._session.writer.meta("state", "running")
        self._outcome = self._loop.run(until)
        return self._outcome

    def close(self) -> None:
        """Ends the run cleanly: what is left in the inbox is answered, everything is durable, the lock is free."""
        session, state = self._session, self._outcome if self._outcome != "running" else "stopped"
        reason = self._steering.stopping or session.orchestrator.ended or session.plan.reason
        self._saver.settle()
        if session.mid_step:
            state, reason = "failed", f"cut off after step {session.state.step}; a resume repeats what came after"
        elif self._outcome == "running":
            self._saver.save("final")
        end_session(session, self._steering, state, reason)

    def __enter__(self) -> Trainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The source document's methods

    def add_expert(self, layer_idx: int) -> None:
        """Adds an expert to a layer. Raises `Refusal` with the allowed range; nothing has changed then."""
        self._intervene("add_expert", layer_idx=layer_idx)

    def prune_expert(self, layer_idx: int, expert_idx: int) -> None:
        """Takes an expert out of a layer; its weights are frozen and kept. Raises `Refusal` as `add_expert` does."""
        self._intervene("prune_expert", layer_idx=layer_idx, expert_idx=expert_idx)

    def _initialize_new_expert(self, new_expert: int, existing_experts: Sequence[Tensor]) -> list[Tensor]:
        """Stacked tensors [experts, ...] with a noisy copy of `new_expert` behind the last, as `add_expert` makes them.

        Nothing of the run is changed.
        """
        noise = surgery.generator_of(self._session.plan.seed, self.step, 0)
        return surgery.initialize_new_expert(new_expert, existing_experts, noise=surgery.NOISE, generator=noise)

    def adjust_capacity_factor(self, factor: float) -> None:
        """Sets how many tokens an expert takes in a training step, as a multiple of its fair share."""
        self._intervene("adjust_capacity_factor", factor=factor)

    def adjust_routing_temperature(self, temperature: float) -> None:
        """Sets the routing temperature of every MoE layer."""
        self._intervene("adjust_routing_temperature", temperature=temperature)

    def enable_expert_dropout(self, dropout_prob: float) -> None:
        """Leaves each expert out of a training step with this chance; evaluation uses all of them."""
        self._intervene("enable_expert_dropout", dropout_prob=dropout_prob)

    def adjust_mod_capacity(self, capacity_factor: float) -> None:
        """Sets the share of tokens that goes through a layer with Mixture of Depths."""
        self._intervene("adjust_mod_capacity", capacity_factor=capacity_factor)

    def adjust_batch_size(self, new_batch_size: int) -> None:
        """Sets the sequences per micro-batch; gradient accumulation follows, so that a step sees as many as before."""
        self._intervene("adjust_batch_size", new_batch_size=new_batch_size)

    def adjust_training_length(self, total_steps: int) -> None:
        """Ends the run after so many steps in all; what is left of the learning rate's schedule is stretched to it."""
        self._intervene("adjust_training_length", total_steps=total_steps)

    def _recreate_dataloader(self, dataset: Dataset) -> None:
        """A new loader over the run's own data, as `adjust_batch_size` makes it; the next batch is the one due."""
        if dataset is not self._session.dataset:
            raise Refusal("bad_argument", "a run keeps the data that it was started with; start another run for other")
        self._session.recreate_loader()

    def adjust_weight_decay(self, weight_decay: float) -> None:
        """Sets the weight decay of the matrices, from the next step on."""
        self._intervene("adjust_weight_decay", weight_decay=weight_decay)

    def _update_optimizer_param_groups(self, param: str, value: float) -> None:
        """Sets `param` of the optimizer's groups through the method that journals it."""
        if param != "weight_decay":
            raise Refusal("bad_argument", f"{param!r} of the optimizer's groups cannot be set; weight_decay can")
        self.adjust_weight_decay(value)

    def emergency_lr_reduction(self, reduction_factor: float) -> None:
        """Divides the learning rate of every later step by `reduction_factor`."""
        self._intervene("emergency_lr_reduction", reduction_factor=reduction_factor)

    def rollback_steps(self, num_steps: int) -> None:
        """Goes back to the newest checkpoint at least `num_steps` ago. Raises `Refusal` when none is left."""
        self._intervene("rollback_steps", num_steps=num_steps)

    def get_expert_statistics(self) -> dict[str, Any]:
        """Keys per_expert_utilization, routing_entropy, load_balance_loss, tokens_dropped, per_layer; newest step."""
        return expert_statistics(self._value, self._array, self._session.config.moe_layers)

    def get_mod_statistics(self) -> dict[str, Any]:
        """Keys capacity_factor, tokens_processed, tokens_skipped, average_depth, per_layer_usage, compute_savings."""
        capacity = self._session.engine.get_hparams().get("mod_capacity_factor")
        return mod_statistics(self._value, self._array, capacity)

    def get_current_metrics(self) -> dict[str, Any]:
        """Keys loss, learning_rate, grad_norm, throughput, memory_usage (bytes), epoch, step; of the newest step."""
        state = self._session.state
        epoch = self._session.loader.epoch_of(state.position)
        return current_metrics(self._value, epoch=epoch, step=state.step)

    def _calculate_throughput(self) -> float | None:
        """Tokens per second of the newest step."""
        return self._value("throughput")

    def _extract_moe_routing_stats(self) -> dict[str, Any]:
        return self.get_expert_statistics()

    def intervene(self, method: str, **args: Any) -> dict[str, Any]:
        """Any action of the catalogue by its name; returns its receipt. Raises `Refusal` as the methods above do."""
        return self._steering.acts.intervene(method, args, {"name": getpass.getuser(), "via": "script"})

    def _intervene(self, method: str, **args: Any) -> None:
        self.intervene(method, **args)

    def _value(self, name: str) -> float | None:
        return self._loop.newest.get(name)

    def _array(self, name: str) -> list[Any] | None:
        array = self._loop.newest_arrays.get(name)
        return None if array is None else array.tolist()
