"""How the command line is parsed: one-line errors, suggestions, and the options that several commands share.

It knows no command; each family of commands registers its own.
"""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

Handler = Callable[[argparse.Namespace], int]
DIRECTORY_VARIABLE = "LUMINA_DIR"


class UsageError(Exception):
    """The command line itself is wrong; the text is one line."""


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` instead of leaving the process, and remembers its options so that it can suggest one."""

    def __init__(self, **kwargs: Any) -> None:
        self.options: list[str] = []
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def add_argument(self, *names: Any, **kwargs: Any) -> argparse.Action:
        self.options += [name for name in names if isinstance(name, str) and name.startswith("--")]
        return super().add_argument(*names, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


class Commands:
    """The commands registered so far, in the order in which `lumina --help` lists them."""

    def __init__(self, parser: Parser) -> None:
        self._actions = parser.add_subparsers(
            dest="command", metavar="COMMAND", title="commands", parser_class=Parser, prog="lumina"
        )
        self.parsers: dict[str, Parser] = {}

    def add(self, name: str, handler: Handler, help: str, *, about: str = "", examples: Sequence[str] = ()) -> Parser:
        """A new command: `help` in a line, `about` what else its own --help says, `examples` as a person types them."""
        epilog = "examples:\n" + "\n".join(f"  {line}" for line in examples) if examples else None
        description = help[0].upper() + help[1:] + "." + (f"\n\n{about}" if about else "")
        parser: Parser = self._actions.add_parser(name, help=help, description=description, epilog=epilog)
        parser.set_defaults(handler=handler)
        self.parsers[name] = parser
        return parser


def parse(parser: Parser, commands: Commands, argv: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; raises `UsageError` with a suggestion where one is near."""
    word = next((word for word in argv if not word.startswith("-")), None)
    if word is not None and word not in commands.parsers:
        listed = ", ".join(commands.parsers)
        raise UsageError(f"there is no command {word!r}; {suggestion(word, commands.parsers)}commands: {listed}")
    args, extra = parser.parse_known_args(argv)
    if hasattr(args, "pairs") and all("=" in item and not item.startswith("-") for item in extra):
        # argparse stops collecting `arg=value` at the first option between them.
        args.pairs, extra = [*args.pairs, *extra], []
    if extra:
        command = commands.parsers[args.command] if args.command else parser
        hint = suggestion(extra[0], command.options)
        raise UsageError(f"{extra[0]!r} is not understood; {hint}see {command.prog} --help")
    return args


def suggestion(word: str, known: Iterable[str]) -> str:
    """``"did you mean X? "`` for the nearest of `known`, or nothing."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {nearest[0]}? " if nearest else ""


def add_directory(parser: Parser) -> None:
    """``--dir``: explicit beats the environment, which beats `experiments`."""
    default = os.environ.get(DIRECTORY_VARIABLE) or "experiments"
    parser.add_argument(
        "--dir",
        default=default,
        metavar="DIR",
        help=f"folder of the runs (default: ${DIRECTORY_VARIABLE}, else experiments; now {default})".replace("%", "%%"),
    )


def add_run(parser: Parser) -> None:
    """``RUN`` and the folder in which it is looked up."""
    parser.add_argument("run", metavar="RUN", help="name of a run under --dir, or the path of its folder")
    add_directory(parser)


def add_json(parser: Parser, help: str = "print one JSON document and nothing else on stdout") -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help=help)


def add_settings(parser: Parser) -> None:
    """``--set key=value ...``: overrides of the configuration, repeatable, several values each."""
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        type=pair,
        metavar="KEY=VALUE",
        help="override parameters, by full name (moe.num_experts=16) or bare where that is unique (batch_size=4); "
        "values are read as YAML",
    )


def pair(text: str) -> str:
    """`text` if it has the form key=value; argparse quotes the complaint."""
    key, equals, _ = text.partition("=")
    if not equals or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value")
    return text


def arguments(pairs: Iterable[str]) -> dict[str, str]:
    """``["temperature=1.5"]`` as a mapping; raises `UsageError` for a name that is given twice."""
    found: dict[str, str] = {}
    for text in pairs:
        key, _, value = text.partition("=")
        if key.strip() in found:
            raise UsageError(f"{key.strip()} is given twice")
        found[key.strip()] = value.strip()
    return found


def positive(text: str) -> int:
    """A whole number from 1, with or without separators (`10_000`, `10,000`)."""
    digits = text.replace(",", "").replace("_", "")
    if not digits.isdecimal() or int(digits) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(digits)
