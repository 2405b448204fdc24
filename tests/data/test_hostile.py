"""Files that are damaged, lie or are far too large end in exact counts and reasons, in little memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hostile import CORPUS, CUT, GOOD, LIMIT, LINES, Hostile

from lumina.data import Reading, survey_paths

READING = Reading(max_sample_bytes=LIMIT)
MEMORY = 1 << 30  # bytes of address space that the reader may have beyond what its libraries map


@pytest.mark.parametrize("hostile", CORPUS, ids=[hostile.name for hostile in CORPUS])
def test_every_hostile_file_ends_in_an_exact_count_and_reason(tmp_path: Path, hostile: Hostile) -> None:
    path = tmp_path / hostile.name
    hostile.write(path)
    report = survey_paths([path], reading=READING, max_bad_fraction=0.9).files[0]
    found = [(issue.line, issue.reason) for issue in report.issues if issue.line]
    assert found == list(hostile.issues)
    assert report.valid == hostile.valid
    assert report.samples == report.valid + report.invalid
    if hostile.error is None:
        assert report.error is None or report.valid == report.low_quality
    else:
        assert report.error is not None
        assert report.error.startswith(hostile.error)


@pytest.mark.parametrize("name", CUT)
def test_a_truncated_download_says_how_much_was_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(CUT[name])
    report = survey_paths([tmp_path]).files[0]
    assert report.error is not None
    assert "data ends too early: the file is cut off" in report.error
    assert 0 < report.valid < LINES.count(b"\n")
    assert (report.invalid, len(report.issues)) == (0, 1)


def test_what_may_not_be_read_is_named(readable_by_all: Path) -> None:
    paths = [readable_by_all / name for name in ("secret.jsonl", "fine.jsonl", "closed/a.jsonl", "closed")]
    paths[3].mkdir()
    for path in paths[:3]:
        path.write_bytes(GOOD)
    paths[0].chmod(0)
    paths[3].chmod(0)
    survey_paths([paths[1]])  # so that nothing is left to import
    with nobody():
        errors = [file.error for file in survey_paths(paths).files]
    paths[3].chmod(0o700)
    denied = "cannot be read (Permission denied)"
    assert errors == [denied, None, denied, denied]


@pytest.fixture
def readable_by_all() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def nobody() -> Iterator[None]:
    """Without the powers of root, to whom no file is closed."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    yield
    os.seteuid(was)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "self.jsonl").symlink_to("self.jsonl")
    (tmp_path / "gone.jsonl").symlink_to("nowhere.jsonl")
    names = ("pipe.jsonl", "self.jsonl", "gone.jsonl")
    errors = [file.error for file in survey_paths([tmp_path / name for name in names]).files]
    assert errors == ["not a regular file", "a link that leads nowhere", "a link that leads nowhere"]


def test_the_whole_corpus_at_once_in_little_memory(tmp_path: Path) -> None:
    for hostile in CORPUS:
        hostile.write(tmp_path / hostile.name)
    (tmp_path / "loop").symlink_to(tmp_path)
    document = check(tmp_path, settings=[f"max_sample_bytes={LIMIT}", "max_bad_fraction=0.9"])
    found = {Path(file["path"]).name: file["valid"] for file in document["files"]}
    assert found == {hostile.name: hostile.valid for hostile in CORPUS}
    assert document["usable"] is False


@pytest.mark.parametrize("name", ["line.jsonl", "line.txt", "value.json"])
def test_a_line_of_200_megabytes_is_counted_and_not_kept(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(b"[" if name == "value.json" else b"")
        file.write(GOOD + (b"," if name == "value.json" else b"\n"))
        file.write(b'{"text": "')
        for _ in range(200):
            file.write(b"a" * (1 << 20))
        file.write(b'"}\n' + (b"," if name == "value.json" else b"\n") + GOOD)
        file.write(b"]" if name == "value.json" else b"")
    [report] = check(path, settings=["max_bad_fraction=0.5"])["files"]
    size = (200 << 20) + len(b'{"text": ""}')
    [issue] = report["issues"]
    assert f"{size:,} bytes; a sample may have at most 16,777,216" in issue["reason"]
    assert (report["valid"], report["invalid"], report["usable"]) == (2, 1, True)


def check(*paths: Path, settings: list[str] | None = None) -> dict[str, Any]:
    """The report of `lumina data check` in a process that may not use much memory, and that must not fail otherwise."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))

    words = ["data", "check", *map(str, paths), "--json", "--tokenizer", "bytes"]
    words += [word for setting in settings or () for word in ("--set", setting)]
    command = [sys.executable, "-m", "lumina.cli", *words]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=240, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 2), done.stderr
    assert max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) < 700_000, "kilobytes, with libraries"
    document: dict[str, Any] = json.loads(done.stdout)
    return document
