"""What this machine can do: the device, its number formats, its threads.
Knows nothing of models or runs; torch is imported only inside `detect`."""

from __future__ import annotations

from lumina.hardware.accelerator import detect
from lumina.hardware.compiler import compile_problem, graphs_problem
from lumina.hardware.demands import check_demands
from lumina.hardware.detect import Hardware, choose_threads, detect_apart, detect_cpu, mkl_is_narrow
from lumina.hardware.memory import is_out_of_memory
from lumina.hardware.platform import environment_of_platform, flash_problem, for_platform, has_grouped_products
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
    "check_demands",
    "choose_inference_precision",
    "choose_precision",
    "choose_threads",
    "compile_problem",
    "detect",
    "detect_apart",
    "detect_cpu",
    "environment_of_platform",
    "flash_problem",
    "for_platform",
    "graphs_problem",
    "has_grouped_products",
    "is_out_of_memory",
    "mkl_is_narrow",
]
