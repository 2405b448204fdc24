"""A table of tensors in one buffer that is, byte for byte, a safetensors file: filled in place, hashed, written whole.

It knows the format and believes no header; it must not know what the tensors mean.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina.hardware import is_out_of_memory

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
MAX_HEADER_BYTES = 16 << 20
ALIGNMENT = 64
READ_BYTES = 1 << 20  # hashed while it still is in the core's cache


class Damaged(Exception):
    """A checkpoint whose files are not what its manifest, or their own header, says."""


@dataclass(frozen=True)
class Place:
    """Where one tensor lies, in bytes from the end of the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def lay_out(tensors: Mapping[str, Tensor]) -> dict[str, Place]:
    """A place for each tensor, without gaps: wide types first, so that each is aligned, then by name."""
    places, offset = {}, 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        places[name] = Place(tensor.dtype, tuple(tensor.shape), offset, offset + size)
        offset += size
    return places


def header_of(places: Mapping[str, Place]) -> bytes:
    """The first bytes of the file, padded so that the tensors behind them are aligned."""
    listed = {
        name: {"dtype": CODES[place.dtype], "shape": list(place.shape), "data_offsets": [place.begin, place.end]}
        for name, place in places.items()
    }
    text = json.dumps(listed, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the file that these tensors make, without making it."""
    places = lay_out(tensors)
    hashed = hashlib.sha256(header_of(places))
    for name in places:
        flat = tensors[name].detach().contiguous().reshape(-1)
        hashed.update(flat.view(torch.uint8).numpy().data)
    return hashed.hexdigest()


class TensorFile:
    """The content of a file, and the tensors as views into it: whoever writes to them changes the content."""

    def __init__(self, buffer: Tensor, start: int, places: Mapping[str, Place]) -> None:
        self.places = dict(places)
        self._buffer = buffer
        self.tensors = {
            name: buffer[start + place.begin : start + place.end].view(place.dtype).view(place.shape)
            for name, place in places.items()
        }

    @classmethod
    def empty_like(cls, tensors: Mapping[str, Tensor]) -> TensorFile:
        """Room for tensors of these shapes and types; what is in them is arbitrary."""
        places = lay_out(tensors)
        header = header_of(places)
        size = max((place.end for place in places.values()), default=0)
        buffer = torch.empty(len(header) + size, dtype=torch.uint8)
        buffer[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        return cls(buffer, len(header), places)

    @property
    def content(self) -> memoryview:
        return self._buffer.numpy().data

    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def read_tensors(path: Path, size: int, sha256: str) -> TensorFile:
    """The tensors of a file that must have this size and checksum. Raises `Damaged`, `OSError`.

    The header is checked before anything is read that is larger than it may be.
    """
    with open(path, "rb", buffering=0) as file:
        actual = path.stat().st_size
        if actual != size:
            raise Damaged(f"{path.name} has {actual} bytes, {size} expected")
        start, places = _read_header(file, path.name, size)
        buffer = _room_for(path.name, size)
        file.seek(0)
        if _read_into(file, buffer.numpy().data) != sha256:
            raise Damaged(f"{path.name} does not match its checksum")
    return TensorFile(buffer, start, places)


def _room_for(name: str, size: int) -> Tensor:
    """Memory from torch, not from NumPy: that asks for huge pages, which a virtual machine's host may have to find
    first (five times the price of small ones that were in use before)."""
    try:
        return torch.empty(size, dtype=torch.uint8)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise Damaged(f"{name} has {size} bytes, more than this machine's memory") from None


def _read_into(file: FileIO, view: memoryview) -> str:
    """Fills the view; returns the sha256 of what was read."""
    hashed, filled = hashlib.sha256(), 0
    while filled < len(view):
        count = file.readinto(view[filled : filled + READ_BYTES])
        if not count:
            break
        hashed.update(view[filled : filled + count])
        filled += count
    return hashed.hexdigest()


def _read_header(file: FileIO, name: str, size: int) -> tuple[int, dict[str, Place]]:
    """Where the tensors begin, and the place of each, checked against the size of the file."""
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise Damaged(f"{name} is no safetensors file: a header of {length} bytes in a file of {size}")
    try:
        listed = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{name} is no safetensors file: its header is not JSON") from error
    if not isinstance(listed, dict):
        raise Damaged(f"{name} is no safetensors file: its header is not an object")
    listed.pop("__metadata__", None)
    places = {str(key): _place(name, key, entry) for key, entry in listed.items()}
    reached = 0
    for key, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin != reached:
            raise Damaged(f"{name}: tensor {key!r} begins at byte {place.begin}, and the one before ends at {reached}")
        reached = place.end
    if reached != size - 8 - length:
        raise Damaged(f"{name}: its tensors have {reached} bytes, and the file {size - 8 - length}")
    return 8 + length, places


def _place(name: str, key: str, entry: Any) -> Place:
    """One entry of a header, if it can be true."""
    try:
        dtype = DTYPES[entry["dtype"]]
        shape = tuple(int(side) for side in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Damaged(f"{name}: tensor {key!r} is described as {str(entry)[:80]}") from error
    bytes_needed = math.prod(shape) * dtype.itemsize
    if min((*shape, begin), default=0) < 0 or end - begin != bytes_needed:
        raise Damaged(f"{name}: tensor {key!r} of shape {list(shape)} cannot lie in bytes {begin} to {end}")
    return Place(dtype, shape, begin, end)
