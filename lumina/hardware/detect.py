"""Finds what this machine computes with. Torch is imported only where a GPU is asked about.
Knows nothing of models or runs."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

_CPUINFO = Path("/proc/cpuinfo")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True)
class Hardware:
    """What a run computes on.

    `capability` is the CUDA compute capability, else None; `memory_bytes` is that of one GPU, or of the machine;
    `cpu_bf16` tells whether the CPU multiplies bfloat16 in hardware; `cores` is how many this process may use.
    """

    device: Literal["cuda", "mps", "cpu"]
    name: str
    capability: tuple[int, int] | None
    cpu_bf16: bool
    cores: int
    memory_bytes: int
    count: int = 1

    def __str__(self) -> str:
        many = f"{self.count}× " if self.count > 1 else ""
        return f"{many}{self.name} ({self.device}, {self.memory_bytes / 2**30:.0f} GiB, {self.cores} cores)"


def detect() -> Hardware:
    """The best device here: CUDA, then Apple's MPS, then the CPU. Imports torch."""
    import torch

    cpu = detect_cpu()
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Hardware(
            device="cuda",
            name=properties.name,
            capability=(properties.major, properties.minor),
            cpu_bf16=cpu.cpu_bf16,
            cores=cpu.cores,
            memory_bytes=properties.total_memory,
            count=torch.cuda.device_count(),
        )
    if torch.backends.mps.is_available():
        name = f"Apple {platform.machine()}"
        return Hardware("mps", name, None, cpu.cpu_bf16, cpu.cores, cpu.memory_bytes)
    return cpu


def detect_cpu(cpuinfo: Path = _CPUINFO, cpu_quota: Path = _CPU_QUOTA) -> Hardware:
    """The CPU alone, without torch."""
    name, flags = _read_cpuinfo(cpuinfo)
    return Hardware(
        device="cpu",
        name=name,
        capability=None,
        cpu_bf16=bool(_BF16_FLAGS & flags),
        cores=_usable_cores(cpu_quota),
        memory_bytes=psutil.virtual_memory().total,
    )


def _read_cpuinfo(path: Path) -> tuple[str, frozenset[str]]:
    """Model name and feature flags of the first core; other systems than Linux have no such file."""
    fields: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", ""))
    name = fields.get("model name") or platform.processor() or platform.machine() or "CPU"
    return name, frozenset(flags.split())


def _usable_cores(cpu_quota: Path) -> int:
    """Cores that this process may run on: its affinity, and the quota of its container (cgroup v2), rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cpu_quota.is_file():
        quota, _, period = cpu_quota.read_text(encoding="ascii").strip().partition(" ")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            cores = min(cores, -(-int(quota) // int(period)))
    return max(1, cores)


def choose_threads(hardware: Hardware, requested: int | None = None) -> int:
    """CPU threads of the trainer: as requested, else all cores up to 4, and 2 left free above that."""
    if requested is not None:
        return requested
    return hardware.cores if hardware.cores <= 4 else hardware.cores - 2
