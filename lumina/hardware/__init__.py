"""What this machine can do: the device, its number formats, its threads.
Knows nothing of models or runs; torch is imported only inside `detect`."""

from __future__ import annotations

from lumina.hardware.compiler import compile_problem
from lumina.hardware.detect import Hardware, choose_threads, detect, detect_cpu
from lumina.hardware.precision import (
    PrecisionChoice,
    PrecisionError,
    choose_inference_precision,
    choose_precision,
)

__all__ = [
    "Hardware",
    "PrecisionChoice",
    "PrecisionError",
    "choose_inference_precision",
    "choose_precision",
    "choose_threads",
    "compile_problem",
    "detect",
    "detect_cpu",
]
