"""Every mode trains a run on real files, says which one it is, and continues a stopped run bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import SHAPE

import lumina
from lumina.checkpoint import list_checkpoints
from lumina.data.loader import NO_LOSS
from lumina.engine.api import MicroBatch
from lumina.store.layout import RunPaths
from lumina.store.reader import StoreReader
from lumina.train.trainer import Trainer

DATA = Path(__file__).parents[3] / "shared" / "data"
SMALL: dict[str, Any] = {
    **SHAPE,
    "tokenizer": "bytes",
    "batch_size": 2,
    "num_threads": 1,
    "eval_sequences": 2,
    "precision": "fp32",
}
BASE, CHAT = {"base_paths": DATA / "base"}, {"finetuning_paths": DATA / "chat"}
MODES: dict[str, dict[str, Any]] = {
    "base_only": BASE,
    "finetuning_only": {**CHAT, "mask_user_tokens": True},
    "hybrid_sequential": {**BASE, **CHAT, "phase_warmup_steps": 2},
    "hybrid_interleaved": {**BASE, **CHAT, "interleave_strategy": "random"},
}
HARDER: dict[str, Any] = {
    "corpus_documents": 20, "sequence_length": 32, "difficulty_sampling": 0.9, "curriculum_aggressiveness": 0.7,
    "tokenizer": "bytes", "steps": 300, "save_every_n_batches": 1000,
}  # fmt: skip

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the real files are not here")


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Any:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def start(folder: Path, name: str, **more: Any) -> Trainer:
    return lumina.Trainer("debug", name=name, directory=folder, **{**SMALL, "steps": 8, **more})


def series(folder: Path, name: str) -> list[float | None]:
    return StoreReader(RunPaths(folder / name)).series(["loss"])["loss"]["value"]


def final_hash(folder: Path, name: str) -> str:
    return list_checkpoints(RunPaths(folder / name).checkpoints)[-1][1].state_hash


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_trains_on_real_files_and_resumes_exactly(mode: str, tmp_path: Path) -> None:
    settings = {**MODES[mode], "training_mode": mode}
    with start(tmp_path, "whole", **settings) as trainer:
        assert trainer.train() == "finished"
    status = lumina.attach("whole", tmp_path).status()
    assert (status["data"]["mode"], status["data"]["mode_reason"]) == (mode, "as configured")
    whole = series(tmp_path, "whole")
    assert len(whole) == 8
    assert all(loss is not None and loss < 7.0 for loss in whole)

    with start(tmp_path, "halves", **settings) as trainer:
        trainer.train(until=5)
    with Trainer.open(RunPaths(tmp_path / "halves"), resume="latest") as trainer:
        assert trainer.train() == "finished"
    assert series(tmp_path, "halves") == whole
    assert final_hash(tmp_path, "halves") == final_hash(tmp_path, "whole")


def test_the_second_phase_trains_on_conversations(tmp_path: Path) -> None:
    with start(tmp_path, "phases", **MODES["hybrid_sequential"], training_mode="hybrid_sequential") as trainer:
        loader, boundary = trainer._session.loader, trainer._session.plan.boundary
    assert boundary is not None
    assert 0 < boundary < 16
    sources = loader.locate(0, 16)[0].tolist()
    assert sources == [0] * boundary + [1] * (16 - boundary)


def test_padded_sequences_train(tmp_path: Path) -> None:
    with start(tmp_path, "padded", **CHAT, packing="pad") as trainer:
        trainer.train()
        tokens = trainer.get_current_metrics()
    assert tokens["loss"] < 7.0
    seen = StoreReader(RunPaths(tmp_path / "padded")).series(["tokens"])["tokens"]["value"]
    assert 0 < float(seen[-1] or 0) <= 8 * 2 * 64


def test_sampling_by_loss_is_part_of_the_state(tmp_path: Path) -> None:
    with start(tmp_path, "whole", **HARDER) as trainer:
        trainer.train()
        history = trainer._session.loader.history
        assert history is not None
        losses = history.state()["loss_history"]
        assert np.isfinite(losses).mean() > 0.9
        plain = trainer._session.dataset.training_loader(unit=2, horizon=600)
        plain.history = None
        kept = plain.locate(560, 40)[1] == trainer._session.loader.locate(560, 40)[1]
        assert 0 < kept.sum() < 40, "some give way, none is ruled out"

    with start(tmp_path, "halves", **HARDER) as trainer:
        trainer.train(until=290)
    with Trainer.open(RunPaths(tmp_path / "halves"), resume="latest") as trainer:
        trainer.train()
        resumed = trainer._session.loader.history
        assert resumed is not None
        assert np.array_equal(resumed.state()["loss_history"], losses, equal_nan=True)
    assert series(tmp_path, "halves") == series(tmp_path, "whole")
    assert final_hash(tmp_path, "halves") == final_hash(tmp_path, "whole")


def test_a_rewind_forgets_the_losses_after_it(tmp_path: Path) -> None:
    with start(tmp_path, "back", **{**HARDER, "steps": 40, "save_every_n_batches": 10}) as trainer:
        trainer.train(until=20)
        history = trainer._session.loader.history
        assert history is not None
        before = history.state()["loss_history"]
        trainer.train(until=29)
        assert not np.array_equal(history.state()["loss_history"], before, equal_nan=True)
        trainer.rollback_steps(5)
        assert trainer.step == 20
        assert np.array_equal(history.state()["loss_history"], before, equal_nan=True)


def test_the_losses_of_sequences_are_those_of_the_step(tmp_path: Path) -> None:
    with start(tmp_path, "each", **CHAT, mask_user_tokens=True, gradient_accumulation_steps=2) as trainer:
        session = trainer._session
        read = [session.loader.batch(at, 2) for at in (0, 2)]
        batches = [MicroBatch(one.tokens, one.labels, one.documents) for one in read]
        stats = session.engine.train_step(1, batches, 0.0)
        counts = np.concatenate([(one.labels != NO_LOSS).sum(1) for one in read])
        assert stats.sequence_losses.shape == (4,)
        known = counts > 0
        mean = float((stats.sequence_losses[known] * counts[known]).sum() / counts.sum())
        assert mean == pytest.approx(stats.loss, rel=1e-5)
        assert np.isnan(stats.sequence_losses[~known]).all()
