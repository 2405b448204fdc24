"""How fast data becomes batches, next to Hugging Face `datasets.map`; how soon a second start trains; how much memory a
large file takes; how long a step waits for its batch.

`python benchmarks/data.py` runs all of it on generated text and prints a line for each figure; `--scale 0.01` is a
quick look, `--only` names single parts. Every figure comes from a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

BLOCKS = 64  # different megabytes that a file is made of
Spec = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side of the comparison")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        spec = json.loads(given.child)
        print(json.dumps(CHILDREN[spec["kind"]](spec)))
        return
    with tempfile.TemporaryDirectory(prefix="lumina-bench-") as folder:
        for name in given.only:
            for line in PARTS[name](Path(folder), given.rounds, given.scale):
                print(line, flush=True)


# Parts: what is measured, in lines of a table


def throughput(folder: Path, rounds: int, scale: float) -> list[str]:
    """Tokenising and packing the same JSONL file with the same tokenizer, taking turns."""
    file, tokenizer = text_file(folder / "speed.jsonl", 200 * scale), small_tokenizer(folder)
    spec = {"file": str(file), "tokenizer": str(tokenizer), "folder": str(folder / "turn")}
    ours = {"with its quality filter": 0.85, "without": 0.0}
    seconds: dict[str, list[float]] = {side: [] for side in ("datasets", *ours)}
    for number in range(rounds):
        for side in list(seconds)[:: 1 if number % 2 else -1]:
            kind = {"kind": "lumina", "threshold": ours[side]} if side in ours else {"kind": side}
            seconds[side].append(child({**spec, **kind})["seconds"])
    size = file.stat().st_size / 1e6
    lines = []
    for side in ours:
        ratio = statistics.median(theirs / own for theirs, own in zip(seconds["datasets"], seconds[side], strict=True))
        lines.append(
            f"tokenise and pack {size:.0f} MB: Lumina {side} {size / statistics.median(seconds[side]):.2f} MB/s, "
            f"datasets.map {size / statistics.median(seconds['datasets']):.2f} MB/s; "
            f"{ratio:.2f} times as fast (median of {rounds} rounds; goal 1.0)"
        )
    return lines


def second_start(folder: Path, _: int, scale: float) -> list[str]:
    """To the first step with everything in the cache: of a process, and of the command that starts one."""
    file, tokenizer = text_file(folder / "start.jsonl", 1000 * scale), small_tokenizer(folder)
    spec = {"kind": "start", "file": str(file), "tokenizer": str(tokenizer), "folder": str(folder)}
    first, *again = [child({**spec, "name": f"run{number}"}) for number in range(6)]
    commands = [child({**spec, "kind": "command", "name": f"command{number}"})["stepped"] for number in range(5)]
    middle = {name: statistics.median(one[name] for one in again) for name in first}
    return [
        f"first start with {file.stat().st_size / 1e6:.0f} MB of text: first step after {first['stepped']:.1f} s",
        f"second start: the trainer's first step {middle['stepped']:.2f} s after its process began (goal 2); of these "
        f"{middle['torch']:.2f} s import PyTorch, {middle['imported']:.2f} s all else, {middle['opened']:.2f} s open "
        f"the run, {middle['step']:.2f} s are the step",
        f"the step is in the store {statistics.median(commands):.2f} s after `lumina train` was called",
    ]


def memory(folder: Path, _: int, scale: float) -> list[str]:
    """The most that preparing a file, and then training on it, takes above what the process had before."""
    lines = []
    for what, megabytes, one_line in (("2 GB of lines", 2000, False), ("one line of 200 MB", 200, True)):
        file = text_file(folder / "large.txt", megabytes * scale, one_line=one_line)
        found = child({"kind": "memory", "file": str(file), "folder": str(folder / "memory")})
        told = f" ({found['error']})" if found["error"] else ""
        lines.append(
            f"{what} (here {file.stat().st_size / 1e6:.0f} MB): {found['prepared'] / 1e6:.0f} MB above baseline while "
            f"preparing, {found['read'] / 1e6:.0f} MB while reading an epoch (goal 300){told}"
        )
        file.unlink()
        shutil.rmtree(folder / "memory", ignore_errors=True)
    return lines


def waiting(folder: Path, _: int, scale: float) -> list[str]:
    """The share of a step of `debug` that is spent on getting its batch."""
    lines = []
    for workers in (0, 2):
        found = child({"kind": "wait", "folder": str(folder), "workers": workers, "steps": max(30, int(300 * scale))})
        lines.append(f"waiting for data at debug, num_workers {workers}: {found['share']:.2%} of the time (goal 2%)")
    return lines


PARTS: dict[str, Callable[[Path, int, float], list[str]]] = {
    "throughput": throughput,
    "start": second_start,
    "memory": memory,
    "wait": waiting,
}


# What they are measured on


def text_file(path: Path, megabytes: float, *, one_line: bool = False) -> Path:
    """Words by a Zipf law in documents of some hundred words; a JSONL file has one in each line."""
    draw = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
    words = np.array(["".join(draw.choice(letters, size=draw.integers(2, 11))) for _ in range(20_000)])
    share = 1.0 / np.arange(1, len(words) + 1)
    blocks = [" ".join(draw.choice(words, size=160_000, p=share / share.sum())) for _ in range(BLOCKS)]
    left = int(megabytes * 1e6)
    with path.open("w") as file:
        while left > 0:
            block = blocks[int(draw.integers(BLOCKS))][int(draw.integers(1000)) :][:left]
            left -= len(block)
            if one_line:
                file.write(block)
                continue
            for at in range(0, len(block), 2500):
                text = block[at : at + 2500]
                file.write(json.dumps({"text": text}) + "\n" if path.suffix == ".jsonl" else text + "\n\n")
    return path


def small_tokenizer(folder: Path) -> Path:
    """A byte-level BPE of 4,096 tokens."""
    from lumina.data.tokenizer import train_bpe

    file = folder / "tokenizer.json"
    if not file.exists():
        sample = text_file(folder / "sample.txt", 2)
        train_bpe(sample.read_text().split("\n\n"), 4096).save(str(file))
    return file


# Children: one measurement each


def child(spec: Spec) -> dict[str, Any]:
    """Runs one measurement in a process of its own, which has a trainer's environment."""
    from lumina.launch import trainer_environment

    # Not what the system says of a process's beginning, which is a second off here and there.
    command = [sys.executable, __file__, "--child", json.dumps({**spec, "begun": time.time()})]
    environment = trainer_environment(
        {**os.environ, "LUMINA_CACHE": str(Path(spec["folder"]) / "cache"), "HF_HUB_OFFLINE": "1"}
    )
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def lumina_side(spec: Spec) -> dict[str, Any]:
    """Lumina's own path from the file to sequences that can be read."""
    from lumina.config import load_config
    from lumina.data import prepare

    cache = Path(tempfile.mkdtemp(dir=Path(spec["folder"]).parent))
    config = load_config(
        "debug",
        {"base_paths": spec["file"], "tokenizer": spec["tokenizer"], "quality_threshold": spec["threshold"]},
    )
    started = time.perf_counter()
    made = prepare(config, cache=cache)
    made.sources[0].train.rows(np.arange(8))
    seconds = time.perf_counter() - started
    shutil.rmtree(cache)
    return {"seconds": seconds, "tokens": made.facts["train_tokens"]}


def datasets_side(spec: Spec) -> dict[str, Any]:
    """`datasets`: JSON in, `map` to tokens, `map` to blocks of 257, as its own examples for language models do."""
    import datasets
    from tokenizers import Tokenizer

    datasets.disable_progress_bars()
    tokenizer = Tokenizer.from_file(spec["tokenizer"])
    begin, end = tokenizer.token_to_id("<bos>"), tokenizer.token_to_id("<eos>")
    cache = tempfile.mkdtemp(dir=Path(spec["folder"]).parent)

    def tokenise(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"ids": [[begin, *one.ids, end] for one in encoded]}

    def pack(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        flat = [token for ids in batch["ids"] for token in ids]
        return {"ids": [flat[at : at + 257] for at in range(0, len(flat), 256)]}

    started = time.perf_counter()
    loaded = datasets.load_dataset("json", data_files=spec["file"], split="train", cache_dir=cache)
    tokens = loaded.map(tokenise, batched=True, remove_columns=loaded.column_names)
    packed = tokens.map(pack, batched=True)
    assert len(packed[:8]["ids"]) > 0
    seconds = time.perf_counter() - started
    shutil.rmtree(cache)
    return {"seconds": seconds}


def start_side(spec: Spec) -> dict[str, Any]:
    """A trainer's process up to its first step."""
    before = time.time()
    import torch  # noqa: F401 - for its share

    torch_there = time.time()
    import lumina
    from lumina.train.trainer import Trainer

    imported = time.time()
    trainer: Trainer = lumina.Trainer(
        "debug", name=spec["name"], directory=Path(spec["folder"]) / "runs", data=[spec["file"]],
        tokenizer=spec["tokenizer"], steps=1000,
    )  # fmt: skip
    opened = time.time()
    trainer.train(until=1)
    stepped = time.time()
    trainer.close()
    return {
        "torch": torch_there - before,
        "imported": imported - torch_there + before - spec["begun"],
        "opened": opened - imported,
        "step": stepped - opened,
        "stepped": stepped - spec["begun"],
    }


def command_side(spec: Spec) -> dict[str, Any]:
    """`lumina train` up to where a watcher sees the first step."""
    import lumina

    runs = Path(spec["folder"]) / "runs"
    command = [sys.executable, "-m", "lumina.cli", "train", "debug", "--data", spec["file"], "--name", spec["name"]]
    command += ["--dir", str(runs), "--set", f"tokenizer={spec['tokenizer']}", "--steps", "1000", "--background"]
    started = time.time()
    subprocess.run(command, check=True, capture_output=True)
    run = lumina.attach(spec["name"], runs)
    while not run.status()["step"]:
        time.sleep(0.01)
    stepped = time.time()
    run.stop().wait()
    run.wait(60)
    return {"stepped": stepped - started}


def memory_side(spec: Spec) -> dict[str, Any]:
    """Peaks of resident memory above what there was with everything imported."""
    from lumina.config import load_config
    from lumina.data import DataError, prepare

    prepare(load_config("debug", {"corpus_documents": 100, "tokenizer": "bytes"}))  # loads every library
    config = load_config("debug", {"base_paths": spec["file"], "model.vocab_size": 8192})
    with Peak() as prepared:
        try:
            made = prepare(config)
        except DataError as error:
            return {"prepared": prepared.bytes(), "read": 0, "error": str(error)}
    count = made.program.sequences_per_epoch
    with Peak(prepared.baseline) as read:
        loader = made.training_loader(unit=8, horizon=count)
        for position in range(0, count, 512):
            loader.batch(position, 512)
    return {"prepared": prepared.bytes(), "read": read.bytes(), "error": None}


def wait_side(spec: Spec) -> dict[str, Any]:
    """A run of `debug` on the built-in corpus."""
    import lumina
    from lumina.store.layout import RunPaths
    from lumina.store.reader import StoreReader

    folder, name = Path(spec["folder"]) / "runs", f"wait{spec['workers']}"
    with lumina.Trainer("debug", name=name, directory=folder, steps=spec["steps"], num_workers=spec["workers"]) as run:
        run.train()
    found = StoreReader(RunPaths(folder / name)).series(["data.wait_seconds", "step_seconds"], max_points=None)
    wait, step = (sum(found[series]["value"][1:]) for series in ("data.wait_seconds", "step_seconds"))
    return {"share": wait / step}


class Peak:
    """The highest resident memory while inside, sampled 50 times a second."""

    def __init__(self, baseline: int | None = None) -> None:
        self._process = psutil.Process()
        self.baseline = self._process.memory_info().rss if baseline is None else baseline
        self._highest, self._over = self.baseline, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(0.02):
            self._highest = max(self._highest, self._process.memory_info().rss)

    def bytes(self) -> int:
        return max(self._highest, self._process.memory_info().rss) - self.baseline


CHILDREN: dict[str, Callable[[Spec], dict[str, Any]]] = {
    "lumina": lumina_side,
    "datasets": datasets_side,
    "start": start_side,
    "command": command_side,
    "memory": memory_side,
    "wait": wait_side,
}

if __name__ == "__main__":
    main()
