"""What a click means, in the dashboard and in the notebook: a message from the page becomes a command to a run.

It must not know the page, nor what a command does to a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from lumina import children, views
from lumina.client import Run
from lumina.receipts import PendingReceipt
from lumina.rehearsal import Rehearsal
from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths

CONTROLS: Final = ("pause", "unpause", "checkpoint", "stop")
REHEARSING: Final = ("rehearse", "stop_rehearsal", "discard_rehearsal")
"""What is done with child runs: it is no command to the run, so that it has no receipt."""


def send(run: Run, message: Mapping[str, Any]) -> PendingReceipt:
    """Sends `{action, proposal?, receipt?, method?, args?}`; action: `CONTROLS`, approve, reject, intervene, undo.

    Raises `Refusal` when that cannot be done, or is no command.
    """
    action, args = message.get("action"), dict(message.get("args") or {})
    if action in CONTROLS:
        pending: PendingReceipt = getattr(run, str(action))()
        return pending
    if action == "approve":
        return run.approve(str(message.get("proposal")), **args)
    if action == "reject":
        return run.reject(str(message.get("proposal")), why=str(args.get("why") or "").strip() or None)
    if action == "intervene":
        return run.intervene(str(message.get("method")), **args)
    if action == "undo":
        return run.undo(str(message.get("receipt")))
    raise Refusal("bad_argument", f"{action!r} is not a command")


def rehearse(run: Run, message: Mapping[str, Any]) -> None:
    """Does `{action, method?, args?, proposal?, id?}`; action: `REHEARSING`. Raises `Refusal` when that cannot be."""
    if message.get("action") == "rehearse":
        run.rehearse(str(message.get("method")), dict(message.get("args") or {}), proposal=message.get("proposal"))
        return
    known = views.rehearsals(run.paths, limit=10)
    chosen = next((one for one in known if one["id"] == message.get("id")), None)
    if chosen is None:
        raise Refusal("not_found", f"run {run.name!r} has no rehearsal {message.get('id')!r}")
    members = [RunPaths(run.paths.root.parent / name) for name in chosen["children"]]
    if message.get("action") == "stop_rehearsal":
        Rehearsal(members[1], run.via).stop()
    else:
        for member in members:
            children.delete_child(member)


def attempt(find: Callable[[], Run], message: Mapping[str, Any]) -> dict[str, Any]:
    """Sends it to the run that `find` finds; returns the receipt so far: queued, or without an id refused or done."""
    try:
        if message.get("action") in REHEARSING:
            rehearse(find(), message)
            return {"id": None, "kind": message["action"], "state": "done"}
        sent = send(find(), message).command
    except Refusal as refusal:
        what = message.get("method") or message.get("action")
        return {"id": None, "kind": what, "state": "refused", "reason": refusal.message}
    shown = {"id": sent.id, "kind": sent.kind, "method": sent.method, "args": dict(sent.args)}
    return {**shown, "proposal": sent.proposal, "state": "queued"}
