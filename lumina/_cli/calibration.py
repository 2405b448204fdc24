"""`calibration`: how often what the orchestrator was sure of ended well, as a reliability diagram.

It reads journals; what an outcome is worth is the orchestrator's business.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from lumina._cli.output import number, percent, print_json, say
from lumina._cli.parsing import Commands, add_directory, add_json

if TYPE_CHECKING:
    from lumina.orchestrator.calibration import Record, Reliability

WIDTH = 20


def register(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "calibration",
        show_calibration,
        "show how often proposals of each confidence ended well",
        about="A reliability diagram: for each bin of confidence, how many proposals have an outcome, and the share "
        "that ended well (helped 1, neutral 1/2, hurt and rejected 0). Without RUN, all runs under --dir together.",
        examples=("lumina calibration", "lumina calibration first second --json"),
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a name under --dir, or a folder")
    add_directory(parser)
    add_json(parser)


def show_calibration(args: argparse.Namespace) -> int:
    """The diagram of the given runs, as text or JSON."""
    from lumina.orchestrator.calibration import reliability

    rows = reliability(_records(args.runs, args.dir))
    if args.json:
        print_json([dataclasses.asdict(row) for row in rows])
        return 0
    say(
        "bins of confidence; # the share that ended well, | inside a bar the confidence that was told; they should meet"
    )
    shown = None
    for row in rows:
        if row.detector != shown:
            shown = row.detector
            say(f"{'all detectors' if shown == 'all' else shown}")
        say("  " + _line(row))
    return 0


def _records(names: list[str], directory: str) -> list[Record]:
    from lumina.orchestrator.calibration import Record
    from lumina.store.journal import entries_on_line, read_entries
    from lumina.store.layout import find_run, run_folders

    found = []
    for paths in [find_run(name, directory) for name in names] if names else run_folders(directory):
        record = Record()
        for entry in entries_on_line(read_entries(paths)):
            record.fold(entry.type, entry.id, entry.doc)
        found.append(record)
    return found


def _line(row: Reliability) -> str:
    """``0.75-0.90 |########............|  70% of 10 ended well (told 82%)``; a | in the bar is what was told."""
    bins = f"{row.low:.2f}-{row.high:.2f}"
    prior = f"; prior {percent(row.prior_share)} of {number(row.prior_count)}" if row.prior_count else ""
    if row.share is None or row.confidence is None:
        return f"{bins} |{'.' * WIDTH}|  no outcome yet{prior}"
    bar = ["#"] * round(WIDTH * row.share) + ["."] * (WIDTH - round(WIDTH * row.share))
    bar[min(WIDTH - 1, int(WIDTH * row.confidence))] = "|"
    told = f"{percent(row.share)} of {row.count} ended well (told {percent(row.confidence)})"
    return f"{bins} |{''.join(bar)}|  {told}{prior}"
