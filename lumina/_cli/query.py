"""Commands that only read: runs, status, interventions, queries, metrics."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lumina._cli.control import open_run
from lumina._cli.output import (
    MISSING,
    clean,
    duration,
    fixed,
    number,
    percent,
    print_json,
    say,
    short,
    size,
    table,
    values,
)  # fmt: skip
from lumina._cli.parsing import Commands, add_directory, add_json, add_run, suggestion

UNITS: dict[str, Callable[[Any], str]] = {
    "step": number,
    "total_steps": number,
    "throughput": lambda value: f"{number(value, 5)} tokens/s",
    "tokens": short,
    "step_seconds": lambda value: f"{number(value)} s",
    "memory_rss": size,
    "eta_s": duration,
    "params_total": short,
    "params_active": short,
    "created": lambda value: time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value)),
    "heartbeat_age_s": duration,
}
"""How a person reads the fields of the status that are not a bare number."""


def register(commands: Commands) -> None:
    """Add the five commands."""
    runs = commands.add("runs", list_runs, "list the runs of a folder")
    add_directory(runs)
    add_json(runs)
    status = commands.add("status", show_status, "show the state of a run", examples=("lumina status first --json",))
    add_run(status)
    add_json(status)
    methods = commands.add("interventions", show_interventions, "list what can be changed in a live run")
    add_json(methods)
    asking = commands.add(
        "query",
        ask,
        "ask a run for its expert or depth statistics, or its newest metrics",
        examples=("lumina query first get_expert_statistics --json",),
    )
    add_run(asking)
    asking.add_argument("method", metavar="METHOD", help="see lumina interventions")
    add_json(asking)
    metrics = commands.add(
        "metrics",
        show_metrics,
        "print the series of a run",
        examples=("lumina metrics first --series loss,val_loss --csv",),
    )
    add_run(metrics)
    form = metrics.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document and nothing else on stdout")
    metrics.add_argument("--series", metavar="NAME,...", help="default: all")
    form.add_argument("--csv", action="store_true", help="comma-separated values (the default)")
    metrics.add_argument("--all-segments", action="store_true", help="abandoned stretches, too")


def list_runs(args: argparse.Namespace) -> int:
    """Every run under --dir."""
    from lumina.client import list_runs

    found = list_runs(args.dir)
    if args.json:
        print_json(found)
    elif not found:
        say(f"no run under {clean(args.dir)} yet; lumina train debug --background starts one")
    else:
        rows = [(_name(run), run["state"], run["step"], run["total_steps"], _figure(run["loss"])) for run in found]
        say(table(("run", "state", "step", "of", "loss"), rows))
    return 0


def _name(run: dict[str, Any]) -> str:
    """A child run stands beneath its parent, with what is its own of the name."""
    parent = run["parent"]
    return str(run["name"]) if parent is None else f"└ {run['name'].removeprefix(parent['run'])} ({parent['kind']})"


def show_status(args: argparse.Namespace) -> int:
    """The documented fields."""
    status = open_run(args).status()
    if args.json:
        print_json(status)
        return 0
    health, progress = status.pop("health"), status.pop("chinchilla")
    _say_facts(status)
    _say_health(health)
    _say_progress(progress)
    return 0


def _say_facts(status: dict[str, Any]) -> None:
    for name, value in status.items():
        if name in UNITS and value is not None:
            value = UNITS[name](value)
        if isinstance(value, dict):
            value = ", ".join(
                f"{key} {_figure(item)}" for key, item in value.items() if not isinstance(item, (dict, list))
            )
        if value not in (None, ""):
            say(clean(f"{name:20} {_figure(value)}"))


def _say_health(health: dict[str, Any]) -> None:
    """The status, each area in a sentence, and what is recommended with its confidence."""
    if health["status"] is None:
        return
    say(f"{'health':20} {clean(health['status'])}")
    for area, told in health["areas"].items():
        say(clean(f"  {area:18} {told['status']}: {told['said']}"))
    for one in health["recommendations"]:
        asked = f"{one['method']} {values(one['args'])}" if one["method"] else one["why"]
        say(clean(f"  {'recommended':18} {asked} (confidence {one['confidence']:.2f})"))


def _say_progress(progress: dict[str, Any]) -> None:
    """The token budget and where the run is heading."""
    if progress.get("progress") is None:
        return
    seen, optimal = short(progress["tokens_seen"]), short(progress["tokens_optimal"])
    budget = f"{percent(progress['progress'], 1)}, {seen} of {optimal} tokens ({progress['basis']} parameters)"
    say(clean(f"{'chinchilla':20} {budget}; phase {progress['phase']}"))
    if progress.get("convergence_score") is not None:
        say(f"  {'convergence':18} score {progress['convergence_score']:.0f} %")
    if progress.get("predicted_final_loss") is not None:
        band = f"90 %: {fixed(progress['predicted_low'])} to {fixed(progress['predicted_high'])}"
        say(f"  {'final loss':18} {fixed(progress['predicted_final_loss'])} predicted ({band})")
    epochs = progress.get("epochs")
    if epochs:
        covered = (
            f"one covers {percent(epochs['coverage'], 1)} of the budget; {epochs['epochs']} recommended at the start"
        )
        say(clean(f"  {'epochs':18} {covered}"))
    advice = progress.get("epochs_advice")
    if advice:
        say(clean(f"  {'':18} {advice['epochs']} recommended now, {advice['planned']:.1f} planned: {advice['why']}"))
    worth = progress.get("checkpoint")
    if worth:
        best = f" (best: step {worth['best_step']})" if worth["best_step"] else ""
        course = "" if worth["extra"] else "; only the periodic ones are saved"
        say(clean(f"  {'checkpoints':18} {worth['priority']} priority: {worth['why']}{course}{best}"))
    if progress.get("recommendation"):
        say(
            clean(
                f"  {'recommendation':18} {progress['recommendation']['action']}: {progress['recommendation']['why']}"
            )
        )


def show_interventions(args: argparse.Namespace) -> int:
    """The catalogue."""
    from lumina import interventions

    listed = interventions.catalogue().values()
    if args.json:
        print_json([declaration.to_json() for declaration in listed])
        return 0
    for method in listed:
        kind = "" if method.kind == "action" else f"  ({method.kind})"
        say(" ".join([method.method, *(f"{arg.name}=" for arg in method.args)]) + kind)
        say(f"    {method.doc.splitlines()[0]}")
        for arg in method.args:
            say(f"    {arg.name} ({arg.allowed()}): {arg.help}")
    return 0


def ask(args: argparse.Namespace) -> int:
    """One query, as a table or JSON."""
    found = open_run(args).query(args.method)
    if args.json:
        print_json(found)
        return 0
    for name, value in found.items():
        for line in _lines(name, value):
            say(clean(line))
    return 0


def _lines(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _lines(f"{name}.{key}", item)]
    if isinstance(value, list):
        return [f"{name:40} {' '.join(_figure(item) for item in value)}"]
    return [f"{name:40} {_figure(value)}"]


def show_metrics(args: argparse.Namespace) -> int:
    """Series of the current line, as CSV or JSON."""
    from lumina.store.reader import StoreReader

    run = open_run(args)
    reader = StoreReader(run.paths)
    names = [name.strip() for name in args.series.split(",")] if args.series else None
    _refuse_unknown(run.name, names or (), list(reader.series_names()))
    if args.json:
        found = reader.series(names, max_points=None, all_segments=args.all_segments)
        print_json({"series": found})
        return 0
    sys.stdout.write(run.metrics(names, all_segments=args.all_segments).write_csv())
    return 0


def _refuse_unknown(run: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Raises `Refusal` (not_found) for the first series that the run does not have."""
    from lumina.store.errors import Refusal

    for name in names if known else ():
        if name not in known:
            listed = "there are: " + ", ".join(one for one in known if ".layer" not in one)
            hint = suggestion(name, known).strip() or listed
            raise Refusal("not_found", f"run {run!r} has no series {name!r}; {hint}")


def _figure(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, list):
        return "[" + " ".join(_figure(item) for item in value) + "]"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
