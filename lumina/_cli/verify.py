"""`verify`: reads every checkpoint of a run anew and says which are whole.

It shows what was found; what makes a checkpoint whole is the checkpoints' business.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lumina._cli.output import clean, print_json, remark, say, table
from lumina._cli.parsing import Commands, add_json, add_run

if TYPE_CHECKING:
    from lumina.checkpoint import Attempt


def register(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "verify",
        verify,
        "read every checkpoint of a run and say whether it is whole",
        about="Reads every byte, and holds it against the checksum of each file and the hash of the whole state; of a\n"
        "damaged one it says in which file. Nothing is changed: a resume sets damaged ones aside by itself.\n\n"
        "Exit status: 0 all are whole, or there is none; 1 one is damaged; 2 asked wrongly.",
        examples=("lumina verify first", "lumina verify first --json"),
    )
    add_run(parser)
    add_json(parser)


def verify(args: argparse.Namespace) -> int:
    """Every checkpoint, oldest first, with its state."""
    from lumina.checkpoint import verify as read_all
    from lumina.store.layout import find_run

    paths = find_run(args.run, args.dir)
    found = read_all(paths.checkpoints)
    damaged = sum(not attempt.ok for attempt in found)
    if args.json:
        print_json({"run": paths.name, "damaged": damaged, "checkpoints": [_row(attempt) for attempt in found]})
        return 1 if damaged else 0
    if not found:
        remark(clean(f"{paths.name} has no checkpoint"))
        return 0
    say(table(("checkpoint", "state", "what"), [tuple(_row(attempt).values()) for attempt in found]))
    say(clean(f"{paths.name}: {len(found) - damaged} ok, {damaged} damaged"))
    return 1 if damaged else 0


def _row(attempt: Attempt) -> dict[str, Any]:
    return {"name": attempt.name, "state": "ok" if attempt.ok else "damaged", "what": attempt.message}
