"""`lumina`: reads the command line, runs one command, and turns whatever goes wrong into one line and an exit status.

What the commands do stands in `lumina._cli`; nothing slow is imported before a command needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from lumina._cli import (
    calibration,
    control,
    data,
    doctor,
    gym,
    output,
    plan,
    query,
    queue,
    rehearse,
    replay,
    train,
    verify,
    watch,
)  # fmt: skip
from lumina._cli.parsing import Commands, Parser, UsageError, parse
from lumina.store.errors import Refusal

INTERRUPTED = 130

ABOUT = "Train Mixture-of-Experts and Mixture-of-Depths transformers in the background, and steer them while they run."
EXAMPLES = """\
examples:
  lumina train debug --name first --steps 300 --background
  lumina watch first
  lumina proposals first
  lumina intervene first adjust_routing_temperature temperature=1.5 --wait
  lumina status first --json

`lumina COMMAND --help` shows the options and examples of a command."""


def build_parser() -> tuple[Parser, Commands]:
    """The parser with every command of this release."""
    parser = Parser(prog="lumina", description=ABOUT, epilog=EXAMPLES)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = Commands(parser)
    for family in (train, control, watch, query, queue, rehearse, replay, verify, calibration, data, plan, gym, doctor):
        family.register(commands)
    return parser, commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 is success, 1 refused or failed, 2 asked wrongly, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except KeyboardInterrupt:
        output.remark("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`lumina metrics first | head`); keep the interpreter's last flush from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(words: list[str]) -> int:
    from lumina.config import ConfigError

    parser, commands = build_parser()
    try:
        args = parse(parser, commands, words)
        if args.version:
            output.say(f"lumina {_version()}")
            return 0
        if args.command is None:
            parser.print_help()
            return 0
        return int(args.handler(args))
    except UsageError as error:
        output.complain(str(error))
        return 2
    except ConfigError as error:
        for problem in error.problems:
            output.complain(output.clean(problem))
        return error.exit_code
    except Refusal as refusal:
        output.complain(f"{output.clean(refusal.message)} ({refusal.code})")
        return refusal.exit_code


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lumina-workbench")
    except PackageNotFoundError:
        return "unknown (not installed)"


if __name__ == "__main__":
    sys.exit(main())
