"""`train` and `resume`: check everything, start the trainer in a process of its own, and by default watch it."""

from __future__ import annotations

import argparse

from lumina._cli.control import open_run
from lumina._cli.data import data_error, show_report
from lumina._cli.output import complain, print_json, remark, say
from lumina._cli.parsing import Commands, add_directory, add_json, add_run, add_settings, positive


def register(commands: Commands) -> None:
    """Add both commands."""
    train = commands.add(
        "train",
        start,
        "train a model on your files",
        about="Without --background it watches the run; Ctrl-C then leaves it training in the background.",
        examples=(
            "lumina train debug --data my.txt chats.jsonl --name first --steps 300 --background",
            "lumina train debug --name demo --set batch_size=4 moe.num_experts=16",
        ),
    )
    train.add_argument("preset", nargs="?", default="debug", metavar="PRESET", help="a preset or a YAML file")
    train.add_argument("--data", nargs="+", metavar="PATH", help="files or folders; default: the built-in corpus")
    train.add_argument("--name", help="name of the run (default: preset and date)")
    train.add_argument(
        "--steps", type=positive, metavar="N", help="optimizer steps; beats automatic epochs and num_epochs"
    )
    train.add_argument("--autonomy", choices=("observe", "ask", "auto"), help="what becomes of proposals")
    train.add_argument("--engine", choices=("torch",), default="torch", help="what computes the steps")
    train.add_argument("--background", action="store_true", help="return as soon as the trainer lives")
    add_settings(train)
    add_directory(train)
    add_json(train)
    again = commands.add(
        "resume",
        resume,
        "continue a run from a checkpoint",
        examples=("lumina resume first", "lumina resume first --steps 600 --background"),
    )
    add_run(again)
    again.add_argument(
        "--from", dest="source", default="latest", metavar="latest|best_val|STEP", help="which checkpoint"
    )
    again.add_argument("--steps", type=positive, metavar="N", help="new total; extends a finished run")
    again.add_argument("--background", action="store_true", help="return as soon as the trainer lives")


def start(args: argparse.Namespace) -> int:
    """Validate, create, spawn; then watch, unless --background."""
    from lumina.client import run_overrides, start
    from lumina.config import load_config, override, warnings_of
    from lumina.data import DataError, mode_of

    config = load_config(args.preset, args.set)
    shown = None if args.json else show_report
    try:
        config = override(config, run_overrides(args.data, args.steps, args.autonomy, {}, config))
        run = start(config, name=args.name, directory=args.dir, via="cli", on_report=shown)
    except DataError as error:
        complain(data_error(error))
        return 2
    for warning in warnings_of(config):
        remark(f"warning: {warning}")
    if not args.json:
        say("training mode: {} ({})".format(*mode_of(config)))
    if args.json:
        print_json({"name": run.name, "path": str(run.paths.root), "state": run.status()["state"]})
    else:
        say(f"{run.name} trains in the background; lumina watch {run.name} --dir {args.dir}")
    return 0 if args.background or args.json else watch_it(run)


def resume(args: argparse.Namespace) -> int:
    """Start the trainer again."""
    run = open_run(args).resume(args.source, args.steps)
    say(f"{run.name} continues in the background; lumina watch {run.name} --dir {args.dir}")
    return 0 if args.background else watch_it(run)


def watch_it(run: object) -> int:
    from lumina._cli.watch import follow

    return follow(run)  # type: ignore[arg-type]
