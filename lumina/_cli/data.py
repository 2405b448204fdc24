"""`data check`, and the summary of training data that `train` prints before it starts anything.

It shows the data report; how files are read and judged is `lumina.data`'s.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina._cli.output import clean, complain, fixed, number, percent, print_json, remark, say, size, table
from lumina._cli.parsing import Commands, Parser, UsageError, add_directory, add_json, add_settings, positive

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from lumina.config import Config
    from lumina.data import DataReport, FileReport, Reading

EXAMPLES = """\
examples:
  lumina data check corpus/ chat.jsonl
  lumina data check chats.json --set mask_user_tokens=true --json
  lumina data check new.jsonl --run first"""
ALL_ISSUES = 100_000  # listed for one file; what is beyond is counted
PROGRESS_SECONDS = 2.0
HEAD = ("FILE", "FORMAT", "SIZE", "SAMPLES", "VALID", "INVALID", "LOW QUALITY", "QUALITY", "TOKENS", "MEAN", "MEDIAN",
        "MAX", "MIN", "STD")  # fmt: skip


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
        help="validate files and folders: formats, samples, tokens, broken lines with file and line",
        description="Validate files, folders and patterns of training data. Exit status 2 when they cannot be used.",
        epilog=EXAMPLES,
    )
    checking.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="files, folders, patterns, or hf:owner/name of the Hugging Face hub; none with --run: the run's own",
    )
    checking.add_argument(
        "--max-bad-fraction",
        type=_fraction,
        metavar="SHARE",
        help="share of malformed samples above which a file is an error (default: 0.05)",
    )
    checking.add_argument("--run", metavar="RUN", help="read as this run does, and count with its tokenizer")
    checking.add_argument(
        "--tokenizer", metavar="bpe|bytes|none|PATH", help="count with this one (default: bpe, trained on the files)"
    )
    checking.add_argument(
        "--issues", type=positive, default=ALL_ISSUES, metavar="N", help="list so many problems of each file"
    )
    checking.add_argument(
        "--samples", type=positive, default=0, metavar="N", help="with --json: so many samples of each file, by token"
    )
    add_settings(checking)
    add_directory(checking)
    add_json(checking, "print the report as one JSON document")


def check(args: argparse.Namespace) -> int:
    """Print the report; unusable data is exit status 2, in JSON a document with `error` as well."""
    from lumina.data import Counting, DataError, Reading, survey_paths

    config = _config(args)
    args.paths = args.paths or _paths_of(args, config)
    reading = Reading.of(config.data)
    try:
        tokenizer, about = _tokenizer(args, config, reading)
    except DataError as error:
        return _unusable(args, error, {})
    counting = Counting(tokenizer, config.data.mask_user_tokens, args.issues, args.samples, _progress())
    report = survey_paths(args.paths, max_bad_fraction=config.data.max_bad_fraction, reading=reading, counting=counting)
    document = {"tokenizer": about, **report.to_json()}
    if not args.json and any(file.format is not None for file in report.files):
        _show(report, about)
    failure = report.failure()
    if failure is not None:
        return _unusable(args, failure, document)
    if args.json:
        print_json({"usable": True, **document})
    return 0


def _config(args: argparse.Namespace) -> Config:
    """The configuration whose `data` group says how to read: the run's, or the default one, with what is set."""
    from lumina.config import load_config, override, read_config
    from lumina.store.layout import find_run

    config = read_config(find_run(args.run, args.dir).config) if args.run else load_config()
    share = [] if args.max_bad_fraction is None else [f"data.max_bad_fraction={args.max_bad_fraction}"]
    return override(config, [*args.set, *share])


def _paths_of(args: argparse.Namespace, config: Config) -> list[str]:
    """The files of the run that is named instead of paths."""
    if not args.run:
        raise UsageError("the following arguments are required: PATH, or --run (see lumina data check --help)")
    data = config.data
    paths = [*data.base_paths, *data.finetuning_paths, *data.base_eval_paths, *data.finetuning_eval_paths]
    if not paths:
        raise UsageError(f"{Path(args.run).name} trains on the built-in corpus: there are no files to check")
    return paths


def _tokenizer(args: argparse.Namespace, config: Config, reading: Reading) -> tuple[Tokenizer | None, dict[str, Any]]:
    from lumina.data.counting import tokenizer_for

    if args.run and args.tokenizer is None:
        from lumina.data import prepare

        dataset = prepare(config)
        return dataset.tokenizer, {"name": f"of the run {Path(args.run).name}", "vocab_size": dataset.vocab_size}
    return tokenizer_for(args.tokenizer or config.data.tokenizer, config.model.vocab_size, args.paths, reading)


def _unusable(args: argparse.Namespace, error: Any, document: dict[str, Any]) -> int:
    complain(data_error(error))
    if args.json:
        print_json({"usable": False, "error": _error_json(error), **document})
    return 2


def _progress() -> Any:
    """Tells on stderr how far a large file is read, every few seconds."""
    told = time.monotonic()

    def tell(path: str, line: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= PROGRESS_SECONDS:
            told = now
            remark(f"{clean(path)}: line {line:,}")

    return tell


def show_report(report: DataReport) -> None:
    """Files, sizes, samples, and every problem with its file and line."""
    for line in report.summary_lines():
        say(clean(line))


def _show(report: DataReport, about: dict[str, Any]) -> None:
    """The table, what the samples are made of, and every problem."""
    say(table(HEAD, [_row(file) for file in report.files if file.format is not None], "llrrrrrrrrrrrr"))
    said = f"tokens: {about['name']}" if about["name"] else "no tokens are counted"
    say(clean(said + (f", {about['vocab_size']:,} entries" if about.get("vocab_size") else "")))
    if report.roles:
        say(clean("messages: " + ", ".join(f"{name} {count:,}" for name, count in report.roles.items())))
    for line in _distribution(report):
        say(line)
    for line in report.summary_lines(sys.maxsize):
        say(clean(line))


def _row(file: FileReport) -> list[Any]:
    tokens = file.tokens or {}
    name = Path(file.path)
    shown = str(name) if len(str(name)) <= 48 else f"...{str(name)[-45:]}"
    quality = file.quality.get("mean")
    counts = [f"{value:,}" for value in (file.samples, file.valid, file.invalid, file.low_quality)]
    figures = [number(tokens.get(key)) for key in ("total", "mean", "median", "max", "min", "std")]
    return [shown, file.format, size(file.bytes), *counts, fixed(quality), *figures]


def _distribution(report: DataReport) -> list[str]:
    """Samples by their number of tokens, all files together."""
    counts: dict[tuple[int, int], int] = {}
    for file in report.files:
        for bucket in file.lengths:
            key = (bucket["from"], bucket["to"])
            counts[key] = counts.get(key, 0) + bucket["samples"]
    if not counts:
        return []
    total = sum(counts.values())
    rows = [(f"{low:,} to {high:,}", f"{n:,}", percent(n / total), "#" * round(40 * n / max(counts.values())))
            for (low, high), n in sorted(counts.items())]  # fmt: skip
    return ["", table(("tokens", "samples", "share", ""), rows, "rrrl"), ""]


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
