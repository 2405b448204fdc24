"""Asks torch for the best device of this machine; the only module of this package that imports torch.
Knows nothing of models or runs."""

from __future__ import annotations

import platform

from lumina.hardware.detect import Hardware, detect_cpu


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
