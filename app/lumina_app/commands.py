"""What a click means: the commands of the page, sent through `lumina.client` and answered in words.

A refusal becomes a message on the page. It must not know the layout, nor what a command does to a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import gradio as gr

from lumina.client import PendingReceipt, Run
from lumina.store.errors import Refusal
from lumina_app.live import run_paths

CONTROLS: Final = ("pause", "unpause", "checkpoint", "stop")


class Commands:
    """Commands to the runs under one folder. Each returns the queued receipt, or raises `gr.Error`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def control(self, kind: str, run: str | None) -> dict[str, Any]:
        """One of `CONTROLS`."""
        if kind not in CONTROLS:
            raise gr.Error(f"{kind!r} is not a command", print_exception=False)
        return self._send(run, lambda found: getattr(found, kind)())

    def decide(self, decision: Mapping[str, Any]) -> dict[str, Any]:
        """`{run, action: approve|reject, id, args?, why?}` as the approval card says it."""
        proposal, args = str(decision.get("id")), decision.get("args") or {}
        if decision.get("action") == "approve":
            return self._send(decision.get("run"), lambda found: found.approve(proposal, **args))
        why = str(decision.get("why") or "").strip() or None
        return self._send(decision.get("run"), lambda found: found.reject(proposal, why=why))

    def intervene(self, run: str | None, method: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """Triggers a method by hand; empty fields take their default."""
        given = {name: value for name, value in args.items() if value is not None}
        return self._send(run, lambda found: found.intervene(method, **given))

    def _send(self, run: str | None, command: Callable[[Run], PendingReceipt]) -> dict[str, Any]:
        try:
            pending = command(Run(run_paths(self._directory, run or ""), via="dashboard"))
        except Refusal as refusal:
            raise gr.Error(refusal.message, title="Not sent", print_exception=False) from None
        sent = pending.command
        shown = {"id": sent.id, "kind": sent.kind, "method": sent.method, "args": dict(sent.args)}
        return {**shown, "proposal": sent.proposal, "state": "queued"}
