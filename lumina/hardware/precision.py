"""Chooses the number format of a run, or says by name why a format cannot be had here and which is nearest.
Knows the hardware only by its description; imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lumina.hardware.detect import Hardware

VOLTA, AMPERE, ADA = (7, 0), (8, 0), (8, 9)


@dataclass(frozen=True)
class PrecisionChoice:
    """A number format, in torch's names: `compute_dtype` of the matrix products, `weight_dtype` of the weights that the
    model holds, `master_dtype` of those that the optimizer updates, and its moments; whether the loss is scaled, and
    why it was chosen. `products` is "fp8" where products are of float8 numbers, "int8" where weights are rounded to 8
    bits."""

    name: str
    compute_dtype: str
    weight_dtype: str
    master_dtype: str
    loss_scaling: bool = False
    products: str | None = None
    reason: str = ""


class PrecisionError(Exception):
    """The requested format cannot be had; `nearest` can."""

    exit_code = 2

    def __init__(self, message: str, nearest: str) -> None:
        self.nearest = nearest
        super().__init__(f"{message}; the nearest possible is {nearest}")


_FORMATS = {
    choice.name: choice
    for choice in (
        PrecisionChoice("fp32", "float32", "float32", "float32"),
        # AdamW's second moment, the squared gradient, is below float16's smallest number.
        PrecisionChoice("fp16", "float16", "float16", "float32", loss_scaling=True),
        PrecisionChoice("bf16", "bfloat16", "bfloat16", "bfloat16"),
        PrecisionChoice("mixed_fp16", "float16", "float32", "float32", loss_scaling=True),
        PrecisionChoice("mixed_bf16", "bfloat16", "float32", "float32"),
        PrecisionChoice("fp8_e4m3", "bfloat16", "float32", "float32", products="fp8"),
    )
}
_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
# What comes nearest to a format, best first.
_NEAREST: dict[str, tuple[str, ...]] = {
    "fp8_e4m3": ("mixed_bf16", "mixed_fp16", "fp16", "fp32"),
    "mixed_bf16": ("mixed_fp16", "fp16", "fp32"),
    "mixed_fp16": ("mixed_bf16", "fp16", "fp32"),
    "bf16": ("mixed_bf16", "fp16", "mixed_fp16", "fp32"),
    "fp16": ("mixed_fp16", "bf16", "mixed_bf16", "fp32"),
    "fp32": ("fp32",),
}


def choose_precision(requested: str, hardware: Hardware, master: str = "auto") -> PrecisionChoice:
    """The format to train in, with the optimizer's weights in `master` (``auto``: as the format has it; which go
    together is the configuration's rule).

    ``auto`` looks in this order: an Ampere or newer GPU (compute capability 8.0) takes mixed_bf16; Volta and Turing
    (7.0-7.5) mixed_fp16; Apple's MPS fp16; a CPU that multiplies bfloat16 in hardware (AVX512-BF16 or AMX) mixed_bf16;
    anything else fp32. Raises PrecisionError when a format was asked for by name and cannot be had.
    """
    if requested == "auto":
        wanted, why = _automatic(hardware)
        return _with_master(dataclasses.replace(_FORMATS[wanted], reason=why), master)
    if requested not in _FORMATS:
        raise PrecisionError(f"precision {requested} is not known", _automatic(hardware)[0])
    if requested not in _supported(hardware):
        message = f"precision {requested} is not supported by {hardware.name} ({_device_words(hardware)})"
        raise PrecisionError(message, _nearest(requested, hardware))
    reason = "as asked for" + _warning(requested, hardware)
    return _with_master(dataclasses.replace(_FORMATS[requested], reason=reason), master)


def choose_inference_precision(requested: str, training: PrecisionChoice, hardware: Hardware) -> PrecisionChoice:
    """The format to validate and generate in: ``auto`` is that of training; ``int8`` is that of training with weights
    rounded to 8 bits. Raises PrecisionError."""
    if requested == "auto":
        return training
    if requested == "int8":
        return dataclasses.replace(training, name="int8", products="int8", reason="as asked for")
    return choose_precision(requested, hardware)


def _with_master(choice: PrecisionChoice, master: str) -> PrecisionChoice:
    return choice if master == "auto" else dataclasses.replace(choice, master_dtype=_DTYPES[master])


def _warning(name: str, hardware: Hardware) -> str:
    if hardware.device != "cpu" or name == "fp32":
        return ""
    if "fp16" in name:
        return ", for trying out: a CPU has no float16 units, so it is slower than fp32"
    return "" if hardware.cpu_bf16 else ", though this CPU has no bfloat16 units: slower than fp32"


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


def _supported(hardware: Hardware) -> frozenset[str]:
    """Formats that the hardware can compute in at all."""
    if hardware.device == "mps":
        return frozenset({"fp32", "fp16"})
    if hardware.device == "cpu":
        return frozenset({"fp32", "bf16", "mixed_bf16", "fp16", "mixed_fp16"})
    capability = hardware.capability or (0, 0)
    found = {"fp32"}
    if capability >= VOLTA:
        found |= {"fp16", "mixed_fp16"}
    if capability >= AMPERE:
        found |= {"bf16", "mixed_bf16"}
    if capability >= ADA:
        found.add("fp8_e4m3")
    return frozenset(found)


def _nearest(name: str, hardware: Hardware) -> str:
    supported = _supported(hardware)
    return next(other for other in _NEAREST[name] if other in supported)


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _device_words(hardware: Hardware) -> str:
    return f"compute capability {_dotted(hardware.capability)}" if hardware.capability else hardware.device
