"""Faults, each armed in a trainer's process before it runs; everything is injected at the product's own seams.

Each writes what it hit to the file `hits` first, so that a test counts only what really happened.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lumina.store import atomic


def _hit(hits: Path, **facts: Any) -> None:
    with hits.open("a") as file:
        file.write(json.dumps(facts) + "\n")


def _die(hits: Path, **facts: Any) -> None:
    _hit(hits, **facts)
    os.kill(os.getpid(), signal.SIGKILL)


# At the fault seam


def _counting(within: str, kinds: list[str] | None, act: Callable[[int, str, Path], None]) -> None:
    """Calls `act(number, kind, path)` before each operation on a path that contains `within`."""
    seen = 0

    def hook(kind: str, path: Path) -> None:
        nonlocal seen
        if within in str(path) and (kinds is None or kind in kinds):
            seen += 1
            act(seen, kind, path)

    atomic.fault_hook = hook


def count_operations(hits: Path, within: str, kinds: list[str] | None = None) -> None:
    """Changes nothing; each operation leaves a line."""
    _counting(within, kinds, lambda number, kind, path: _hit(hits, number=number, kind=kind, path=str(path)))


def kill_at_operation(hits: Path, within: str, number: int, kinds: list[str] | None = None) -> None:
    """SIGKILL just before the operation."""

    def act(seen: int, kind: str, path: Path) -> None:
        if seen == number:
            _die(hits, number=seen, kind=kind, path=str(path))

    _counting(within, kinds, act)


def tear_at_operation(hits: Path, within: str, number: int, share: float) -> None:
    """SIGKILL in the middle of the write or append: a share of its bytes is there."""
    seen = 0

    def recorder(operation: atomic.Operation) -> None:
        nonlocal seen
        if within not in str(operation.path) or operation.kind not in ("write", "append"):
            return
        seen += 1
        if seen == number:
            part = bytes(operation.data)[: int(len(operation.data) * share)]
            with open(operation.path, "ab") as file:
                file.write(part)
            _die(hits, number=seen, kind=operation.kind, path=str(operation.path), bytes=len(part))

    atomic.recorder = recorder


def fail_operations(hits: Path, within: str, errno: int, first: int = 1, times: int = 1_000_000,
                    kinds: list[str] | None = None) -> None:  # fmt: skip
    """An `OSError` for `times` operations from the `first` on."""

    def act(seen: int, kind: str, path: Path) -> None:
        if first <= seen < first + times:
            _hit(hits, number=seen, kind=kind, path=str(path))
            raise OSError(errno, os.strerror(errno), str(path))

    _counting(within, kinds, act)


def kill_after_line(hits: Path, number: int, types: list[str]) -> None:
    """SIGKILL as soon as the journal's line of that number among these types is durable, before anybody acts on it."""
    from lumina.store.journal import Journal

    whole = Journal.append
    seen = 0

    def appended(self: Journal, *entry: Any, **rest: Any) -> Any:
        nonlocal seen
        committed = whole(self, *entry, **rest)
        seen += committed.type in types
        if seen == number:
            _die(hits, number=number, type=committed.type)
        return committed

    Journal.append = appended  # type: ignore[method-assign]


def signal_at_operation(hits: Path, within: str, number: int, signals: list[int]) -> None:
    """Signals to the process itself just before the operation."""

    def act(seen: int, kind: str, path: Path) -> None:
        if seen == number:
            _hit(hits, number=seen, kind=kind, path=str(path))
            for each in signals:
                os.kill(os.getpid(), each)

    _counting(within, None, act)


def record_operations(hits: Path) -> None:
    """Every operation with its data, for `disk.Log`."""

    def recorder(operation: atomic.Operation) -> None:
        _hit(
            hits,
            kind=operation.kind,
            path=str(operation.path),
            data=b64encode(operation.data).decode(),
            source=None if operation.source is None else str(operation.source),
            length=operation.length,
        )

    atomic.recorder = recorder


# In a step, and while a command is answered


class _CallCounter:
    """Counts the calls of Python functions of the product in this thread, and dies at one of them."""

    def __init__(self, hits: Path, fatal: int | None) -> None:
        self.hits, self.fatal, self.seen = hits, fatal, 0

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if event != "call" or "/lumina/" not in frame.f_code.co_filename:
            return
        self.seen += 1
        if self.seen == self.fatal:
            _die(self.hits, call=self.seen, function=frame.f_code.co_qualname)

    def watch(self, run: Callable[[], Any]) -> Any:
        sys.setprofile(self)
        try:
            return run()
        finally:
            sys.setprofile(None)


def kill_in_step(hits: Path, step: int, call: int) -> None:
    """SIGKILL at a call of a function inside a step; at the step's end if it has fewer."""
    from lumina.train.loop import Loop

    whole = Loop.step

    def stepped(self: Loop) -> Any:
        if self.session.state.step + 1 != step:
            return whole(self)
        _CallCounter(hits, call).watch(lambda: whole(self))
        return _die(hits, call=None, function="end of the step")

    Loop.step = stepped  # type: ignore[method-assign]


def kill_in_answer(hits: Path, call: int | None) -> None:
    """SIGKILL at a call of a function while a command is answered; with None it is only counted."""
    from lumina.train.steering import Steering

    whole = Steering._answer

    def answered(self: Steering, command: Any) -> None:
        counter = _CallCounter(hits, call)
        counter.watch(lambda: whole(self, command))
        _hit(hits, calls=counter.seen)

    Steering._answer = answered  # type: ignore[method-assign]


def signal_at_step(hits: Path, step: int, signals: list[int]) -> None:
    """Signals to the process itself just before a step."""

    def act(_: Any) -> None:
        _hit(hits, step=step)
        for each in signals:
            os.kill(os.getpid(), each)

    _before_step(step, act)


def _before_step(step: int, act: Callable[[Any], Any]) -> None:
    from lumina.train.loop import Loop

    whole = Loop.step

    def stepped(self: Loop) -> Any:
        if self.session.state.step + 1 == step:
            act(self)
        return whole(self)

    Loop.step = stepped  # type: ignore[method-assign]


def slow_steps(hits: Path, seconds: float) -> None:
    """Steps that take a while, so that a test can do something between them."""
    from lumina.train.loop import Loop

    whole = Loop.step

    def stepped(self: Loop) -> Any:
        time.sleep(seconds)
        return whole(self)

    Loop.step = stepped  # type: ignore[method-assign]


def move_clock(hits: Path, step: int, seconds: float) -> None:
    """The wall clock jumps before a step, for everything in this process that asks for the time."""
    real = time.time
    jumped = 0.0

    def jump(_: Any) -> None:
        nonlocal jumped
        jumped = seconds
        _hit(hits, step=step, now=time.time())

    time.time = lambda: real() + jumped
    _before_step(step, jump)


def spoil_loss(hits: Path, step: int, factor: float, steps: int = 1) -> None:
    """The loss of a step's first micro-batch is multiplied by a factor (NaN, infinity, or very large), in one step or
    in several in a row."""
    import dataclasses

    from lumina.engine.torch_engine import TorchEngine
    from lumina.model import Transformer

    whole, forward = TorchEngine.train_step, Transformer.forward
    due = False

    def train_step(self: TorchEngine, number: int, *rest: Any) -> Any:
        nonlocal due
        due = step <= number < step + steps
        return whole(self, number, *rest)

    def spoiled(self: Transformer, *batch: Any, **more: Any) -> Any:
        nonlocal due
        output = forward(self, *batch, **more)
        if not due:
            return output
        due = False
        _hit(hits, step=step)
        return dataclasses.replace(output, loss_sum=output.loss_sum * factor)

    TorchEngine.train_step = train_step  # type: ignore[method-assign]
    Transformer.forward = spoiled  # type: ignore[method-assign]


# The orchestrator


def propose_at_check(hits: Path, step: int, proposals: list[list[Any]]) -> None:
    """The check after a step finds these as well: [method, arguments, [[method, arguments] that follow]]."""
    import dataclasses
    import uuid

    from lumina.orchestrator import Orchestrator, Proposal
    from lumina.orchestrator.types import Act

    whole = Orchestrator.check

    def check(self: Orchestrator, number: int, *rest: Any) -> Any:
        result = whole(self, number, *rest)
        if number != step:
            return result
        _hit(hits, step=step)
        more = [
            Proposal(
                id=uuid.uuid5(uuid.NAMESPACE_URL, f"{step} {method}").hex, step=step, method=method, args=args,
                cause=f"injected {method}", evidence={}, confidence=1.0, expires_step=step + 10,
                then=tuple(Act(*act) for act in then),
            )
            for method, args, then in proposals
        ]  # fmt: skip
        return dataclasses.replace(result, proposals=(*result.proposals, *more))

    Orchestrator.check = check  # type: ignore[method-assign]


# The metrics database


def fill_database(hits: Path, step: int, until: int) -> None:
    """From one step to another the database may not grow by a single page, as on a full disk (SQLITE_FULL)."""
    from lumina.store import sink, writer

    whole = writer.Sink.commit
    full = False

    def commit(self: sink.Sink, items: Any, meta: Any, *, durable: bool) -> None:
        self.open()
        assert self._db is not None
        pages = self._db.execute("PRAGMA page_count").fetchone()[0]
        self._db.execute(f"PRAGMA max_page_count={pages if full else 1_073_741_823}")
        whole(self, items, meta, durable=durable)

    def switch(on: bool) -> Callable[[Any], None]:
        def act(_: Any) -> None:
            nonlocal full
            full = on
            _hit(hits, full=on)

        return act

    writer.Sink.commit = commit  # type: ignore[method-assign]
    _before_step(step, switch(True))
    _before_step(until, switch(False))


def limit_queue(hits: Path, limit: int) -> None:
    """The store's queue holds so many numbers."""
    from lumina.store.writer import StoreWriter

    StoreWriter.__init__.__kwdefaults__["limit"] = limit


# Commands at a chosen step


def send_at_step(
    hits: Path, step: int, kind: str, method: str | None = None, args: dict[str, Any] | None = None
) -> None:
    """A command in the inbox while a step is made; an approval is for the first proposal."""
    from lumina.store import inbox
    from lumina.store.layout import new_id

    def send(loop: Any) -> None:
        session = loop.session
        proposal = next(iter(session.ledger.proposals), None) if kind == "approve" else None
        state = session.ledger.proposals[proposal]["state"] if proposal else None
        command = inbox.Command(new_id(), kind, method, args or {}, proposal, {"name": "ada", "via": "api"})
        inbox.send(session.paths, command)
        _hit(hits, step=step, id=command.id, proposal=proposal, state=state)

    _before_step(step, send)


def watch_inbox(hits: Path) -> None:
    """How many files wait before each step, and when."""
    from lumina.train.loop import Loop

    whole = Loop.step

    def stepped(self: Loop) -> Any:
        waiting = sum(1 for _ in os.scandir(self.session.paths.inbox))
        _hit(hits, step=self.session.state.step, waiting=waiting, at=time.monotonic())
        return whole(self)

    Loop.step = stepped  # type: ignore[method-assign]


# Memory


def limit_memory(hits: Path, step: int, sequences: int, phase: str) -> None:
    """From a step on, a larger micro-batch runs out of memory in forward, backward, the optimizer's step or in
    validation."""
    import torch

    from lumina.engine.optimizer import AdamW
    from lumina.engine.torch_engine import TorchEngine
    from lumina.model import Transformer

    train_step, forward = TorchEngine.train_step, Transformer.forward
    backward, update = torch.Tensor.backward, AdamW.step
    now = {"step": 0, "sequences": 0}

    def check(where: str) -> None:
        if where == phase and now["step"] >= step and now["sequences"] > sequences:
            _hit(hits, step=now["step"], sequences=now["sequences"])
            raise torch.OutOfMemoryError(f"CUDA out of memory (injected in {where})")

    def stepped(self: Any, number: int, *rest: Any) -> Any:
        now["step"] = number
        return train_step(self, number, *rest)

    def forwarded(self: Any, tokens: Any, *rest: Any, **more: Any) -> Any:
        now["sequences"] = len(tokens)
        check("forward" if self.training else "validation")
        return forward(self, tokens, *rest, **more)

    def went_back(self: Any, *rest: Any, **more: Any) -> Any:
        check("backward")
        return backward(self, *rest, **more)

    def updated(self: Any, *rest: Any, **more: Any) -> Any:
        check("optimizer")
        return update(self, *rest, **more)

    TorchEngine.train_step = stepped  # type: ignore[method-assign]
    Transformer.forward = forwarded  # type: ignore[method-assign]
    torch.Tensor.backward = went_back  # type: ignore[method-assign]
    AdamW.step = updated  # type: ignore[method-assign]
