"""Every mode trains a run on real files, says which one it is, and continues a stopped run bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small import SHAPE

import lumina
from lumina.checkpoint import list_checkpoints
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
