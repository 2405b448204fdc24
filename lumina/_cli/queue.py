"""What a person decides: proposals, approve, reject, and interventions by hand."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lumina._cli.control import changes, open_run, show_receipt, what
from lumina._cli.output import clean, number, print_json, say, values
from lumina._cli.parsing import Commands, add_json, add_run, arguments, pair

if TYPE_CHECKING:
    from lumina.client import Run

RECEIPTS_SHOWN = 50


def register(commands: Commands) -> None:
    """Add the six commands."""
    proposals = commands.add("proposals", show_proposals, "list what the orchestrator proposes, with its evidence")
    add_run(proposals)
    add_json(proposals)
    approve = commands.add(
        "approve", approve_proposal, "approve a proposal", examples=("lumina approve first 3f2a --set temperature=1.4",)
    )
    add_run(approve)
    approve.add_argument("id", metavar="ID", help="id of the proposal, or the beginning of it")
    approve.add_argument("--set", nargs="+", default=[], type=pair, metavar="ARG=VALUE", help="change its arguments")
    add_json(approve)
    reject = commands.add("reject", reject_proposal, "reject a proposal")
    add_run(reject)
    reject.add_argument("id", metavar="ID", help="id of the proposal, or the beginning of it")
    reject.add_argument("--why", metavar="TEXT", help="kept in the journal")
    add_json(reject)
    intervene = commands.add(
        "intervene",
        intervene_by_hand,
        "change a live run by hand",
        examples=("lumina intervene first adjust_routing_temperature temperature=1.5 --wait",),
    )
    add_run(intervene)
    intervene.add_argument("method", metavar="METHOD", help="see lumina interventions")
    intervene.add_argument("pairs", nargs="*", type=pair, metavar="ARG=VALUE")
    intervene.add_argument("--wait", action="store_true", help="wait for the receipt")
    add_json(intervene)
    undo = commands.add(
        "undo",
        undo_intervention,
        "take an intervention back",
        about="Sets the old values again from the next step on. With --rewind the whole run goes back to the "
        "checkpoint before the intervention; the steps since then stay in the store as a branch.",
        examples=("lumina undo first 3f2a", "lumina undo first 3f2a --rewind"),
    )
    add_run(undo)
    undo.add_argument("id", metavar="ID", help="id of the intervention's receipt, or the beginning of it")
    undo.add_argument("--rewind", action="store_true", help="go back to the checkpoint before it")
    add_json(undo)
    receipts = commands.add(
        "receipts",
        show_receipts,
        "list what was asked of a run, what was read back, and what it did to the loss",
        about="An effect is measured from the steps after an intervention against the trend of those before: helped, "
        "neutral, hurt, inconclusive, or pending until the steps are there.",
        examples=("lumina receipts first", "lumina receipts first --json"),
    )
    add_run(receipts)
    add_json(receipts)


def show_proposals(args: argparse.Namespace) -> int:
    """Open proposals, newest first."""
    found = open_run(args).proposals()
    if args.json:
        print_json(found)
        return 0
    for proposal in found:
        values = ", ".join(f"{name}={value}" for name, value in proposal["args"].items())
        say(clean(f"{proposal['id']}  {proposal['method']}({values})  confidence {proposal['confidence']:.2f}"))
        say(
            clean(
                f"  step {proposal['step']}, expires at {proposal['expires_step']}: {proposal['evidence']['summary']}"
            )
        )
    if not found:
        say("nothing waits for you")
    return 0


def approve_proposal(args: argparse.Namespace) -> int:
    """Approve and show the receipt."""
    run = open_run(args)
    return show_receipt(run.approve(_whole(run, args.id), **arguments(args.set)), as_json=args.json)


def reject_proposal(args: argparse.Namespace) -> int:
    """Reject and show the receipt."""
    run = open_run(args)
    return show_receipt(run.reject(_whole(run, args.id), why=args.why), as_json=args.json)


def intervene_by_hand(args: argparse.Namespace) -> int:
    """Queue one intervention; with --wait show its receipt."""
    pending = open_run(args).intervene(args.method, **arguments(args.pairs))
    if args.wait:
        return show_receipt(pending, as_json=args.json)
    if args.json:
        print_json({"id": pending.id, "state": "queued"})
    else:
        say(f"{args.method} queued (receipt {pending.id})")
    return 0


def undo_intervention(args: argparse.Namespace) -> int:
    """Undo and show the receipt."""
    from lumina import views

    run = open_run(args)
    found = [mark["id"] for mark in views.marks(run.paths) if mark["id"].startswith(args.id)]
    return show_receipt(run.undo(found[0] if len(found) == 1 else args.id, args.rewind), as_json=args.json)


def show_receipts(args: argparse.Namespace) -> int:
    """The newest receipts with their effects, newest first."""
    from lumina import views

    found = views.receipts(open_run(args).paths, RECEIPTS_SHOWN)
    if args.json:
        print_json(found)
        return 0
    for receipt in found:
        told = receipt["reason"] or changes(receipt["before"], receipt["after"])
        given = receipt["args"] if receipt["kind"] != "undo" else None  # an undo's is the receipt that it takes back
        asked = f"{what(receipt)} {values(given)}" if given else what(receipt)
        line = f"{number(receipt['step']):>8}  {asked} {receipt['state']}{': ' + told if told else ''}"
        say(clean(f"{line} ({receipt['id']})"))
        if receipt["effect"]:
            say(clean(f"{'':10}effect {effect_line(receipt['effect'])}"))
    if not found:
        say("nothing was asked of this run yet")
    return 0


def effect_line(effect: dict[str, Any]) -> str:
    """``helped: loss -3.10% against its trend (noise band ±1.20%)``, or when it will be known."""
    if effect["state"] == "pending":
        return f"pending until step {number(effect.get('due_step'))}"
    return f"{effect['state']}: {effect.get('summary') or 'no figures'}"


def _whole(run: Run, beginning: str) -> str:
    """The one proposal whose id begins so: of the open ones, else of those that were answered, which says so."""
    from lumina import views

    queue = views.queue(run.paths)
    for rows in (queue["open"], queue["recent"]):
        found = [row["id"] for row in rows if row["id"].startswith(beginning)]
        if found:
            return str(found[0]) if len(found) == 1 else beginning
    return beginning
