"""From files to stored tokens: split, cache, bounded memory, and how much validation has in common with training."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.config import Config, load_config
from lumina.data import Dataset, identity, prepare
from lumina.data.identity import content_hash
from lumina.data.sources import Document
from lumina.data.tokenise import HeldOut, sampled
from lumina.data.tokenizer import PIECE, pieces_of
from lumina.data.tokens import TokenStore

WORDS = [f"w{number}" for number in range(400)]


def text(seed: int, words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    return path


def config(**more: object) -> Config:
    return load_config("debug", {"tokenizer": "bytes", "sequence_length": 32, **more})


def decoded(dataset: Dataset) -> str:
    """All training tokens as text."""
    packed = dataset.sources[0].train
    store: TokenStore = packed.store  # type: ignore[attr-defined]
    return dataset.tokenizer.decode(store.window(0, len(store))[0].tolist())


def test_all_text_but_the_held_out_share_is_trained_on(tmp_path: Path) -> None:
    texts = [text(number) for number in range(60)]
    made = prepare(config(base_paths=write(tmp_path / "a.jsonl", texts)))
    kept = decoded(made)
    missing = [one for one in texts if one not in kept]
    assert made.facts["validation_documents"] == len(missing) == 3
    assert made.facts["train_documents"] == 57


@settings(max_examples=40, deadline=None, derandomize=True)
@given(fraction=st.floats(0.002, 0.9), seed=st.integers(0, 99), documents=st.integers(1, 3000))
def test_the_held_out_share_is_as_asked_at_any_length(fraction: float, seed: int, documents: int) -> None:
    out = HeldOut(fraction, seed)
    count = sum(map(out, range(documents)))
    assert abs(count - documents * fraction) <= 1 + 1e-6 * documents


def test_held_out_documents_do_not_fall_into_a_rhythm() -> None:
    out = HeldOut(0.05, 0)
    assert len({number % 20 for number in range(4000) if out(number)}) == 20


@pytest.mark.parametrize("texts", [["only one " * 40], ["first of two " * 9, "second of two " * 9]])
def test_few_documents_still_leave_something_to_validate_on(texts: list[str], tmp_path: Path) -> None:
    made = prepare(config(base_paths=write(tmp_path / "few.jsonl", texts)))
    assert made.validation_count >= 1
    assert made.facts["train_tokens"] > 100
    assert made.facts["validation_overlap"] == 0


def test_a_second_start_reads_no_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.jsonl", [text(number) for number in range(30)])
    first = prepare(config(base_paths=file))
    monkeypatch.setattr(identity, "_hash", lambda path, *_: pytest.fail(f"{path} was read"))
    again = prepare(config(base_paths=file, stride=4, sequence_length=16))
    assert again.folder == first.folder


def test_another_content_is_other_data_even_with_the_old_size_and_time(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [text(number) for number in range(30)])
    before, status = content_hash(file, tmp_path / "cache"), file.stat()
    file.write_text(file.read_text().replace("w1 ", "w2 "))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    assert content_hash(file, tmp_path / "cache") != before
    file.write_text(file.read_text() + "\n")
    moved = file.rename(tmp_path / "b.jsonl")
    copy = tmp_path / "c.jsonl"
    copy.write_bytes(moved.read_bytes())
    assert content_hash(copy, tmp_path / "cache") == content_hash(moved, tmp_path / "cache")


def test_what_the_tokens_depend_on_is_in_the_key(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [text(number) for number in range(30)])
    folders = {
        prepare(config(base_paths=file, **change)).folder
        for change in ({}, {"seed": 1}, {"mask_user_tokens": True}, {"validation_fraction": 0.3}, {"tokenizer": "bpe"})
    }
    assert len(folders) == 5


def test_a_build_that_was_cut_off_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(phase: str, _: float) -> None:
        if phase.startswith("tokenizing"):
            raise InterruptedError(phase)

    file = write(tmp_path / "a.jsonl", [text(number) for number in range(30)])
    with pytest.raises(InterruptedError):
        prepare(config(base_paths=file), cache=tmp_path / "cache", progress=stop)
    assert list((tmp_path / "cache" / "datasets").iterdir()) == []
    assert prepare(config(base_paths=file), cache=tmp_path / "cache").facts["train_documents"] == 28


def test_repeats_between_training_and_validation_are_counted(tmp_path: Path) -> None:
    train = [text(number, 200) for number in range(50)]
    nearly = " ".join([*train[3].split()[:-4], "but", "another", "end"])
    held = [train[1], "  " + train[2] + "\n", nearly, *(text(1000 + number, 200) for number in range(5))]
    made = prepare(config(
        base_paths=write(tmp_path / "a.jsonl", train), base_eval_paths=write(tmp_path / "b.jsonl", held)
    ))  # fmt: skip
    facts = made.facts
    assert (facts["validation_documents"], facts["validation_overlap"], facts["validation_near_overlap"]) == (8, 2, 3)
    assert 0.3 < facts["validation_runs_seen"] < 0.6


def test_a_long_text_is_cut_before_spaces_and_loses_nothing() -> None:
    long = text(1, 40_000)
    pieces = list(pieces_of(long))
    assert "".join(pieces) == long
    assert all(len(piece) <= PIECE for piece in pieces)
    assert all(piece.startswith(" ") for piece in pieces[1:])
    assert list(pieces_of("x" * (3 * PIECE))) == ["x" * PIECE] * 3


def test_a_tokenizer_is_trained_on_a_bounded_sample_from_all_over() -> None:
    documents = [Document(text=f"document {number}") for number in range(10_000)]
    taken = list(sampled(documents, 0.01, 10**9, 0))
    assert 80 <= len(taken) <= 120
    places = [int(one.split()[1]) for one in taken]
    assert np.histogram(places, bins=10, range=(0, 10_000))[0].min() >= 5
    assert sum(map(len, sampled(documents, 1.0, 500, 0))) < 520


def test_the_built_in_corpus_serves_every_mode() -> None:
    for mode, names in (
        ("base_only", ["base"]), ("finetuning_only", ["finetuning"]), ("hybrid_sequential", ["base", "finetuning"])
    ):  # fmt: skip
        made = prepare(config(training_mode=mode, corpus_documents=60))
        assert [source.name for source in made.sources] == names
        assert made.facts["train_documents"] + made.facts["validation_documents"] == (12 if mode[0] == "f" else 60)
