"""`data check`, and the summary of training data that `train` prints before it starts anything.

It shows the data report; how files are read and judged is `lumina.data`'s.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lumina._cli.output import clean, complain, print_json, say
from lumina._cli.parsing import Commands, Parser, add_json

if TYPE_CHECKING:
    from lumina.data import DataReport


def register(commands: Commands) -> None:
    """Add `data` with its one action, `check`."""
    parser = commands.add(
        "data",
        check,
        "check training data before using it",
        examples=("lumina data check corpus/ chat.jsonl", "lumina data check corpus/ --json"),
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    checking: Parser = actions.add_parser(
        "check",
        prog="lumina data check",
        help="validate files and folders: formats, samples, broken lines with file and line",
        description="Validate files and folders of training data. Exit status 2 when they cannot be used.",
        epilog="examples:\n  lumina data check corpus/ chat.jsonl\n  lumina data check corpus/ --json",
    )
    checking.add_argument("paths", nargs="+", metavar="PATH", help="files (.txt, .jsonl) or folders")
    checking.add_argument(
        "--max-bad-fraction",
        type=_fraction,
        default=0.05,
        metavar="SHARE",
        help="share of broken lines above which a file is an error (default: 0.05)",
    )
    add_json(checking, "print the report as one JSON document")


def check(args: argparse.Namespace) -> int:
    """Print the report; unusable data is exit status 2, in JSON a document with `error` as well."""
    from lumina.data import DataError, check_paths

    try:
        report = check_paths(args.paths, max_bad_fraction=args.max_bad_fraction)
    except DataError as error:
        complain(data_error(error))
        if args.json:
            print_json({"usable": False, "error": _error_json(error)})
        return 2
    if args.json:
        print_json({"usable": True, **report.to_json()})
    else:
        show_report(report)
    return 0


def show_report(report: DataReport) -> None:
    """Files, sizes, samples, and every problem with its file and line."""
    for line in report.summary_lines():
        say(clean(line))


def data_error(error: Exception) -> str:
    """The error in one line, as all data errors are shown."""
    text = clean(error)
    return text if text.startswith("data error") else f"data error: {text}"


def _error_json(error: Any) -> dict[str, Any]:
    file = getattr(error, "file", None)
    return {
        "code": "bad_data",
        "message": str(error),
        "file": None if file is None else str(file),
        "line": getattr(error, "line", None),
    }


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def check_all(paths: Sequence[str], max_bad_fraction: float) -> DataReport:
    """The report on all paths together; raises `DataError`."""
    from lumina.data import check_paths

    return check_paths(list(paths), max_bad_fraction=max_bad_fraction)
