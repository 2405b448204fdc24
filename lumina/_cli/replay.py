"""`replay`: does a run's decisions again from its first step, and says of every checkpoint whether it is equal.

It shows what a child run found; how that is computed is the trainer's.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from lumina._cli.control import open_run
from lumina._cli.output import clean, complain, fixed, print_json, remark, say, table, values
from lumina._cli.parsing import Commands, add_json, add_run, positive

if TYPE_CHECKING:
    from lumina.client import Run

EXIT = {"equal": 0, "differs": 1, "not comparable": 3}
LOOK_SECONDS = 0.3


def register(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "replay",
        replay,
        "do a run's decisions again and compare every checkpoint",
        about="Trains a child run from step 0 with the journal's decisions in the steps in which they were made, and\n"
        "compares the hash of the whole state at every checkpoint of the current line.\n\n"
        "Exit status: 0 every checkpoint equal; 1 one differs, or it could not be done; 2 asked wrongly, or a data\n"
        "file has changed; 3 not comparable: computed on another machine (CPU capability, threads, torch version).\n"
        "With --without the checkpoints before the intervention are compared; later ones are of another run.",
        examples=("lumina replay first", "lumina replay first --without 3f2a", "lumina replay first --to 200 --json"),
    )
    add_run(parser)
    parser.add_argument("--without", metavar="ID", help="leave out the intervention of this receipt")
    parser.add_argument("--to", type=positive, metavar="STEP", help="stop there")
    add_json(parser)


def replay(args: argparse.Namespace) -> int:
    """Start the child, wait for it, print what it found."""
    from lumina import views

    child = open_run(args).replay(without=args.without, to=args.to)
    try:
        _wait(child, quiet=args.json)
    except KeyboardInterrupt:
        child.stop().wait()
        raise
    found = views.replay(child.paths)
    if args.json:
        print_json(found)
    else:
        _show(found)
    if found["state"] in ("failed", "crashed"):
        complain(clean(f"{found['child']} {found['state']}: {found['error'] or 'its process is gone'}"))
        return 1
    if found["without"] and found["verdict"] == "nothing compared":
        return 0  # it was left out before the first checkpoint
    return EXIT.get(found["verdict"], 1)


def _wait(child: Run, *, quiet: bool) -> None:
    from lumina.store.lock import is_locked

    remark(f"{child.name} replays in the background; Ctrl-C stops it")
    shown = 0
    while is_locked(child.paths):
        if not quiet:
            shown = _tell(child, shown)
        time.sleep(LOOK_SECONDS)


def _tell(child: Run, shown: int) -> int:
    status = child.status()
    step = status["step"] or 0
    if step >= shown + max(1, (status["total_steps"] or 0) // 10):
        remark(f"step {step} of {status['total_steps']}")
        return int(step)
    return shown


def _show(found: dict[str, Any]) -> None:
    rows = [(one["name"], one["step"], one["reason"], one["verdict"], one["why"] or "") for one in found["checkpoints"]]
    if rows:
        say(table(("checkpoint", "step", "saved", "verdict", "why"), rows))
    left_out = found["without"]
    if left_out:
        say(clean(f"without {left_out['method']} {values(left_out['args'])} of step {left_out['step']}"))
        for fallen in found["fallen"]:
            what = f"{fallen['kind']} {fallen['method']}" if fallen["kind"] == "undo" else fallen["method"]
            say(clean(f"falls with it: {what} {values(fallen['args'])} of step {fallen['step']}: {fallen['why']}"))
        for name, loss in found["losses"].items():
            both = f"{fixed(loss['parent'], 4)} as it was, {fixed(loss['child'], 4)} without"
            say(f"{name} at step {loss['step']}: {both} ({loss['difference']:+.4f})")
        paired = (found["losses"].get("loss") or {}).get("paired")
        if paired and paired["low"] is not None:
            say(
                f"mean difference over {paired['steps']} steps: {paired['mean']:+.4f} "
                f"[{paired['low']:+.4f}, {paired['high']:+.4f}] at {paired['confidence']:.0%}"
            )
    counts = [str(one["verdict"]) for one in found["checkpoints"]]
    told = ", ".join(f"{counts.count(verdict)} {verdict}" for verdict in EXIT if verdict in counts)
    say(clean(f"{found['child']}: {told or found['verdict']}"))
