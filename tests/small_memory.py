"""A machine that runs out of memory: an engine whose phases fail from a number of sequences on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lumina.engine.api import MicroBatch
from lumina.engine.torch_engine import TorchEngine

CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")
ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cpu": CPU,
    "python": MemoryError(),
}
PHASES = {"forward": "_forward", "backward": "_backward", "the optimizer's step": "_update"}


@contextmanager
def memory_for(sequences: int, engine: Any, phase: str = "forward", error: Exception = CPU) -> Iterator[list[int]]:
    """Micro-batches of more sequences fail in `phase`; yields the sizes of those that did."""
    assert isinstance(engine, TorchEngine)
    failed: list[int] = []
    if phase == "validation":
        with _validation_for(sequences, engine, error, failed):
            yield failed
        return
    newest = [0]
    forward, method = engine._forward, PHASES[phase]
    real = getattr(engine, method)

    def sized(batch: MicroBatch) -> Any:
        newest[0] = len(batch.tokens)
        if method == "_forward":
            check()
        return forward(batch)

    def checked(*args: Any) -> Any:
        check()
        return real(*args)

    def check() -> None:
        if newest[0] > sequences:
            failed.append(newest[0])
            raise error

    if method != "_forward":
        setattr(engine, method, checked)
    engine._forward = sized  # type: ignore[method-assign]
    try:
        yield failed
    finally:
        del engine._forward  # type: ignore[method-assign]
        if method != "_forward":
            delattr(engine, method)


@contextmanager
def _validation_for(sequences: int, engine: TorchEngine, error: Exception, failed: list[int]) -> Iterator[None]:
    model = engine.model
    forward = model.forward

    def checked(tokens: Any, *rest: Any) -> Any:
        if not model.training and len(tokens) > sequences:
            failed.append(len(tokens))
            raise error
        return forward(tokens, *rest)

    model.forward = checked  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.forward
