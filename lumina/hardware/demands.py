"""Whether this machine can do what a configuration asks of it by name, told before a run exists.
Knows no model and no run; imports no torch."""

from __future__ import annotations

from lumina.config import Config
from lumina.hardware.compiler import compile_problem
from lumina.hardware.detect import Hardware, detect_apart
from lumina.hardware.precision import PrecisionError, choose_precision
from lumina.store.errors import Refusal

ANYWHERE = ("auto", "fp32", "int8")


def check_demands(config: Config, hardware: Hardware | None = None) -> None:
    """Raises `Refusal` (bad_argument) naming the parameter, the reason and what is possible instead.

    The hardware is looked at only where something is asked for that not every machine has.
    """
    formats = {
        f"precision.{name}": wanted
        for name, wanted in (
            ("precision", config.precision.precision),
            ("inference_precision", config.precision.inference_precision),
        )
        if wanted not in ANYWHERE
    }
    if not formats and not config.optimization.compile:
        return
    hardware = hardware or detect_apart()
    for path, wanted in formats.items():
        try:
            choose_precision(wanted, hardware)
        except PrecisionError as error:
            raise Refusal("bad_argument", f"{path} = {wanted}: {error}") from error
    problem = compile_problem(hardware) if config.optimization.compile else None
    if problem:
        raise Refusal("bad_argument", f"optimization.compile = true: {problem}; use false")
