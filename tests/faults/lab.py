"""Lives of real trainers on tiny runs, with faults injected, and what is checked of every run afterwards.

It knows processes and run folders; what is injected is the business of `injections`, what is expected that of a row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lumina.client import Run
from lumina.config import load_config
from lumina.launch import create_run
from lumina.store import inbox
from lumina.store.inbox import Command
from lumina.store.journal import Entry, read_entries
from lumina.store.layout import RunPaths, new_id
from lumina.store.lock import is_locked
from lumina.store.reader import StoreReader

TESTS = Path(__file__).parents[1]
PATIENCE = 240.0  # seconds that a life may take before the test gives up on it
STEPS = 16
TINY: dict[str, Any] = {
    "model.hidden_size": 32,
    "model.intermediate_size": 24,
    "model.vocab_size": 300,
    "model.max_position_embeddings": 32,
    "model.num_heads": 4,
    "model.num_kv_heads": 2,
    "model.initializer_range": 0.2,
    "moe.num_experts": 4,
    "num_threads": 1,
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "corpus_documents": 60,
    "eval_interval": 8,
    "eval_sequences": 2,
    "check_interval": 4,
    "save_every_n_batches": 5,
    "log_interval": 1,
    "training.max_steps": STEPS,
}
Injection = tuple[str, dict[str, Any]]


@dataclass
class Life:
    """One trainer process."""

    lab: Lab
    pid: int
    hits_file: Path
    code: int | None = None

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit status, negative for a signal."""
        if self.code is None:
            self.code = self.lab.ask({"do": "wait", "pid": self.pid, "seconds": seconds})["code"]
        assert self.code is not None, f"the trainer {self.pid} still lives after {seconds:.0f} s"
        return self.code

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def hits(self) -> list[dict[str, Any]]:
        """What the injections say that they did."""
        if not self.hits_file.exists():
            return []
        return [json.loads(line) for line in self.hits_file.read_text().splitlines()]


@dataclass
class Lab:
    """Starts lives, and knows what an undisturbed run comes to."""

    folder: Path
    process: subprocess.Popen[str]
    _count: int = 0
    _undisturbed: dict[str, Outcome] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Lab]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "faults.zygote"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder,
        )  # fmt: skip
        with process:
            lab = cls(folder, process)
            lab._read()
            yield lab
            assert process.stdin is not None
            process.stdin.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))

    def new_folder(self) -> Path:
        """Where a run may be laid out; it does not exist yet."""
        self._count += 1
        return self.folder / f"run-{self._count}"

    def create(self, *commands: Command, **changes: Any) -> RunPaths:
        """A tiny run that was never started; its first boundary finds the commands."""
        self._count += 1
        paths = create_run(load_config("debug", {**TINY, **changes}), f"run-{self._count}", self.folder)
        for command in commands:
            inbox.send(paths, command)
        return paths

    def start(self, paths: RunPaths, *inject: Injection, resume: str | None = None, steps: int | None = None) -> Life:
        """A trainer on the run; it resumes where the journal has entries already, as `lumina resume` does."""
        self._count += 1
        if resume is None and paths.journal.exists() and paths.journal.stat().st_size:
            resume = "latest"
        argv = [str(paths.root)] + (["--resume", resume] if resume else []) + (["--steps", str(steps)] if steps else [])
        hits = self.folder / f"hits-{self._count}.jsonl"
        request = {"do": "start", "argv": argv, "log": str(paths.log), "hits": str(hits), "inject": inject}
        return Life(self, self.ask(request)["pid"], hits)

    def live(self, paths: RunPaths, *inject: Injection, **options: Any) -> Life:
        """A whole life: started, and waited for until it has ended."""
        life = self.start(paths, *inject, **options)
        life.wait()
        return life

    def finish(self, paths: RunPaths, **options: Any) -> Outcome:
        """Resumes without a fault, to the end."""
        code = self.start(paths, **options).wait()
        assert code == 0, log_of(paths)
        return outcome(paths)

    def undisturbed(self, *commands: Command, **changes: Any) -> Outcome:
        """What such a run comes to when nothing happens to it."""
        asked = [(command.kind, command.method, command.args) for command in commands]
        key = json.dumps([asked, changes], sort_keys=True)
        if key not in self._undisturbed:
            self._undisturbed[key] = self.finish(self.create(*commands, **changes))
        return self._undisturbed[key]


@dataclass(frozen=True)
class Outcome:
    """What must be equal between a disturbed run and an undisturbed one: bits, series, steps."""

    state: str
    hash: str
    series: dict[str, dict[str, list[Any]]]

    @property
    def steps(self) -> list[int]:
        return list(self.series["loss"]["step"])


def intervene(method: str, **args: Any) -> Command:
    """A command as a client sends it."""
    return Command(new_id(), "intervene", method, args, author={"name": "ada", "via": "api"})


def outcome(paths: RunPaths) -> Outcome:
    from lumina.train.recorder import WALL_CLOCK

    series = StoreReader(paths).series(max_points=None)
    told = {name: column for name, column in sorted(series.items()) if name not in WALL_CLOCK}
    return Outcome(str(Run(paths).status()["state"]), last_hash(paths), told)


def manifests(paths: RunPaths) -> list[dict[str, Any]]:
    """Of every checkpoint that can be seen, oldest first."""
    found = [json.loads(path.read_bytes()) for path in paths.checkpoints.glob("checkpoint_step_*/manifest.json")]
    return sorted(found, key=lambda manifest: manifest["step"])


def last_hash(paths: RunPaths) -> str:
    return str(manifests(paths)[-1]["state_hash"])


def applied(paths: RunPaths, id: str | None = None) -> list[Entry]:
    return [entry for entry in read_entries(paths) if entry.type == "applied" and id in (None, entry.id)]


def assert_same(found: Outcome, expected: Outcome) -> None:
    """Nothing was lost, invented or done twice."""
    assert found.state == expected.state
    assert found.steps == expected.steps, "a gap or a double step on the current line"
    assert found.hash == expected.hash
    assert found.series == expected.series


def log_of(paths: RunPaths) -> str:
    return paths.log.read_text(errors="replace")[-4000:] if paths.log.exists() else ""


def wait_for_lock(paths: RunPaths) -> None:
    from small import until

    until(lambda: is_locked(paths))
