"""Describes what this machine computes with, without torch; `accelerator` asks torch itself.
Knows nothing of models or runs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from lumina.store.errors import Refusal

_DEVICES = Path("/dev")
_CPUINFO = Path("/proc/cpuinfo")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_ZEN5 = 26  # a family in the numbering of AMD's processors
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_ASK = "import dataclasses, json; from lumina.hardware import detect; print(json.dumps(dataclasses.asdict(detect())))"


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


def detect_apart(devices: Path = _DEVICES) -> Hardware:
    """What `lumina.hardware.detect` finds, for a process that must stay without torch: where a GPU may be, another
    process is asked. Raises `Refusal` (unsupported) when that one fails."""
    if not _gpu_possible(devices):
        return detect_cpu()
    answer = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        said = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Refusal("unsupported", f"torch cannot look at this machine's hardware: {said}")
    found = json.loads(answer.stdout.splitlines()[-1])
    capability = tuple(found["capability"]) if found["capability"] else None
    return Hardware(**{**found, "capability": capability})


def _gpu_possible(devices: Path) -> bool:
    """Whether there may be a GPU that torch can use: NVIDIA's, AMD's or WSL's device files; elsewhere than on Linux,
    always."""
    if sys.platform != "linux":
        return True
    return any(devices.glob("nvidia[0-9]*")) or (devices / "kfd").exists() or (devices / "dxg").exists()


def detect_cpu(cpuinfo: Path = _CPUINFO, cpu_quota: Path = _CPU_QUOTA) -> Hardware:
    """The CPU alone, without torch."""
    name, flags = _name_and_flags(cpuinfo)
    return Hardware(
        device="cpu",
        name=name,
        capability=None,
        cpu_bf16=bool(_BF16_FLAGS & flags),
        cores=_usable_cores(cpu_quota),
        memory_bytes=psutil.virtual_memory().total,
    )


def mkl_is_narrow(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether MKL leaves half of this processor idle: on AMD's it computes 256 bits at once, and from Zen 5 on they
    compute 512. Known on Linux alone."""
    fields = _read_cpuinfo(cpuinfo)
    family = fields.get("cpu family", "")
    return (
        fields.get("vendor_id") == "AuthenticAMD"
        and family.isdigit()
        and int(family) >= _ZEN5
        and "avx512f" in fields.get("flags", "").split()
    )


def _name_and_flags(cpuinfo: Path) -> tuple[str, frozenset[str]]:
    fields = _read_cpuinfo(cpuinfo)
    flags = fields.get("flags", fields.get("Features", ""))
    name = fields.get("model name") or platform.processor() or platform.machine() or "CPU"
    return name, frozenset(flags.split())


def _read_cpuinfo(path: Path) -> dict[str, str]:
    """What is said of the first core; other systems than Linux have no such file."""
    fields: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    return fields


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
