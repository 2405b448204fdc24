"""What it looks like when memory runs out, on whatever device. It recognises; it must not know what to do about it."""

from __future__ import annotations

PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """True for torch's OutOfMemoryError, Python's MemoryError, and the RuntimeErrors of allocators that say so."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in PHRASES)
