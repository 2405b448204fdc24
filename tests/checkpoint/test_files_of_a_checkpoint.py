"""A checkpoint is read back as it was, or it is refused: no flip, lie or pickle gets through."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import small_memory
import torch
from safetensors.torch import load_file
from small_states import flip, saved, state

from lumina.checkpoint import Damaged, Snapshot, list_checkpoints, load_checkpoint, read_state, state_hash, verify
from lumina.checkpoint.manifest import MANIFEST, Manifest, read_manifest
from lumina.store.errors import Refusal

MODEL = "model.safetensors"


def forged(folder: Path, content: bytes) -> Manifest:
    """The manifest that someone would write to pass off `content` as the model."""
    manifest = read_manifest(folder)
    assert manifest is not None
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    lie = Manifest(**{**vars(manifest), "files": {**manifest.files, MODEL: entry}})
    (folder / MODEL).write_bytes(content)
    (folder / MANIFEST).write_bytes(lie.to_bytes())
    assert read_manifest(folder) == lie
    return lie


def with_header(header: Any, data: bytes = b"\0" * 16) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = saved(tmp_path, 7)
    found, manifest, _ = load_checkpoint(tmp_path, "latest")
    wanted = state(7)
    for table in ("params", "exp_avg", "exp_avg_sq", "buffers"):
        tensors, expected = getattr(found, table), getattr(wanted, table)
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
        assert all(tensors[name].dtype == expected[name].dtype for name in expected)
    assert (found.adam_step, found.meta) == (wanted.adam_step, wanted.meta)
    assert state_hash(found) == state_hash(wanted) == manifest.state_hash
    others = load_file(folder / MODEL)
    assert torch.equal(others["params.a"], wanted.params["a"]), "the safetensors library reads it, too"


def test_the_hash_sees_every_bit_and_not_the_learning_rate() -> None:
    one, other = state(1), state(1)
    assert state_hash(one) == state_hash(other)
    other.meta["hparams"]["learning_rate"] = 0.2
    assert state_hash(one) == state_hash(other)
    other.exp_avg_sq["b"][3] = torch.nextafter(other.exp_avg_sq["b"][3], torch.tensor(9.0))
    assert state_hash(one) != state_hash(other)
    assert state_hash(state(1, trainer={"step": 2})) != state_hash(one)


def test_a_snapshot_keeps_its_buffers_and_hashes_like_the_state() -> None:
    snapshot, live = Snapshot(), state(1)
    first = snapshot.take(live).params["a"]
    live.params["a"].fill_(2.0)
    assert not torch.equal(first, live.params["a"]), "a snapshot is no view of the live state"
    assert snapshot.take(live).params["a"].data_ptr() == first.data_ptr()
    assert snapshot.hash({name: file.sha256() for name, file in snapshot.files.items()}) == state_hash(live)
    live.params["a"] = torch.ones(6, 3, dtype=torch.bfloat16)
    assert snapshot.take(live).params["a"].dtype == torch.float32


@pytest.mark.parametrize("name", [MODEL, "optimizer.safetensors", "state.json", MANIFEST])
def test_every_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path, 3)
    chance, bits = random.Random(1), 8 * (folder / name).stat().st_size
    for bit in chance.sample(range(bits), 40):
        flip(folder / name, bit)
        with pytest.raises(Refusal, match=r"no checkpoint .* can be loaded") as refused:
            load_checkpoint(tmp_path, "latest")
        assert refused.value.code == "corrupt"
        assert "manifest" in refused.value.message if name == MANIFEST else name in refused.value.message
        flip(folder / name, bit)
    load_checkpoint(tmp_path, "latest")


@pytest.mark.parametrize("name", [MODEL, "optimizer.safetensors", "state.json", MANIFEST])
@pytest.mark.parametrize("length", [0, 7, 100])
def test_a_truncated_file_is_found(tmp_path: Path, name: str, length: int) -> None:
    folder = saved(tmp_path, 3)
    with open(folder / name, "r+b") as file:
        file.truncate(length)
    with pytest.raises(Refusal, match="can be loaded"):
        load_checkpoint(tmp_path, "latest")


F32 = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
HOSTILE = {
    "a huge length": struct.pack("<Q", 1 << 62) + b"{}" + b"\0" * 16,
    "a length beyond the file": struct.pack("<Q", 1000) + b"{}" + b"\0" * 16,
    "no JSON": struct.pack("<Q", 8) + b"\x80\x04abcdef" + b"\0" * 16,
    "no object": with_header([1, 2]),
    "deep nesting": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "an overlap": with_header({"x": F32, "y": {**F32, "data_offsets": [8, 24]}}, b"\0" * 24),
    "the same bytes twice": with_header({"x": F32, "y": F32}),
    "a gap": with_header({"x": {**F32, "data_offsets": [8, 24]}}, b"\0" * 24),
    "too few bytes": with_header({"x": {**F32, "shape": [1 << 40]}}),
    "a negative side": with_header({"x": {**F32, "shape": [-2, -2]}}),
    "a negative offset": with_header({"x": {**F32, "data_offsets": [-16, 0]}}),
    "bytes that belong to nobody": with_header({"x": F32}, b"\0" * 32),
    "an unknown type": with_header({"x": {**F32, "dtype": "OBJECT"}}),
    "an infinite offset": with_header({"x": {**F32, "data_offsets": [0, float("inf")]}}),
    "nothing": b"",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_is_corrupt_and_costs_no_memory(tmp_path: Path, what: str) -> None:
    folder = saved(tmp_path, 3)
    manifest = forged(folder, HOSTILE[what])
    tracemalloc.start()
    with pytest.raises(Damaged, match=MODEL):
        read_state(folder, manifest)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    folder = saved(tmp_path, 3)
    forged(folder, pickle.dumps(Canary(canary)))
    (tmp_path / "checkpoint_latest.pt").write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(Refusal, match="no safetensors file") as refused:
        load_checkpoint(tmp_path, "latest")
    assert "checkpoint_latest.pt: not a checkpoint folder" in refused.value.message
    assert not canary.exists()


@pytest.mark.parametrize("error", [small_memory.ERRORS["cpu"], small_memory.ERRORS["python"]])
def test_a_file_that_memory_does_not_hold_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    folder = saved(tmp_path, 1)
    manifest = read_manifest(folder)
    assert manifest is not None

    def too_large(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(torch, "empty", too_large)
    with pytest.raises(Damaged, match=r"safetensors has \d+ bytes, more than this machine's memory"):
        read_state(folder, manifest)


@pytest.mark.parametrize("size", [10**12, 10**30, 0, -5])
@pytest.mark.parametrize("name", [MODEL, "state.json"])
def test_a_claimed_size_is_not_believed(tmp_path: Path, name: str, size: int) -> None:
    saved(tmp_path, 1)
    folder = saved(tmp_path, 2)
    manifest = read_manifest(folder)
    assert manifest is not None
    lie = Manifest(**{**vars(manifest), "files": {**manifest.files, name: {**manifest.files[name], "bytes": size}}})
    (folder / MANIFEST).write_bytes(lie.to_bytes())
    assert read_manifest(folder) == lie
    _, found, attempts = load_checkpoint(tmp_path, "latest")
    assert found.step == 1
    assert f"{size} expected" in attempts[0].message


def test_a_manifest_with_nonsense_and_a_right_checksum_is_none(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3)
    manifest = read_manifest(folder)
    assert manifest is not None
    for nonsense in ({"step": "3"}, {"segment": "../../outside"}, {"files": {MODEL: 5}}, {"val_loss": "low"}, {"v": 2},
                     {"pending": 5}, {"pending": ["1"]}, {"epoch": "first"}):  # fmt: skip
        lie = Manifest(**{**vars(manifest), **nonsense})
        (folder / MANIFEST).write_bytes(lie.to_bytes())
        assert list_checkpoints(tmp_path) == [], nonsense


def test_on_request_every_checkpoint_is_hashed_anew(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    folder = saved(tmp_path, 5)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert [attempt.ok for attempt in verify(tmp_path)] == [True, True]
    (folder / MANIFEST).write_bytes(Manifest(**{**vars(manifest), "state_hash": "0" * 64}).to_bytes())
    damaged = [attempt for attempt in verify(tmp_path) if not attempt.ok]
    assert [attempt.name for attempt in damaged] == ["checkpoint_step_5"]
    assert "the manifest says 000000" in damaged[0].message
