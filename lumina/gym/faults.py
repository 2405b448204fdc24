"""Breaks a run from outside: the batches, the rate, the gradients or the state, at the seam around the engine.

It decides by step or by data position alone; what notices or mends it must not know this module.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lumina.engine.api import MicroBatch
from lumina.gym.scenario import OF_DATA, Fault
from lumina.train.session import Session


class Broken:
    """A fault in force on a session."""

    def __init__(self, fault: Fault, session: Session) -> None:
        self.fault, self.session = fault, session
        self._over = False  # a change of state is made once, also when the run comes by a second time
        per_step = session.plan.sequences_per_step
        self._positions = range((fault.at - 1) * per_step, (fault.at - 1 + fault.steps) * per_step)

    def rate(self, step: int, scheduled: float) -> float:
        """The rate that reaches the optimizer."""
        lasting = self.fault.kind == "learning_rate" and step >= self.fault.at
        return scheduled * self.fault.value if lasting else scheduled

    def batches(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """The batches as the engine gets them."""
        if self.fault.kind != "noise":
            return list(batches)
        return [self._noisy(batch, first) for batch, first in self._located(batches)]

    @contextmanager
    def around(self, step: int, batches: Sequence[MicroBatch], model: nn.Module) -> Iterator[None]:
        """What is wrong inside of one step."""
        self._once(step, model)
        hit = any(self._bad_rows(batch, first).any() for batch, first in self._located(batches))
        with ExitStack() as hooks:
            if hit and self.fault.kind == "gradient":
                for parameter in model.parameters():
                    handle = parameter.register_hook(self._larger)  # type: ignore[no-untyped-call]
                    hooks.callback(handle.remove)
            if hit and self.fault.kind == "nan":
                first = model.get_submodule("layers.0")
                hooks.callback(first.register_forward_pre_hook(_not_a_number).remove)
            if self.fault.kind == "oom" and step >= self.fault.at:
                hooks.callback(model.register_forward_pre_hook(self._must_fit).remove)
            yield

    def loader(self, loader: Any) -> Any:
        """The loader that the next step reads from."""
        if self.fault.kind != "slow_loader" or isinstance(loader, SlowLoader):
            return loader
        return SlowLoader(loader, self.session, self.fault)

    def _must_fit(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # Raised within the engine, where memory runs out in earnest.
        if len(inputs[0]) > self.fault.value:
            raise torch.OutOfMemoryError(f"the gym's memory holds {self.fault.value:g} sequences")

    def _larger(self, gradient: Tensor) -> Tensor:
        return gradient * self.fault.value

    def _once(self, step: int, model: nn.Module) -> None:
        if self._over or step < self.fault.at:
            return
        self._over = True
        if self.fault.kind in ("capacity_factor", "mod_capacity_factor"):
            self.session.engine.set_hparams(**{self.fault.kind: self.fault.value})
        if self.fault.kind == "router_bias":
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name.endswith("moe.router_bias"):
                        parameter[0] += self.fault.value

    def _located(self, batches: Sequence[MicroBatch]) -> Iterator[tuple[MicroBatch, int]]:
        first = self.session.state.position
        for batch in batches:
            yield batch, first
            first += len(batch.tokens)

    def _bad_rows(self, batch: MicroBatch, first: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        if self.fault.kind not in OF_DATA:
            return np.zeros(len(batch.tokens), dtype=bool)
        return np.array([first + row in self._positions for row in range(len(batch.tokens))])

    def _noisy(self, batch: MicroBatch, first: int) -> MicroBatch:
        tokens, labels = batch.tokens.copy(), batch.labels.copy()
        for row in np.flatnonzero(self._bad_rows(batch, first)):
            random = np.random.default_rng([self.session.plan.seed, 13, first + int(row)])
            if random.random() < self.fault.value:
                drawn = random.integers(0, self.session.dataset.vocab_size, tokens.shape[1] + 1)
                tokens[row] = drawn[:-1]
                labels[row] = np.where(labels[row] == -100, -100, drawn[1:])
        return dataclasses.replace(batch, tokens=tokens, labels=labels)


class SlowLoader:
    """The loader of a session, late from a step on."""

    def __init__(self, loader: Any, session: Session, fault: Fault) -> None:
        self._loader, self._session, self._fault = loader, session, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def batch(self, *args: Any, **kwargs: Any) -> Any:
        if self._session.state.step + 1 >= self._fault.at:
            time.sleep(self._fault.value)
        return self._loader.batch(*args, **kwargs)


def _not_a_number(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return inputs[0] * math.nan, *inputs[1:]
