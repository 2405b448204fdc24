"""`pause`, `unpause`, `checkpoint`, `stop`: one command to a live run, and its receipt.

It knows how receipts are shown; what a command does is the trainer's.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lumina._cli.output import clean, complain, number, print_json, say, values
from lumina._cli.parsing import Commands, add_json, add_run
from lumina.store.errors import REFUSAL_CODES, Refusal

if TYPE_CHECKING:
    from lumina.client import Run
    from lumina.receipts import PendingReceipt

RECEIPT_SECONDS = 30.0
_RECEIPT_KEYS = ("id", "kind", "method", "args", "state", "step", "before", "after", "reason", "code")


def register(commands: Commands) -> None:
    """Add the four commands."""
    for name, help in (
        ("pause", "pause a run before its next step, keeping everything in memory"),
        ("unpause", "let a paused run go on"),
        ("checkpoint", "write a checkpoint now"),
        ("stop", "write a checkpoint and end a run; `lumina resume` continues it"),
    ):
        parser = commands.add(
            name,
            control,
            help,
            about="Waits for the receipt, up to 30 seconds. Exit status 1 or 2 when refused, 1 without an answer.",
            examples=(f"lumina {name} first", f"lumina {name} first --json"),
        )
        add_run(parser)
        add_json(parser, "print the receipt as one JSON document")


def control(args: argparse.Namespace) -> int:
    """Send the command that the subcommand is named after and show what became of it."""
    run = open_run(args)
    return show_receipt(getattr(run, args.command)(), as_json=args.json)


def open_run(args: argparse.Namespace) -> Run:
    """The run that RUN names; raises `Refusal('not_found')`."""
    from lumina.client import attach

    return attach(args.run, args.dir, via="cli")


def show_receipt(pending: PendingReceipt, *, as_json: bool) -> int:
    """Wait for the receipt and print it; the exit status is 0 only when it says verified, else that of its code."""
    receipt = receipt_json(pending.wait(timeout=RECEIPT_SECONDS))
    if as_json:
        print_json(receipt)
    if receipt["state"] == "verified":
        if not as_json:
            say(receipt_line(receipt))
        return 0
    if receipt["state"] == "queued":
        complain(
            f"no answer within {RECEIPT_SECONDS:.0f} s; command {receipt['id']} stays queued and is answered "
            "before the next step"
        )
    else:
        code = f" ({receipt['code']})" if receipt["code"] else ""
        complain(f"{what(receipt)} {receipt['state']}: {clean(receipt['reason'])}{code}")
        if receipt["code"] in REFUSAL_CODES:
            return Refusal(receipt["code"], "").exit_code
    return 1


def receipt_json(receipt: Any) -> dict[str, Any]:
    """A receipt with the documented keys, whatever else it has."""
    found = dict(receipt)
    return {**dict.fromkeys(_RECEIPT_KEYS), **found}


def what(receipt: dict[str, Any]) -> str:
    """The method that was asked for or undone, else the kind of command."""
    if receipt["kind"] == "undo" and receipt["method"]:
        return clean(f"undo {receipt['method']}")
    return clean(receipt["method"] or receipt["kind"] or "command")


def receipt_line(receipt: dict[str, Any]) -> str:
    """``adjust_routing_temperature verified at step 120: routing_temperature 1 → 1.5 (receipt 3f2a...)``."""
    step = "" if receipt["step"] is None else f" at step {number(receipt['step'])}"
    changed = changes(receipt["before"], receipt["after"])
    return f"{what(receipt)} verified{step}{': ' + changed if changed else ''} (receipt {clean(receipt['id'])})"


def changes(before: Any, after: Any) -> str:
    """``name old → new`` for every value that was read back."""
    if not isinstance(after, dict):
        return ""
    earlier = before if isinstance(before, dict) else {}
    parts = []
    for name, value in after.items():
        if value is None and earlier.get(name) is None:
            continue  # a model without it: nothing was changed
        new = values({name: value}).partition("=")[2]
        if name in earlier:
            parts.append(f"{name} {values({name: earlier[name]}).partition('=')[2]} → {new}")
        else:
            parts.append(f"{name} = {new}")
    return clean(", ".join(parts))
