"""Whether this machine can do what a configuration asks of it by name, told before a run exists.
Knows no model and no run; imports no torch."""

from __future__ import annotations

from lumina.config import Config
from lumina.hardware.compiler import compile_problem, graphs_problem
from lumina.hardware.detect import Hardware, detect_apart
from lumina.hardware.platform import flash_problem
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
    optimization = config.optimization
    if not formats and not optimization.compile and optimization.use_flash_attention is not True:
        return
    hardware = hardware or detect_apart()
    for path, wanted in formats.items():
        try:
            choose_precision(wanted, hardware)
        except PrecisionError as error:
            raise Refusal("bad_argument", f"{path} = {wanted}: {error}") from error
    if optimization.compile and (problem := compile_problem(hardware)):
        raise Refusal("bad_argument", f"optimization.compile = true: {problem}; use false")
    if optimization.cuda_graphs and (problem := graphs_problem(hardware)):
        raise Refusal("bad_argument", f"optimization.cuda_graphs = true: {problem}; use false")
    if optimization.use_flash_attention is True and (problem := flash_problem(hardware, config)):
        raise Refusal("bad_argument", f"optimization.use_flash_attention = true: {problem}; use auto")
