"""`train`, `resume` and `data check` find what is wrong, with file and line, before anything is written or started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from factories import finished_run, living, new_run

from lumina import launch
from lumina.config import read_config
from lumina.data import FileReport
from lumina.data.validate import _check_file as really_check
from lumina.launch import spawn as really_spawn
from lumina.store.layout import RunPaths

GOOD = json.dumps({"text": "a sample"}) + "\n"
BAD_DATA: list[tuple[str, bytes | None, str]] = [
    ("missing.txt", None, "missing.txt: there is no such file or folder"),
    ("empty.txt", b"", "empty.txt: the file is empty"),
    ("blank.txt", b" \n\n", "blank.txt: no usable sample"),
    ("latin.txt", b"fine\nna\xefve\n", "latin.txt:2: not UTF-8 text"),
    ("picture.png", b"\x89PNG", "picture.png: unknown kind of file; use .txt, .md, .jsonl"),
    ("table.parquet", b"PAR1", "table.parquet: not an intact parquet file"),
    ("broken.jsonl", b'{"text": "a"}\n{"text": \n', "broken.jsonl:2: not JSON"),
    ("fields.jsonl", b'{"title": "a"}\n', "fields.jsonl:1: no usable sample (first: line 1, neither text nor"),
    ("roles.jsonl", b'{"messages": [{"role": "king", "content": "x"}]}\n', "messages[0] has the unknown role 'king'"),
    ("bytes.jsonl", b'{"text": "a"}\n\xff\xfe\n', "bytes.jsonl:2: not UTF-8 text"),
    ("folder", b"", "folder: no readable files in this folder"),
]


def put(folder: Path, name: str, content: bytes | None) -> Path:
    path = folder / name
    if name == "folder":
        path.mkdir()
        (path / "notes.md").write_text("no data")
    elif content is not None:
        path.write_bytes(content)
    return path


def nothing_was_written(runs: Path) -> bool:
    return not runs.exists() or list(runs.iterdir()) == []


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, lumina: Any) -> list[tuple[RunPaths, dict[str, Any]]]:
    """What would have been started."""
    taken: list[tuple[RunPaths, dict[str, Any]]] = []
    monkeypatch.setattr(launch, "spawn", lambda paths, **options: taken.append((paths, options)))
    return taken


# Data


@pytest.mark.parametrize(("name", "content", "said"), BAD_DATA, ids=[name for name, _, _ in BAD_DATA])
def test_bad_data_is_named_with_file_and_line(
    lumina: Any, runs: Path, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    path = put(tmp_path, name, content)
    for words in (("data", "check", path), ("train", "debug", "--data", path, "--name", "first", "--background")):
        answer = lumina(*words)
        assert answer.code == 2
        assert not answer.out or words[0] == "data", "only a check reports on what cannot be used"
        assert answer.err.startswith("lumina: error: data error: ")
        assert said in answer.err
        assert answer.err.count("\n") == 1
    assert nothing_was_written(runs)


@pytest.mark.parametrize(("name", "content", "said"), BAD_DATA, ids=[name for name, _, _ in BAD_DATA])
def test_bad_data_is_a_document_for_programs(
    lumina: Any, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    path = put(tmp_path, name, content)
    answer = lumina("data", "check", path, "--json")
    assert answer.code == 2
    document = answer.document
    assert document["usable"] is False
    error = document["error"]
    assert (error["code"], error["file"]) == ("bad_data", str(path))
    assert said in error["message"]
    assert error["line"] is None or f"{path}:{error['line']}: " in error["message"]


def test_a_few_broken_lines_are_skipped_counted_and_named(lumina: Any, tmp_path: Path) -> None:
    path = put(tmp_path, "mixed.jsonl", (GOOD * 40 + "{oops\n" + GOOD * 40).encode())
    answer = lumina("data", "check", path)
    assert answer.code == 0
    assert f"{path}: jsonl, text, " in answer.out
    assert "80 samples, 1 skipped" in answer.out
    assert f"  {path}:41: not JSON (Expecting property name enclosed in double quotes, column 2)" in answer.out
    document = lumina("data", "check", path, "--json").document
    assert document["usable"] is True
    counted = {"files": 1, "bytes": path.stat().st_size, "samples": 81, "valid": 80, "invalid": 1}
    assert {name: document["totals"][name] for name in counted} == counted
    assert document["files"][0]["issues"] == [
        {"line": 41, "reason": "not JSON (Expecting property name enclosed in double quotes, column 2)"}
    ]


def test_the_share_of_broken_lines_that_is_allowed_can_be_set(lumina: Any, tmp_path: Path) -> None:
    path = put(tmp_path, "half.jsonl", (GOOD + "{oops\n").encode())
    refused = lumina("data", "check", path)
    assert refused.code == 2
    assert "half.jsonl:2: " in refused.err
    assert "1 of 2 lines unusable (limit 5%)" in refused.err
    assert lumina("data", "check", path, "--max-bad-fraction", "0.5").code == 0
    answer = lumina("train", "debug", "--data", path, "--name", "first", "--set", "max_bad_fraction=0.1")
    assert (answer.code, "limit 10%" in answer.err) == (2, True)


def test_folders_are_read_through_and_totals_are_shown(lumina: Any, tmp_path: Path) -> None:
    (tmp_path / "corpus" / "inner").mkdir(parents=True)
    (tmp_path / "corpus" / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "corpus" / "inner" / "b.jsonl").write_text(GOOD * 3)
    (tmp_path / "corpus" / "notes.md").write_text("ignored")
    document = lumina("data", "check", tmp_path / "corpus", "--json").document
    assert [Path(file["path"]).name for file in document["files"]] == ["a.txt", "b.jsonl"]
    assert document["totals"]["files"] == 2
    assert lumina("data", "check", tmp_path / "corpus").out.splitlines()[-1].startswith("2 files, ")


def test_a_file_name_cannot_command_the_terminal(lumina: Any, tmp_path: Path) -> None:
    path = put(tmp_path, "red\x1b[31m.txt", b"text\n")
    assert "\x1b" not in lumina("data", "check", path).out
    path.write_bytes(b"")
    assert "\x1b" not in lumina("data", "check", path).err


# Names


@pytest.mark.parametrize("name", ["a/b", "../up", "..", "a..b", "", ".hidden", "-rf", "x" * 101, "spaced name", "a\nb"])
def test_a_name_that_no_run_may_have_is_refused(lumina: Any, runs: Path, name: str) -> None:
    answer = lumina("train", "debug", f"--name={name}", "--background")
    assert (answer.code, answer.out) == (2, "")
    assert "is not allowed: use 1 to 100 letters, digits" in answer.err
    assert nothing_was_written(runs)
    assert not (runs.parent / "up").exists()


def test_a_name_that_is_taken_is_refused_and_the_run_left_alone(lumina: Any, runs: Path) -> None:
    paths = finished_run(runs)
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    answer = lumina("train", "debug", "--name", "first", "--background")
    assert (answer.code, answer.out) == (2, "")
    assert f"there is a run or folder {paths.root} already; choose another --name (name_taken)" in answer.err
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before


# Configuration


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("debg",), "debg is not a preset; did you mean debug?"),
        (("zebra",), "zebra is not a preset; use debug, debug_200m, b1"),
        (("missing.yaml",), "cannot read missing.yaml: No such file or directory"),
        (("debug", "--set", "batch_sise=4"), "did you mean training.batch_size?"),
        (("debug", "--set", "training.batch_sise=4"), "did you mean training.batch_size?"),
        (("debug", "--set", "batch_size=many"), "training.batch_size"),
        (("debug", "--set", "batch_size=0"), "training.batch_size"),
        (("debug", "--set", "num_heads=3"), "does not divide model.hidden_size = 128"),
        (("debug", "--set", "batch_size=[1"), "has a value that is not YAML"),
    ],
    ids=" ".join,
)
def test_a_wrong_configuration_is_refused_with_a_hint(
    lumina: Any, runs: Path, words: tuple[str, ...], said: str
) -> None:
    answer = lumina("train", *words, "--name", "first", "--background")
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert all(line.startswith("lumina: error: ") for line in answer.err.splitlines())
    assert nothing_was_written(runs)
    if "--set" in words:
        assert said in lumina("plan", *words).err


def test_all_problems_are_told_at_once(lumina: Any) -> None:
    answer = lumina("train", "debug", "--set", "batch_size=0", "learning_rate=-1", "wamup_steps=3")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 3


def test_a_problem_in_a_file_names_its_line(lumina: Any, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("preset: debug\ntraining:\n  batch_size: 4\n  learning_rate: fast\n")
    answer = lumina("train", "mine.yaml", "--name", "first")
    assert (answer.code, answer.out) == (2, "")
    assert "training.learning_rate" in answer.err
    assert "mine.yaml:4" in answer.err
    assert nothing_was_written(runs)


# Starting and going on


def test_a_good_run_is_created_and_started(
    lumina: Any, runs: Path, tmp_path: Path, started: list[tuple[RunPaths, dict[str, Any]]]
) -> None:
    data = put(tmp_path, "a.jsonl", GOOD.encode() * 3)
    words = ("train", "debug", "--data", "a.jsonl", "--name", "first", "--steps", "30", "--set", "batch_size=2")
    answer = lumina(*words, "seed=7", "--autonomy", "auto", "--background")
    assert answer.code == 0
    assert "a.jsonl: jsonl, text, " in answer.out
    assert "first trains in the background" in answer.out
    assert "training mode: base_only (all files are base texts)" in answer.out
    ((paths, options),) = started
    assert (paths.root, options) == (runs / "first", {})
    config = read_config(paths.config)
    assert (config.training.max_steps, config.training.batch_size, config.training.seed) == (30, 2, 7)
    assert (config.orchestrator.autonomy, config.data.base_paths) == ("auto", (str(data),))


def test_every_file_is_judged_once(
    lumina: Any, tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []

    def noted(path: Path, *rest: Any) -> FileReport:
        judged.append(path.name)
        return really_check(path, *rest)

    monkeypatch.setattr("lumina.data.validate._check_file", noted)
    put(tmp_path, "a.jsonl", GOOD.encode())
    put(tmp_path, "held.txt", b"held out\n")
    words = ("train", "debug", "--data", "a.jsonl", "--set", "base_eval_paths=[held.txt]", "--background")
    answer = lumina(*words)
    assert (answer.code, len(started)) == (0, 1)
    assert judged == ["a.jsonl", "held.txt"]
    assert "2 files, " in answer.out


def test_a_start_with_json_prints_one_document_and_returns(
    lumina: Any, started: list[tuple[RunPaths, dict[str, Any]]], tmp_path: Path
) -> None:
    put(tmp_path, "a.jsonl", GOOD.encode())
    document = lumina("train", "debug", "--data", "a.jsonl", "--name", "first", "--json").document
    assert document == {"name": "first", "path": str(started[0][0].root), "state": "created"}


def test_an_unusual_value_warns_and_goes_on(lumina: Any, started: list[tuple[RunPaths, dict[str, Any]]]) -> None:
    answer = lumina("train", "debug", "--name", "first", "--set", "learning_rate=0.5", "--background")
    assert (answer.code, len(started)) == (0, 1)
    assert answer.err.startswith("lumina: warning: ")
    assert "learning_rate" in answer.err


def test_a_config_that_was_edited_by_hand_is_checked_when_a_run_goes_on(lumina: Any, runs: Path) -> None:
    paths = new_run(runs)
    lines = paths.config.read_text().splitlines()
    number = next(index for index, line in enumerate(lines) if line.strip().startswith("batch_size:"))
    lines[number] = "  batch_size: eight"
    paths.config.write_text("\n".join(lines) + "\n")
    answer = lumina("resume", "first", "--background")
    assert (answer.code, answer.out) == (2, "")
    assert "training.batch_size" in answer.err
    assert "eight" in answer.err
    assert f"{paths.config}:{number + 1}" in answer.err


def test_a_config_that_is_no_yaml_is_refused_with_its_line(lumina: Any, runs: Path) -> None:
    paths = new_run(runs)
    paths.config.write_text("training:\n  batch_size: [1\n")
    answer = lumina("resume", "first")
    assert (answer.code, answer.out) == (2, "")
    assert "config.yaml:" in answer.err
    paths.config.unlink()
    (paths.root / "journal.jsonl").touch()
    assert "cannot read" in lumina("resume", "first").err


def test_a_second_trainer_is_refused_and_told_of_the_first(
    lumina: Any, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "spawn", really_spawn)
    paths = finished_run(runs)
    with living(paths):
        answer = lumina("resume", "first", "--steps", "60")
    assert (answer.code, answer.out) == (1, "")
    assert "run 'first' is in use by process " in answer.err
    assert answer.err.endswith("(locked)\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "run 'first' is finished at step 40; give --steps, the new total"),
        (("--steps", "40"), 2, "--steps 40 is the new total, and the run is at step 40 already"),
        (("--from", "newest"), 2, "'newest' is neither latest, best_val nor a step"),
        (("--from", "7"), 2, "run 'first' has no checkpoint of step 7; there are: none"),
    ],
)
def test_a_run_that_cannot_go_on_so_says_why(
    lumina: Any, runs: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    finished_run(runs)
    answer = lumina("resume", "first", *words)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err


def test_a_finished_run_is_extended(lumina: Any, runs: Path, started: list[tuple[RunPaths, dict[str, Any]]]) -> None:
    paths = finished_run(runs)
    answer = lumina("resume", "first", "--steps", "1,000", "--background")
    assert (answer.code, answer.err) == (0, "")
    assert started == [(paths, {"resume": "latest", "steps": 1000})]
