"""What a platform does not have, taken out of a configuration before a run computes with it.
Knows devices and parameters, no model and no run; imports no torch."""

from __future__ import annotations

import sys

from lumina.config import Config
from lumina.hardware.detect import Hardware
from lumina.hardware.precision import AMPERE

HEAD_STEP, WIDEST_HEAD = 8, 256
GROUPING = (9, 10)  # major compute capabilities


def for_platform(config: Config, hardware: Hardware) -> tuple[Config, list[str]]:
    """The configuration as this device runs it, and what was changed, in words.

    Apple's MPS reads data in the trainer's own thread and has no fused attention; what cannot be had there at all
    (compiling, bfloat16) is refused by name before a run exists, see `check_demands`.
    """
    if hardware.device != "mps":
        return config, []
    changed: list[str] = []
    data, optimization = config.data, config.optimization
    if data.num_workers:
        data = data.model_copy(update={"num_workers": 0})
        changed.append("data.num_workers = 0: Apple's MPS reads data in the trainer's own thread")
    if optimization.use_flash_attention is not False:
        optimization = optimization.model_copy(update={"use_flash_attention": False})
        changed.append("optimization.use_flash_attention = false: Apple's MPS has no fused attention")
    return config.model_copy(update={"data": data, "optimization": optimization}), changed


def flash_problem(hardware: Hardware, config: Config) -> str | None:
    """Why fused attention cannot be insisted on here, or None."""
    if hardware.device != "cuda":
        return f"{hardware.device} has no flash attention"
    if (hardware.capability or (0, 0)) < AMPERE:
        major, minor = hardware.capability or (0, 0)
        return f"flash attention needs compute capability 8.0, and {hardware.name} has {major}.{minor}"
    if config.precision.precision == "fp32":
        return "flash attention computes in 16 bits, and precision.precision = fp32"
    width = config.model.head_dim
    if width % HEAD_STEP or width > WIDEST_HEAD:
        return (
            f"flash attention takes heads of a multiple of {HEAD_STEP} up to {WIDEST_HEAD} numbers, and "
            f"model.hidden_size / model.num_heads = {width}"
        )
    return None


def has_grouped_products(hardware: Hardware) -> bool:
    """Whether PyTorch's grouped product of bfloat16 numbers needs no count on the host: on Hopper and Blackwell; other
    GPUs are asked for the counts by every product."""
    return hardware.device == "cuda" and (hardware.capability or (0, 0))[0] in GROUPING


def environment_of_platform(platform: str = sys.platform) -> dict[str, str]:
    """Variables that torch reads when it starts: on a Mac, what MPS lacks is computed on the CPU."""
    return {"PYTORCH_ENABLE_MPS_FALLBACK": "1"} if platform == "darwin" else {}
