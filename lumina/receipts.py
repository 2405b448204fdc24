"""The answer to a command, and waiting for it: a receipt is read from where the trainer left it.

It knows no run's state beyond whether anybody is there to answer.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lumina.store import inbox
from lumina.store.errors import Refusal
from lumina.store.inbox import Command
from lumina.store.layout import RunPaths
from lumina.store.lock import is_locked

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Receipt(Mapping[str, Any]):
    """The trainer's answer to a command; also a mapping with the same keys."""

    id: str
    kind: str
    state: str
    method: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    reason: str | None = None
    code: str | None = None

    @classmethod
    def of(cls, doc: Mapping[str, Any]) -> Receipt:
        return cls(**{f.name: doc[f.name] for f in dataclasses.fields(cls) if f.name in doc})

    def __getitem__(self, name: str) -> Any:
        return dataclasses.asdict(self)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dataclasses.asdict(self))

    def __len__(self) -> int:
        return len(dataclasses.fields(self))


@dataclass(frozen=True)
class PendingReceipt:
    """A command on its way."""

    paths: RunPaths
    command: Command

    @property
    def id(self) -> str:
        return self.command.id

    def wait(self, timeout: float = 30.0, *, check: bool = False) -> Receipt:
        """The receipt; state `queued` when none came in time.

        With `check`, a receipt that is not verified raises `Refusal` with its code and reason.
        """
        deadline = time.monotonic() + timeout
        receipt = self._read()
        while receipt is None and time.monotonic() < deadline:
            alive = is_locked(self.paths)
            receipt = self._read()
            if receipt is None and not alive:
                inbox.withdraw(self.paths, self.id)  # a later resume must not do what was reported as refused
                receipt = self._read() or self._answer(
                    "refused", "not_running", "the trainer ended before it read the command"
                )
            elif receipt is None:
                time.sleep(POLL_SECONDS)
        receipt = receipt or self._answer("queued", None, None)
        if check and receipt.state != "verified":
            raise Refusal(receipt.code or "busy", receipt.reason or "no answer yet")
        return receipt

    def _read(self) -> Receipt | None:
        doc = inbox.receipt_of(self.paths, self.id)
        if doc is not None:
            return Receipt.of(doc)
        rejected = inbox.rejection_of(self.paths, self.id)
        return self._answer("refused", "bad_argument", rejected) if rejected is not None else None

    def _answer(self, state: str, code: str | None, reason: str | None) -> Receipt:
        command = self.command
        return Receipt(command.id, command.kind, state, command.method, command.args, reason=reason, code=code)
