"""`rehearse` and `forget`: try an intervention out beside the run, and delete the child runs that are not needed.

It shows both curves and their difference; it approves nothing.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from lumina._cli.control import changes, open_run
from lumina._cli.output import clean, complain, fixed, print_json, remark, say, table, values
from lumina._cli.parsing import Commands, add_json, add_run, arguments, pair, positive

if TYPE_CHECKING:
    from lumina.client import Run
    from lumina.rehearsal import Rehearsal

LOOK_SECONDS = 0.3
ROWS = 8


def register(commands: Commands) -> None:
    """Add both commands."""
    rehearse = commands.add(
        "rehearse",
        rehearse_change,
        "try an intervention out before it is applied",
        about="Forks the newest checkpoint into two child runs of N steps on the same batches, with and without the\n"
        "change, and shows both curves and the difference of loss with its 95% interval. The run pauses meanwhile\n"
        "where cores or memory are short, and goes on by itself; nothing of it is changed.",
        examples=(
            "lumina rehearse first adjust_routing_temperature temperature=1.5 --steps 40",
            "lumina rehearse first add_expert layer_idx=0 --background --json",
        ),
    )
    add_run(rehearse)
    rehearse.add_argument("method", metavar="METHOD", help="see lumina interventions")
    rehearse.add_argument("pairs", nargs="*", type=pair, metavar="ARG=VALUE")
    rehearse.add_argument("--steps", type=positive, default=50, metavar="N", help="steps of each child (default: 50)")
    how = rehearse.add_mutually_exclusive_group()
    how.add_argument("--pause", action="store_true", help="pause the run meanwhile, whatever is free")
    how.add_argument("--background", action="store_true", help="leave the run training; rehearse at low priority")
    add_json(rehearse)
    forget = commands.add(
        "forget",
        forget_children,
        "delete the replays and rehearsals of a run",
        about="Deletes the child runs of RUN that have ended, or RUN itself where it is a child run.\n"
        "A run of your own is never deleted. Of rehearsals only the newest three of a run are kept anyway.",
        examples=("lumina forget first", "lumina forget first.replay-1"),
    )
    add_run(forget)
    add_json(forget)


def rehearse_change(args: argparse.Namespace) -> int:
    """Start, wait, show; 0 when both children came to their end."""
    run, given = open_run(args), arguments(args.pairs)
    pause = True if args.pause else (False if args.background else None)
    proposal = _proposal(run, args.method, given)
    rehearsal = run.rehearse(args.method, given, steps=args.steps, pause=pause, proposal=proposal)
    try:
        found = _follow(rehearsal)
    except KeyboardInterrupt:
        rehearsal.stop()
        remark("the rehearsal stops; the run goes on")
        raise
    command = _command(run, found, args.dir)
    if args.json:
        print_json({**found, "next": command})
    elif found["state"] == "finished":
        _show(found, command)
    if found["state"] != "finished":
        complain(clean(f"the rehearsal {found['state']}: {found['error'] or 'its process is gone'}"))
        return 1
    return 0


def forget_children(args: argparse.Namespace) -> int:
    """Delete and say what was deleted."""
    from lumina import children
    from lumina.store.family import parent_of

    run = open_run(args)
    if parent_of(run.paths) is not None:
        children.delete_child(run.paths)
        deleted = [run.name]
    else:
        deleted = children.delete_children(run.paths)
    if args.json:
        print_json({"deleted": deleted})
    else:
        say(clean(f"deleted {', '.join(deleted)}") if deleted else f"{run.name} has no child run that has ended")
    return 0


def _follow(rehearsal: Rehearsal) -> dict[str, Any]:
    from lumina.store.lock import is_locked

    said, tenth = False, 0
    while is_locked(rehearsal.paths):
        found = rehearsal.status()
        if found["why"] and not said:
            said = True
            remark(clean(f"the run {'pauses' if found['paused'] else 'is not paused'} for it: {found['why']}"))
        if 10 * found["done"] // found["of"] > tenth:
            tenth = 10 * found["done"] // found["of"]
            remark(f"{found['done']} of {found['of']} steps")
        time.sleep(LOOK_SECONDS)
    return rehearsal.status()


def _show(found: dict[str, Any], command: str) -> None:
    changed, unchanged = found["loss"]["with"], found["loss"]["without"]
    stride = max(1, len(changed["step"]) // ROWS)
    rows = []
    for index in range(len(changed["step"]) - 1, -1, -stride):
        here, there = changed["value"][index], unchanged["value"][index]
        difference = None if here is None or there is None else here - there
        signed = "-" if difference is None else f"{difference:+.4f}"
        rows.append((changed["step"][index], fixed(there, 4), fixed(here, 4), signed))
    say(clean(f"{found['method']} {values(found['args'])} from step {found['from_step']}: "
              f"{changes(found['before'], found['after'])}"))  # fmt: skip
    say(table(("step", "without", "with", "difference"), rows[::-1], "rrrr"))
    difference = found["difference"]
    low, high = difference["low"], difference["high"]
    interval = "" if low is None else f" [{low:+.4f}, {high:+.4f}] at {difference['confidence']:.0%}"
    say(
        f"loss with less without: {difference['mean']:+.4f}{interval}, last quarter {difference['late']:+.4f}, "
        f"spread of a step {difference['spread']:.4f}: {difference['verdict']}"
    )
    val = found["val_loss"]
    if val["with"] is not None and val["without"] is not None:
        say(f"validation loss: {val['without']:.4f} without, {val['with']:.4f} with")
    say(f"to apply it: {command}")


def _proposal(run: Run, method: str, args: dict[str, str]) -> str | None:
    """The id of the open proposal of just this change."""
    from lumina.interventions import validate_args

    checked = validate_args(method, args)
    return next((str(p["id"]) for p in run.proposals() if p["method"] == method and p["args"] == checked), None)


def _command(run: Run, found: dict[str, Any], directory: str) -> str:
    where = "" if directory == "experiments" else f" --dir {directory}"
    if found["proposal"]:
        return f"lumina approve {run.name} {found['proposal'][:8]}{where}"
    given = " ".join(f"{name}={value}" for name, value in found["args"].items())
    return f"lumina intervene {run.name} {found['method']} {given} --wait{where}".replace("  ", " ")
