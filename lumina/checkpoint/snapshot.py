"""A copy of a run's state in buffers that are used again and again, and that are the files of a checkpoint already.

It copies tensors; it must not know when, or where a checkpoint is written.
"""

from __future__ import annotations

import json

import torch

from lumina.checkpoint.canonical import TABLES, CanonicalState, combined_hash, state_from, tensors_of
from lumina.checkpoint.tensors import CODES, Place, TensorFile, lay_out


class Snapshot:
    """The newest state that was `take`n. Buffers are made anew only when the shapes change."""

    def __init__(self) -> None:
        self.files: dict[str, TensorFile] = {}
        self.document = b""
        self.state: CanonicalState | None = None

    @classmethod
    def of(cls, state: CanonicalState) -> Snapshot:
        made = cls()
        made.take(state)
        return made

    @torch.no_grad()
    def take(self, state: CanonicalState) -> CanonicalState:
        """Copies `state`, whose tensors may be the live ones, on any device and in any format; returns the copy."""
        for file in TABLES:
            source = tensors_of(state, file)
            kept = self.files.get(file)
            if kept is None or kept.places != _places(source):
                like = {name: _canonical_like(tensor) for name, tensor in source.items()}
                kept = self.files[file] = TensorFile.empty_like(like)
            torch._foreach_copy_(list(kept.tensors.values()), [source[name] for name in kept.tensors])
        # Now, not when it is written: parts of `meta` may belong to someone who changes them with the next step.
        self.document = json.dumps({"adam_step": state.adam_step, "meta": state.meta}).encode()
        tensors = {file: kept.tensors for file, kept in self.files.items()}
        self.state = state_from(tensors, state.adam_step, state.meta)
        return self.state

    def hash(self, digests: dict[str, str]) -> str:
        """`state_hash`, given the sha256 of each file."""
        document = json.loads(self.document)
        return combined_hash(digests, document["adam_step"], document["meta"])


def _canonical_like(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without content: floats are kept as float32, everything else as it is."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    assert dtype in CODES
    return torch.empty(tensor.shape, dtype=dtype, device="meta")


def _places(source: dict[str, torch.Tensor]) -> dict[str, Place]:
    return lay_out({name: _canonical_like(tensor) for name, tensor in source.items()})
