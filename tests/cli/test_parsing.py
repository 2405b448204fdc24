"""The command line explains itself, and says in one line on stderr what is wrong with what was typed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lumina import __version__
from lumina.cli import build_parser, main

COMMANDS = (
    *("train", "resume", "pause", "unpause", "stop", "checkpoint", "watch", "runs", "status", "presets"),
    *("interventions", "doctor", "proposals", "approve", "reject", "intervene", "metrics", "data", "plan"),
    *("undo", "rehearse", "replay", "forget", "verify"),
)
Capture = pytest.CaptureFixture[str]


def wrong(capsys: Capture, *words: str) -> str:
    """The one line that a wrong command line is answered with."""
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lumina: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("lumina: error: ").strip()


def test_the_commands_of_this_release_are_all_there() -> None:
    assert set(build_parser()[1].parsers) >= set(COMMANDS)


@pytest.mark.parametrize(
    "words", [[], *([command] for command in build_parser()[1].parsers), ["data", "check"]], ids=str
)
def test_every_command_explains_itself(capsys: Capture, words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*words, "--help"])
    out, err = capsys.readouterr()
    assert left.value.code == 0
    assert out.startswith("usage: lumina " + " ".join(words))
    assert len(out.splitlines()) > 5
    assert err == ""
    assert "%(" not in out


def test_lumina_alone_lists_its_commands(capsys: Capture) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert [command for command in COMMANDS if command not in out] == []


def test_the_version_is_that_of_the_package(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lumina {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "there is no command 'trian'; did you mean train?"),
        (["xyzzy"], "there is no command 'xyzzy'; commands: train, resume"),
        (["runs", "--jsno"], "'--jsno' is not understood; did you mean --json? see lumina runs --help"),
        (["runs", "--js"], "'--js' is not understood"),
        (["--what"], "'--what' is not understood"),
        (["status"], "the following arguments are required: RUN (see lumina status --help)"),
        (["status", "a", "b"], "'b' is not understood"),
        (["metrics", "a", "--csv", "--json"], "argument --json: not allowed with argument --csv"),
        (["approve", "first"], "the following arguments are required: ID"),
        (["intervene", "first", "add_expert", "layer_idx"], "'layer_idx' is not of the form key=value"),
        (["intervene", "first", "add_expert", "=3"], "'=3' is not of the form key=value"),
        (["train", "--steps", "0"], "'0' is not a whole number from 1"),
        (["train", "--steps", "many"], "'many' is not a whole number from 1"),
        (["train", "--autonomy", "always"], "invalid choice: 'always'"),
        (["train", "--set", "batch_size"], "'batch_size' is not of the form key=value"),
        (["data"], "the following arguments are required: ACTION"),
        (["data", "check"], "the following arguments are required: PATH"),
        (["data", "check", "x.txt", "--max-bad-fraction", "7"], "'7' is not a share from 0 to 1"),
        (["plan"], "the following arguments are required: PRESET"),
        (["plan", "b1", "--tokens", "-5"], "argument --tokens"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_answered_in_one_line_on_stderr(capsys: Capture, words: list[str], said: str) -> None:
    assert said in wrong(capsys, *words)


def test_the_installed_command_answers_as_the_function_does() -> None:
    done = subprocess.run([sys.executable, "-m", "lumina.cli", "trian"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("lumina: error: there is no command 'trian'; did you mean train?")


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`lumina presets | head -1`"""
    process = subprocess.Popen(
        [sys.executable, "-m", "lumina.cli", "interventions", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait()
    assert process.returncode in (0, 1)
