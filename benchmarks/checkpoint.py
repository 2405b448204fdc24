"""What a checkpoint costs: the stall of training against one copy of the state in memory, and saving and loading
against torch.save and torch.load with a sha256 of the same state.

`python benchmarks/checkpoint.py` lets the subjects take turns in one process, prints medians and ratios, and writes
them to `docs/performance.md` and `docs/checkpoints.json`. `--size tiny --rounds 5 --dry` is a quick look.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pages import DOCS, Section

import lumina
from lumina.checkpoint import CanonicalState, Snapshot, load_checkpoint
from lumina.checkpoint.canonical import TABLES, tensors_of
from lumina.checkpoint.save import publish, write_files
from lumina.hardware import choose_threads, detect
from lumina.train.trainer import Trainer

ABOUT = """\
## A checkpoint

`python benchmarks/checkpoint.py`: parameters, both moments of Adam, and the rest of a run. The subjects take turns;
ratios are medians over rounds of times in the same round. The stall is what the training loop waits for a checkpoint
in the background (snapshot, manifest, start of the thread); next to it stands one copy of the same tensors into memory
that is there already. Saving is what the background thread does: it writes, hashes and syncs every file; "copy and
save" has the copy in it, too. Loading verifies every byte, every header and the state's hash. torch.save is followed
by a sha256 of its file and, where it says so, by the same sync; torch.load (`weights_only`) by the sha256 that would
find damage.
"""
SIZES: dict[str, tuple[int, dict[str, Any]]] = {
    "tiny": (30, {"hidden_size": 128, "num_layers": 2, "num_experts": 8, "intermediate_size": 344}),
    "small": (8, {"hidden_size": 384, "num_layers": 6, "num_experts": 8, "intermediate_size": 1024}),
}
ABOUT_IT: dict[str, Any] = {
    "reason": "bench", "segment": "bench", "val_loss": None, "journal_seq": 1, "fingerprint": {},
}  # fmt: skip
Times = dict[str, list[float]]


class Subjects:
    """A trained trainer and its state, and everything that is timed with it."""

    def __init__(self, shape: dict[str, Any], folder: Path, threads: int) -> None:
        self.folder = folder
        self.trainer: Trainer = lumina.Trainer(
            "debug", name="bench", steps=10**6, directory=folder, num_threads=threads, eval_interval=10**6,
            save_every_n_batches=10**6, save_total_limit=1, corpus_documents=200, batch_size=1, **shape,
        )  # fmt: skip
        self.trainer.train(until=2)
        self.state = self.trainer._saver.canonical()
        self.tensors = {name: tensor for file in TABLES for name, tensor in tensors_of(self.state, file).items()}
        self.kept = Snapshot()
        self.room = {name: torch.empty_like(tensor) for name, tensor in self.tensors.items()}
        self.bytes = sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def stall(self) -> float:
        """A request in the training loop; the writing that it starts is waited for outside of the time."""
        saver = self.trainer._saver
        saver.changes += 1  # as after a step: another state
        started = time.perf_counter()
        saver.request("periodic")
        stalled = time.perf_counter() - started
        saver.settle()
        return stalled

    def copy(self) -> float:
        started = time.perf_counter()
        torch._foreach_copy_(list(self.room.values()), list(self.tensors.values()))
        return time.perf_counter() - started

    def save(self, copy: bool) -> float:
        root = self.folder / "ours"
        shutil.rmtree(root, ignore_errors=True)
        started = time.perf_counter()
        if copy:
            self.kept.take(self.state)
        publish(root, write_files(root, 1, self.kept, **ABOUT_IT), 1)
        return time.perf_counter() - started

    def load(self) -> float:
        started = time.perf_counter()
        found, _, _ = load_checkpoint(self.folder / "ours", 1)
        took = time.perf_counter() - started
        assert found.params.keys() == self.state.params.keys()
        return took

    def torch_save(self, sync: bool) -> float:
        path = self.folder / "theirs.pt"
        path.unlink(missing_ok=True)
        started = time.perf_counter()
        torch.save(_plain(self.state), path)
        if sync:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        _sha256(path)
        return time.perf_counter() - started

    def torch_load(self) -> float:
        path = self.folder / "theirs.pt"
        started = time.perf_counter()
        _sha256(path)
        torch.load(path, weights_only=True)
        return time.perf_counter() - started

    def all(self) -> dict[str, Callable[[], float]]:
        return {
            "one copy in memory": self.copy,
            "stall of training": self.stall,
            "torch.save, sha256, sync": lambda: self.torch_save(True),
            "torch.save, sha256, no sync": lambda: self.torch_save(False),
            "save": lambda: self.save(False),
            "copy and save": lambda: self.save(True),
            "torch.load, sha256": self.torch_load,
            "load": self.load,
        }


RATIOS = {
    "stall of training": "one copy in memory",
    "save": "torch.save, sha256, sync",
    "copy and save": "torch.save, sha256, sync",
    "load": "torch.load, sha256",
}
AGAINST_UNSYNCED = ("save", "torch.save, sha256, no sync")


def _plain(state: CanonicalState) -> dict[str, Any]:
    tables = {table: getattr(state, table) for names in TABLES.values() for table in names}
    return {**tables, "adam_step": state.adam_step, "meta": state.meta}


def _sha256(path: Path) -> str:
    hashed = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(8 << 20):
            hashed.update(block)
    return hashed.hexdigest()


def measure(subjects: Subjects, rounds: int, warmup: int = 2) -> Times:
    """Every subject once a round, in an order that turns."""
    calls = subjects.all()
    times: Times = {label: [] for label in calls}
    for label in ("copy and save", "torch.save, sha256, sync"):
        calls[label]()  # there is something to load
    for number in range(warmup + rounds):
        labels = list(calls)
        turn = number % len(labels)
        for label in labels[turn:] + labels[:turn]:
            taken = calls[label]()
            if number >= warmup:
                times[label].append(taken)
    return times


def ratio(times: Times, label: str, base: str) -> float:
    return statistics.median(mine / theirs for mine, theirs in zip(times[label], times[base], strict=True))


def rows(times: Times) -> list[dict[str, Any]]:
    found = []
    for label, taken in times.items():
        row: dict[str, Any] = {"subject": label, "seconds": statistics.median(taken)}
        if label in RATIOS:
            row["base"], row["ratio"] = RATIOS[label], ratio(times, label, RATIOS[label])
        if label == AGAINST_UNSYNCED[0]:
            row["ratio_to_unsynced"] = ratio(times, *AGAINST_UNSYNCED)
        found.append(row)
    return found


def table(name: str, entry: dict[str, Any]) -> str:
    lines = [f"### {name}", "", f"{entry['rounds']} rounds on {entry['machine']}; {entry['bytes'] / 1e6:.0f} MB.", ""]
    lines += ["| | ms | ratio |", "|---|---|---|"]
    for row in entry["rows"]:
        told = f"{row['ratio']:.2f} x {row['base']}" if "ratio" in row else ""
        if "ratio_to_unsynced" in row:
            told += f"; {row['ratio_to_unsynced']:.2f} x without its sync"
        lines.append(f"| {row['subject']} | {1000 * row['seconds']:.1f} | {told} |")
    return "\n".join(lines) + "\n"


KEPT = Section("benchmarks/checkpoint.py", ABOUT, DOCS / "checkpoints.json", table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=[*SIZES], help="may be repeated; default both")
    parser.add_argument("--rounds", type=int, help="default by size")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", type=Path, help="where to write; default the folder of temporary files")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    hardware = detect()
    threads = options.threads or choose_threads(hardware)
    torch.set_num_threads(threads)
    machine = f"{hardware.name}, {threads} threads, {platform.system()}, torch {torch.__version__}"
    print(ABOUT)
    for size in options.size or [*SIZES]:
        rounds, shape = SIZES[size]
        with tempfile.TemporaryDirectory(prefix="lumina-bench-", dir=options.folder) as folder:
            subjects = Subjects(shape, Path(folder), threads)
            times = measure(subjects, options.rounds or rounds)
            subjects.trainer.close()
        entry = {"machine": machine, "rounds": len(times["save"]), "bytes": subjects.bytes, "rows": rows(times)}
        print(table(size, entry), flush=True)
        if not options.dry:
            KEPT.keep(size, entry)


if __name__ == "__main__":
    main()
