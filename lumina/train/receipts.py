"""The shape of a receipt: what was asked, what was read back, and why not. It knows no run and applies nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.store.inbox import Command


def receipt(id: str, kind: str, state: str, step: int | None, *, method: str | None, args: Mapping[str, Any],
            author: Mapping[str, Any], proposal: str | None, **rest: Any) -> dict[str, Any]:  # fmt: skip
    """A receipt with every documented key; `rest` fills before, after, reason, code, or adds keys of its own."""
    return {
        "id": id,
        "kind": kind,
        "method": method,
        "args": dict(args),
        "state": state,
        "step": step,
        "before": None,
        "after": None,
        "reason": None,
        "code": None,
        "author": dict(author),
        "proposal": proposal,
        **rest,
    }


def answer(command: Command, state: str, step: int | None, **rest: Any) -> dict[str, Any]:
    """The receipt of a command."""
    about = {"method": command.method, "args": command.args, "author": command.author, "proposal": command.proposal}
    return receipt(command.id, command.kind, state, step, **{**about, **rest})
