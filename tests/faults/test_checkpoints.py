"""Damaged and hostile checkpoints: all found, never half loaded, never executed; the one before is taken."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults.lab import Lab, assert_same, log_of
from faults.matrix import SEED, Tally, often, row
from lumina.checkpoint import list_checkpoints, load_checkpoint
from lumina.checkpoint.manifest import read_manifest
from lumina.client import Run
from lumina.store.errors import Refusal
from lumina.store.journal import read_entries
from lumina.store.layout import RunPaths

SETTINGS: dict[str, Any] = {"training.max_steps": 9, "save_every_n_batches": 3}


@pytest.fixture(scope="module")
def trained(lab: Lab) -> RunPaths:
    """A run that was killed in step 8, with checkpoints of the steps 3 and 6."""
    paths = lab.create(**SETTINGS)
    assert lab.live(paths, ("kill_in_step", {"step": 8, "call": 5})).code == -9
    steps = [manifest.step for _, manifest in list_checkpoints(paths.checkpoints)]
    assert steps == [3, 6]
    return paths


@pytest.fixture
def newest(trained: RunPaths, lab: Lab) -> Path:
    """The newest checkpoint of a copy of that run."""
    root = lab.new_folder()
    shutil.copytree(trained.root, root)
    return root / "checkpoints" / "checkpoint_step_6"


def previous_is_taken(folder: Path) -> None:
    _, manifest, attempts = load_checkpoint(folder.parent, "latest")
    assert manifest.step == 3
    assert folder.name in {attempt.name for attempt in attempts if not attempt.ok}, "what was tried is named"


def continues_from_previous(lab: Lab, folder: Path) -> None:
    """A real trainer takes the checkpoint before it, says so, and ends in the same bits."""
    paths = RunPaths(folder.parents[1])
    found = lab.finish(paths)
    assert read_entries(paths)[-1].type == "end"
    assert [e.doc["fork_step"] for e in read_entries(paths) if e.type == "segment"][-1] == 3
    assert folder.name in log_of(paths)
    assert_same(found, lab.undisturbed(**SETTINGS))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


@row(
    "bit flips in a checkpoint",
    injected="one bit at a seeded place of any file of the newest checkpoint, its manifest included",
    expected="all found; the previous checkpoint is taken, and the damaged one named",
)
def test_bit_flips(lab: Lab, tally: Tally, newest: Path) -> None:
    chance = random.Random(SEED)
    sizes = {path: path.stat().st_size for path in files(newest)}
    for number in range(often(60, 500)):
        # Every file gets its share, however small it is.
        path = list(sizes)[number % len(sizes)]
        place, bit = chance.randrange(sizes[path]), 1 << chance.randrange(8)
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[place] ^= bit
        path.write_bytes(damaged)
        previous_is_taken(newest)
        tally.tried()
        path.write_bytes(whole)
    path.write_bytes(damaged)
    continues_from_previous(lab, newest)


@row(
    "a checkpoint cut short",
    injected="each file of the newest checkpoint cut at seeded lengths, emptied, removed, or with bytes behind it",
    expected="all found; the previous checkpoint is taken, and the damaged one named",
)
def test_truncations(lab: Lab, tally: Tally, newest: Path) -> None:
    chance = random.Random(SEED)
    for path in files(newest):
        whole = path.read_bytes()
        cuts = [0, len(whole) - 1, *(chance.randrange(1, len(whole)) for _ in range(often(2, 20)))]
        for content in [*(whole[:cut] for cut in cuts), whole + b"\0", None]:
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            previous_is_taken(newest)
            tally.tried()
            path.write_bytes(whole)
    (newest / "model.safetensors").write_bytes(b"")
    continues_from_previous(lab, newest)


@row(
    "all checkpoints corrupt",
    injected="every checkpoint of a run damaged, then a resume",
    expected="refused with what is wrong with each; nothing is changed, nothing restarts silently",
)
def test_all_corrupt(lab: Lab, tally: Tally, newest: Path) -> None:
    paths = RunPaths(newest.parents[1])
    for folder, _ in list_checkpoints(newest.parent):
        (folder / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(Refusal) as refused:
        load_checkpoint(newest.parent, "latest")
    assert refused.value.code == "corrupt"
    assert all(f"checkpoint_step_{step}" in refused.value.message for step in (3, 6))
    for which in ("latest", "best_val"):
        before = paths.journal.read_bytes()
        life = lab.live(paths, resume=which)
        assert life.code == 1
        tally.tried()
        assert paths.journal.read_bytes() == before
        assert Run(paths).status()["state"] == "failed"
        assert "can be loaded" in Run(paths).status()["error"]


class Canary:
    """Executes a command when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.sign}",)


def put(folder: Path, name: str, content: bytes) -> None:
    """Replaces a file and makes size and checksum in the manifest right: an attacker can do that."""
    manifest = read_manifest(folder)
    assert manifest is not None
    sums = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / name).write_bytes(content)
    changed = dataclasses.replace(manifest, files={**manifest.files, name: {**manifest.files[name], **sums}})
    (folder / "manifest.json").write_bytes(changed.to_bytes())


@row(
    "a pickle in a checkpoint",
    injected="each file replaced by a pickle that executes a command, with the right checksum; and a *.pt beside it",
    expected="refused, never executed; the previous checkpoint is taken",
)
def test_a_pickle(lab: Lab, tally: Tally, newest: Path, tmp_path: Path) -> None:
    sign = tmp_path / "executed"
    poison = pickle.dumps(Canary(sign))
    pickle.loads(poison)  # noqa: S301 - the canary sings
    assert sign.exists()
    sign.unlink()
    manifest = read_manifest(newest)
    assert manifest is not None
    for name in manifest.files:
        whole, about = (newest / name).read_bytes(), (newest / "manifest.json").read_bytes()
        put(newest, name, poison)
        previous_is_taken(newest)
        tally.tried()
        (newest / name).write_bytes(whole)
        (newest / "manifest.json").write_bytes(about)
    put(newest, "model.safetensors", poison)
    for name in ("checkpoint_step_7.pt", "checkpoint_step_8"):
        (newest.parent / name).write_bytes(poison)
        tally.tried()
    continues_from_previous(lab, newest)
    assert not sign.exists()


def header(document: object, data: bytes = b"") -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text + data


def hostile(whole: bytes) -> dict[str, bytes]:
    """safetensors files as nobody writes them."""
    length = struct.unpack("<Q", whole[:8])[0]
    table, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    name = next(key for key in table if key != "__metadata__")
    start, end = table[name]["data_offsets"]

    def with_entry(**changes: Any) -> bytes:
        return header({**table, name: {**table[name], **changes}}, data)

    return {
        "a header of 2^63 bytes": struct.pack("<Q", 2**63) + whole[8:],
        "a header longer than the file": struct.pack("<Q", len(whole)) + whole[8:],
        "no header": b"",
        "a header that is no JSON": header(b"{" * 64, data),
        "a header nested 100,000 deep": header(b"[" * 100_000 + b"]" * 100_000, data),
        "a list for a header": header([1, 2, 3], data),
        "offsets beyond the file": with_entry(data_offsets=[start, len(data) + 4096]),
        "offsets backwards": with_entry(data_offsets=[end, start]),
        "offsets of another tensor": with_entry(data_offsets=[start, end + 4]),
        "a shape of 2^40 numbers": with_entry(shape=[2**20, 2**20]),
        "a negative shape": with_entry(shape=[-1, 4]),
        "an unknown dtype": with_entry(dtype="F7"),
        "another dtype of the same size": with_entry(dtype="I32"),
        "a tensor missing": header({key: value for key, value in table.items() if key != name}, data),
        "no tensor at all": header({}),
    }


@row(
    "a hostile safetensors header",
    injected="headers too long, nested, overlapping, out of bounds, missing or mistyped, with the right checksum",
    expected="refused within bounded memory; the previous checkpoint is taken",
)
def test_a_hostile_header(lab: Lab, tally: Tally, newest: Path) -> None:
    about = (newest / "manifest.json").read_bytes()
    for name in ("model.safetensors", "optimizer.safetensors"):
        whole = (newest / name).read_bytes()
        for what, content in hostile(whole).items():
            put(newest, name, content)
            try:
                previous_is_taken(newest)
            except AssertionError as error:
                raise AssertionError(f"{name}: {what}") from error
            tally.tried()
            (newest / name).write_bytes(whole)
            (newest / "manifest.json").write_bytes(about)
    put(newest, "model.safetensors", hostile((newest / "model.safetensors").read_bytes())["a tensor missing"])
    continues_from_previous(lab, newest)
