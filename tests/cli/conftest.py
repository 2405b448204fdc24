"""Fixtures of the command line's tests: run commands in this process, and look at both streams."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from factories import Recording, new_run, receipt

from lumina import launch
from lumina.cli import main
from lumina.store.inbox import Command, Inbox
from lumina.store.layout import RunPaths


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; strict, and nothing else is there."""
        return json.loads(self.out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


Lumina = Callable[..., Answer]


@pytest.fixture
def lumina(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lumina:
    """`lumina("status", "first")`: one command on the runs in the test's folder, which never starts a trainer."""
    monkeypatch.setenv("LUMINA_DIR", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "spawn", lambda *_, **__: pytest.fail("a trainer was started"))

    def run(*words: object) -> Answer:
        code = main([str(word) for word in words])
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of the runs."""
    return tmp_path / "runs"


@pytest.fixture
def live(runs: Path) -> Iterator[Recording]:
    """A run `first` whose trainer lives, at step 20."""
    recording = Recording(new_run(runs))
    recording.train(20)
    assert recording.writer.flush()
    yield recording
    recording.close()


@contextmanager
def _answering(paths: RunPaths, state: str = "verified", **rest: Any) -> Iterator[list[Command]]:
    taken: list[Command] = []
    ended = threading.Event()

    def work() -> None:
        inbox = Inbox(paths)
        while not ended.wait(0.01):
            for command in inbox.take():
                taken.append(command)
                doc = receipt(command.id, command.kind, state, method=command.method, args=dict(command.args), **rest)
                inbox.done(command.id, doc)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield taken
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def answering() -> Callable[..., AbstractContextManager[list[Command]]]:
    """`with answering(paths, state, step=...) as taken`: commands are answered with that, and listed in `taken`."""
    return _answering
