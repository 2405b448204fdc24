"""Chooses the number format of a run, or says by name why a format cannot be had here and which is nearest.
Knows the hardware only by its description; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from lumina.config.parameters import parameter
from lumina.hardware.detect import Hardware

AMPERE, VOLTA, HOPPER = (8, 0), (7, 0), (9, 0)


@dataclass(frozen=True)
class PrecisionChoice:
    """A number format: `compute_dtype` of the matrix products, `master_dtype` of the weights that are updated (both as
    torch names them), whether the loss is scaled, and why it was chosen."""

    name: str
    compute_dtype: str
    master_dtype: str
    loss_scaling: bool
    reason: str = ""


class PrecisionError(Exception):
    """The requested format cannot be had; `nearest` can."""

    exit_code = 2

    def __init__(self, message: str, nearest: str) -> None:
        self.nearest = nearest
        super().__init__(f"{message}; the nearest possible is {nearest}")


# name: compute, master, loss scaling
_FORMATS: dict[str, tuple[str, str, bool]] = {
    "fp32": ("float32", "float32", False),
    "fp16": ("float16", "float16", True),
    "bf16": ("bfloat16", "bfloat16", False),
    "mixed_fp16": ("float16", "float32", True),
    "mixed_bf16": ("bfloat16", "float32", False),
    "fp8_e4m3": ("float8_e4m3fn", "float32", False),
}
# What comes nearest to a format, best first.
_NEAREST: dict[str, tuple[str, ...]] = {
    "fp8_e4m3": ("mixed_bf16", "mixed_fp16", "fp16", "fp32"),
    "mixed_bf16": ("mixed_fp16", "fp16", "fp32"),
    "mixed_fp16": ("mixed_bf16", "fp16", "fp32"),
    "bf16": ("mixed_bf16", "fp16", "mixed_fp16", "fp32"),
    "fp16": ("mixed_fp16", "bf16", "mixed_bf16", "fp32"),
    "fp32": ("fp32",),
}


def choose_precision(requested: str, hardware: Hardware) -> PrecisionChoice:
    """The format to train in.

    ``auto`` looks in this order: an Ampere or newer GPU (compute capability 8.0) takes mixed_bf16; Volta and Turing
    (7.0-7.5) mixed_fp16; Apple's MPS fp16; a CPU that multiplies bfloat16 in hardware (AVX512-BF16 or AMX) mixed_bf16;
    anything else fp32. A format that does not exist yet in this version is replaced by the nearest that does.
    Raises PrecisionError when a format was asked for by name and cannot be had.
    """
    if requested == "auto":
        wanted, why = _automatic(hardware)
        if _exists(wanted):
            return _choice(wanted, why)
        nearest = _nearest(wanted, hardware)
        return _choice(nearest, f"{why}; {wanted} is not available yet")
    if requested not in _FORMATS:
        raise PrecisionError(f"precision {requested} is not known", _automatic_name(hardware))
    if requested not in _supported(hardware):
        message = f"precision {requested} is not supported by {hardware.name} ({_device_words(hardware)})"
        raise PrecisionError(message, _nearest(requested, hardware))
    if not _exists(requested):
        raise PrecisionError(f"precision {requested} is not available yet", _nearest(requested, hardware))
    slow = hardware.device == "cpu" and requested != "fp32" and not hardware.cpu_bf16
    return _choice(requested, "as asked for" + (", though this CPU has no bfloat16 units: slower than fp32" * slow))


def choose_inference_precision(requested: str, training: PrecisionChoice, hardware: Hardware) -> PrecisionChoice:
    """The format to validate and generate in: ``auto`` is that of training. Raises PrecisionError."""
    return training if requested == "auto" else choose_precision(requested, hardware)


def _automatic(hardware: Hardware) -> tuple[str, str]:
    capability = hardware.capability or (0, 0)
    if hardware.device == "cuda":
        if capability >= AMPERE:
            return "mixed_bf16", f"compute capability {_dotted(capability)}"
        if capability >= VOLTA:
            return "mixed_fp16", f"compute capability {_dotted(capability)} has no bfloat16"
        return "fp32", f"compute capability {_dotted(capability)} has no fast reduced precision"
    if hardware.device == "mps":
        return "fp16", "Apple MPS"
    if hardware.cpu_bf16:
        return "mixed_bf16", "the CPU multiplies bfloat16 in hardware"
    return "fp32", "reduced precision gains nothing on this CPU"


def _automatic_name(hardware: Hardware) -> str:
    return choose_precision("auto", hardware).name


def _supported(hardware: Hardware) -> frozenset[str]:
    """Formats that the hardware can compute in at all."""
    if hardware.device == "mps":
        return frozenset({"fp32", "fp16"})
    if hardware.device == "cpu":
        return frozenset({"fp32", "bf16", "mixed_bf16"})
    capability = hardware.capability or (0, 0)
    found = {"fp32"}
    if capability >= VOLTA:
        found |= {"fp16", "mixed_fp16"}
    if capability >= AMPERE:
        found |= {"bf16", "mixed_bf16"}
    if capability >= HOPPER:
        found.add("fp8_e4m3")
    return frozenset(found)


def _exists(name: str) -> bool:
    """Whether this version of Lumina has the format: the configuration's own statement."""
    info = parameter("precision.precision")
    return info is not None and info.allows(name)


def _nearest(name: str, hardware: Hardware) -> str:
    supported = _supported(hardware)
    return next(other for other in _NEAREST[name] if other in supported and _exists(other))


def _choice(name: str, reason: str) -> PrecisionChoice:
    compute, master, scaling = _FORMATS[name]
    return PrecisionChoice(name, compute, master, scaling, reason)


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _device_words(hardware: Hardware) -> str:
    return f"compute capability {_dotted(hardware.capability)}" if hardware.capability else hardware.device
