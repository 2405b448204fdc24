"""What a click means: the commands of the page, sent through `lumina.client`.

A refusal is an answer like any other. It must not know the layout, nor what a command does to a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lumina.client import PendingReceipt, Run
from lumina.store.errors import Refusal
from lumina_app.live import run_paths

CONTROLS: Final = ("pause", "unpause", "checkpoint", "stop")


class Commands:
    """Commands to the runs under one folder.

    Each answers with the receipt as far as it is known: `queued`, or `refused` with the reason and without an id.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def control(self, kind: str, run: str | None) -> dict[str, Any]:
        """One of `CONTROLS`."""
        if kind not in CONTROLS:
            raise ValueError(f"{kind!r} is not one of {', '.join(CONTROLS)}")
        return self._send(run, kind, lambda found: getattr(found, kind)())

    def decide(self, decision: Mapping[str, Any]) -> dict[str, Any]:
        """`{run, action: approve|reject, id, args?, why?}` as the approval card says it."""
        run, proposal, args = decision.get("run"), str(decision.get("id")), decision.get("args") or {}
        if decision.get("action") == "approve":
            return self._send(run, "approve", lambda found: found.approve(proposal, **args))
        why = str(decision.get("why") or "").strip() or None
        return self._send(run, "reject", lambda found: found.reject(proposal, why=why))

    def intervene(self, run: str | None, method: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """Triggers a method by hand; empty fields take their default."""
        given = {name: value for name, value in args.items() if str(value).strip()}
        return self._send(run, method, lambda found: found.intervene(method, **given))

    def undo(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """`{run, receipt}`: sets the values from before that intervention again."""
        return self._send(wanted.get("run"), "undo", lambda found: found.undo(str(wanted.get("receipt"))))

    def _send(self, run: str | None, what: str, command: Callable[[Run], PendingReceipt]) -> dict[str, Any]:
        try:
            sent = command(Run(run_paths(self._directory, run or ""), via="dashboard")).command
        except Refusal as refusal:
            return {"id": None, "kind": what, "state": "refused", "reason": refusal.message}
        shown = {"id": sent.id, "kind": sent.kind, "method": sent.method, "args": dict(sent.args)}
        return {**shown, "proposal": sent.proposal, "state": "queued"}
