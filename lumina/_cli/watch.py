"""`watch`: a live picture of a run in the terminal; it reads and never steers."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from lumina._cli.control import open_run
from lumina._cli.output import clean, complain, duration, say, values
from lumina._cli.parsing import Commands, add_run

if TYPE_CHECKING:
    from rich.console import Group

    from lumina.client import Run

BLOCKS = " ▁▂▃▄▅▆▇█"
ENDED = frozenset({"finished", "stopped", "failed", "crashed", "created"})
LINE_SECONDS = 5.0
EVENTS_SHOWN = 4
STYLES = {"info": "dim", "warning": "yellow", "critical": "red"}


def register(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "watch", watch, "show a run live; Ctrl-C leaves it training", examples=("lumina watch first",)
    )
    add_run(parser)


def watch(args: argparse.Namespace) -> int:
    """Follow the run that RUN names."""
    return follow(open_run(args))


def follow(run: Run) -> int:
    """Show the run until it ends; 0 when it finished or was stopped. On a pipe a line every few seconds instead."""
    try:
        status = _live(run) if sys.stdout.isatty() else _lines(run)
    except KeyboardInterrupt:
        say(f"{run.name} goes on in the background; lumina stop {run.name} ends it")
        return 0
    if status["state"] in ("failed", "crashed"):
        why = status["error"] or "the trainer is gone; lumina resume continues it"
        complain(clean(f"{run.name} {status['state']}: {why}"))
        return 1
    return 0


def _lines(run: Run) -> dict[str, Any]:
    shown = 0.0
    while True:
        status = run.status()
        if time.monotonic() - shown >= LINE_SECONDS or status["state"] in ENDED:
            shown = time.monotonic()
            say(headline(status))
        if status["state"] in ENDED:
            return status
        time.sleep(0.5)


def _live(run: Run) -> dict[str, Any]:
    from rich.live import Live

    with Live(refresh_per_second=4) as screen:
        while True:
            status = run.status()
            screen.update(_picture(run, status))
            if status["state"] in ENDED:
                return status
            time.sleep(0.5)


def _picture(run: Run, status: dict[str, Any]) -> Group:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    parts: list[Any] = [Text(headline(status))]
    parts.append(ProgressBar(total=status["total_steps"] or 1, completed=status["step"] or 0))
    experts = run.experts()
    for layer, row in zip(experts["layers"], experts["load"], strict=True) if experts else ():
        parts.append(Text(f"layer {layer} experts {bars(row)}"))
    depth = run.depth()
    if depth:
        parts.append(Text(f"depth by layer  {bars([2 * share for share in depth['usage']])}  mean {depth['mean']:.0%}"))
    for event in run.events(limit=EVENTS_SHOWN):
        parts.append(Text(clean(f"{event['step'] or 0:>8,}  {event['message']}"), style=STYLES.get(event["level"], "")))
    for proposal in run.proposals():
        parts.append(Text(question(run.name, proposal), style="yellow"))
    return Group(*parts)


def headline(status: dict[str, Any]) -> str:
    """State, step, ETA, losses and speed in one line."""
    parts = [f"{status['name']} {status['state']}"]
    if status["phase"]:
        parts.append(str(status["phase"]))
    parts.append(f"step {status['step'] or 0}/{status['total_steps'] or '?'}")
    if status["eta_s"] is not None:
        parts.append(f"ETA {duration(status['eta_s'])}")
    for name, label, form in (("loss", "loss", ".4f"), ("val_loss", "val", ".4f"), ("throughput", "tok/s", ",.0f")):
        if status[name] is not None:
            parts.append(f"{label} {status[name]:{form}}")
    entropy = status["moe"].get("routing_entropy")
    if entropy is not None:
        parts.append(f"routing entropy {entropy:.3f}")
    return clean("  ".join(parts))


def question(run: str, proposal: dict[str, Any]) -> str:
    """A proposal with its evidence and how to answer it."""
    numbers, id = proposal["evidence"].get("numbers") or {}, proposal["id"][:8]
    asked = f"undo {numbers.get('method', '')}" if proposal["method"] == "undo" else proposal["method"]
    given = "" if proposal["method"] == "undo" else f" {values(proposal['args'])}"
    told = (
        f"proposal {id}: {asked}{given}, confidence {proposal['confidence']:.2f}, until step {proposal['expires_step']}"
    )
    return "\n".join(
        clean(line)
        for line in (
            told,
            f"  {proposal['evidence']['summary']}",
            f"  lumina approve {run} {id}    lumina reject {run} {id} --why TEXT",
        )
    )


def bars(row: list[float]) -> str:
    """Expert loads as blocks: a half block is the fair share, a full one twice as much or more."""
    return "".join(BLOCKS[min(8, max(0, round(4 * load)))] for load in row)
