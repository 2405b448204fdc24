"""Whether torch.compile can work here, asked before a run pays for it.
Knows compilers and no model; imports no torch."""

from __future__ import annotations

import importlib.util
import os
import shutil

from lumina.hardware.detect import Hardware


def compile_problem(hardware: Hardware) -> str | None:
    """Why models cannot be compiled on this machine, or None."""
    if hardware.device == "mps":
        return "torch.compile is not supported on Apple's MPS"
    if hardware.device == "cuda":
        return None if importlib.util.find_spec("triton") else "torch.compile needs the package triton on a GPU"
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    if any(shutil.which(name) for name in wanted):
        return None
    return f"torch.compile needs a C++ compiler on a CPU, and there is no {' or '.join(wanted)}"


def graphs_problem(hardware: Hardware) -> str | None:
    """Why a step's work cannot be recorded as CUDA graphs here, or None."""
    return None if hardware.device == "cuda" else f"{hardware.device} has no CUDA graphs"
