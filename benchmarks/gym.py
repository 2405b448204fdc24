"""How good the orchestrator is: the gym's table, written into `docs/orchestrator.md` and `docs/gym.json`.

`python benchmarks/gym.py` runs the short form on two of the report seeds (25 minutes on two quiet cores); `--long
--seeds report` is the long one. Finished runs are kept under `--out`, so that the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from lumina._cli import gym as command
from lumina._cli.output import say
from lumina._cli.parsing import Commands, Parser

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    parser = Parser(prog="lumina")
    commands = Commands(parser)
    command.register(commands)
    words = sys.argv[1:]
    args: argparse.Namespace = parser.parse_args(["gym", *words])
    from lumina.gym import report
    from lumina.gym.scenario import load_scenarios, read_seeds

    scenarios, split = load_scenarios(args.scenario), read_seeds()
    methods, seeds = command.chosen_methods(args.methods), command.chosen_seeds(args.seeds, split)
    told = shlex.join(["python", "benchmarks/gym.py", *words])
    found = command.course(scenarios, methods, seeds, split, args, told)
    report.publish(DOCS / "orchestrator.md", found["markdown"])
    report.write_json(DOCS / "gym.json", found["document"])
    say(found["markdown"])


if __name__ == "__main__":
    main()
