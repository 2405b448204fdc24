"""A small canonical state with every kind of tensor that a checkpoint holds, and saving it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lumina.checkpoint import CanonicalState, save_checkpoint

FINGERPRINT = {"torch": "x"}


def state(seed: int = 0, **meta: Any) -> CanonicalState:
    drawn = torch.Generator().manual_seed(seed)
    params = {name: torch.randn(shape, generator=drawn) for name, shape in (("a", (4, 3)), ("b", (5,)), ("none", (0,)))}
    moments = {name: torch.rand(tensor.shape, generator=drawn) for name, tensor in params.items()}
    buffers = {"live": torch.tensor([True, False, True]), "born": torch.tensor([3, -1])}
    whole = {"hparams": {"learning_rate": 0.1, "t": 1.0}, "trainer": {"step": seed}, "step": seed, **meta}
    squares = {name: tensor * 2 for name, tensor in moments.items()}
    return CanonicalState(params, moments, squares, {"a": 3.0, "b": 3.0, "none": 0.0}, buffers, whole)


def saved(root: Path, step: int, *, val_loss: float | None = None, reason: str = "periodic", epoch: int | None = None,
          journal_seq: int | None = None) -> Path:  # fmt: skip
    """A checkpoint of `state(step)`."""
    return save_checkpoint(
        root, step, state(step), reason=reason, segment="s", val_loss=val_loss,
        journal_seq=step if journal_seq is None else journal_seq, fingerprint=FINGERPRINT, epoch=epoch,
    )  # fmt: skip


def flip(path: Path, bit: int) -> None:
    """Turns one bit of a file over."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))
