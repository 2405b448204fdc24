"""`gym`: trains small runs with something wrong in them, and scores the orchestrator against simple baselines.

It shows and writes; scenarios, training and scoring are `lumina.gym`'s, which is imported when the command runs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina._cli.output import clean, duration, print_json, remark, say, table
from lumina._cli.parsing import Commands, UsageError, add_json, positive

if TYPE_CHECKING:
    from lumina.gym.course import Progress
    from lumina.gym.scenario import Scenario, Seeds

METHODS = ("none", "clip", "plateau", "zclip", "auto")


def register(commands: Commands) -> None:
    """Add `gym`."""
    parser = commands.add(
        "gym",
        gym,
        "measure the orchestrator: small runs with something wrong in them, against simple baselines",
        about="Every finished run is kept under --out; the same command again trains what is missing.",
        examples=(
            "lumina gym --list",
            "lumina gym --scenario lr_jump --seeds 1 --methods none,clip,auto",
            "lumina gym --short --seeds report:2 --jobs 2 --out gym-results",
        ),
    )
    parser.add_argument("--scenario", nargs="+", default=[], metavar="NAME", help="only these (default: all)")
    parser.add_argument("--scenarios-dir", type=Path, metavar="DIR", help="read scenarios from here instead")
    parser.add_argument(
        "--seeds", default="report:2", help="numbers (1,2), or tune or report, or the first of them (default: report:2)"
    )
    parser.add_argument("--methods", default=",".join(METHODS), help=f"of {', '.join(METHODS)} (default: all)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--short", action="store_true", default=True, help="healthy runs of 500 steps (default)")
    form.add_argument("--long", dest="short", action="store_false", help="healthy runs of 1,250 steps")
    parser.add_argument("--jobs", type=positive, metavar="N", help="processes of one thread each (default: all cores)")
    parser.add_argument("--out", type=Path, default=Path("gym-results"), metavar="DIR", help="folder of the results")
    parser.add_argument("--fresh", action="store_true", help="train again what is there already")
    parser.add_argument(
        "--prior", type=Path, metavar="FILE", help="also write how proposals ended with tuning seeds, for calibration"
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios and end")
    add_json(parser)


def gym(args: argparse.Namespace) -> int:
    """Train what is missing and print the score."""
    from lumina.gym.scenario import FOLDER, load_scenarios, read_seeds

    scenarios = load_scenarios(args.scenario, args.scenarios_dir or FOLDER)
    if args.list:
        return _list(scenarios, args.json)
    split = read_seeds()
    found = course(scenarios, chosen_methods(args.methods), chosen_seeds(args.seeds, split), split, args)
    if args.prior is not None:
        from lumina.gym.prior import prior_of
        from lumina.gym.report import write_json

        write_json(args.prior, prior_of(found["results"].values(), split.tune, f"lumina gym --seeds {args.seeds}"))
    if args.json:
        print_json(found["document"])
    else:
        say(found["markdown"])
    return 0


def course(scenarios: Sequence[Scenario], methods: Sequence[str], seeds: Sequence[int], split: Seeds,
           args: argparse.Namespace, command: str = "lumina gym") -> dict[str, Any]:  # fmt: skip
    """The scored course, as `document` and as `markdown`, and the `results` of its cells."""
    import platform

    import torch

    from lumina.gym import report, score
    from lumina.gym.course import Shelf, run
    from lumina.gym.plan import cells
    from lumina.hardware import detect

    hardware = detect()
    results = run(
        cells(scenarios, methods, seeds, split, args.short),
        Shelf(args.out / "cells"),
        jobs=args.jobs or max(1, min(os.cpu_count() or 1, hardware.cores)),
        fresh=args.fresh,
        tell=_tell,
    )
    rows = score.rows(scenarios, methods, seeds, split, args.short, results)
    about = {
        "command": command,
        "seeds": list(seeds),
        "tuning_seeds": list(split.tune),
        "scenarios": len(scenarios),
        "form": "short" if args.short else "long",
        "machine": f"{hardware.name}, {platform.system()}, torch {torch.__version__}, one thread a run",
    }
    return {
        "document": report.document(rows, methods, about),
        "markdown": report.markdown(rows, methods, about),
        "results": results,
    }


def chosen_methods(text: str) -> list[str]:
    """``none,auto`` as a list. Raises `UsageError` for a name that there is not."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in METHODS:
            raise UsageError(f"there is no method {name!r}; methods: {', '.join(METHODS)}")
    return [method for method in METHODS if method in names]


def chosen_seeds(text: str, split: Seeds) -> list[int]:
    """``tune``, ``report``, ``report:2`` or numbers. Raises `UsageError`."""
    name, _, count = text.partition(":")
    group = {"tune": split.tune, "report": split.report}.get(name)
    if group is not None and (not count or count.isdecimal()):
        return list(group[: int(count)] if count else group)
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--seeds {text!r} is not understood; give numbers (1,2), tune, report, or report:2")
    return list(dict.fromkeys(int(part) for part in parts))


def _list(scenarios: Sequence[Scenario], as_json: bool) -> int:
    import dataclasses

    if as_json:
        print_json([dataclasses.asdict(scenario) for scenario in scenarios])
    else:
        shown = [(s.name, s.steps, s.about) for s in scenarios]
        say(table(("name", "steps", "what goes wrong"), shown, "lrl"))
    return 0


def _tell(progress: Progress) -> None:
    left = f"{duration(progress.eta_seconds)} left"
    remark(f"{progress.done} of {progress.total} runs, {left}; {clean(progress.newest)}")
