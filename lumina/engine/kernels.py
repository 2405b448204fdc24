"""Which kernels a model's layers compute with on this hardware, in this number format, and what is compiled.
It hands them to the layers; it knows what each kernel needs, and no step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lumina.config import Config
from lumina.hardware import (
    Hardware,
    PrecisionChoice,
    compile_problem,
    flash_problem,
    graphs_problem,
    has_grouped_products,
)
from lumina.model import Transformer, experts
from lumina.model.attention import Attention
from lumina.model.flash import flash_kernels
from lumina.model.moe import MoE
from lumina.store.errors import Refusal

ALIGNED = 8  # numbers of 16 bits in the 16 bytes that rows of a grouped product are a multiple of


def choose_kernels(
    model: Transformer, config: Config, hardware: Hardware, precision: PrecisionChoice, plain: bool
) -> None:
    """Gives attention its flash kernels, and experts their grouped products, where both are there.

    `plain` says that layers multiply by torch's own product.
    """
    if config.optimization.use_flash_attention is not False and flash_problem(hardware, config) is None:
        flash = flash_kernels()
        for module in model.modules():
            if isinstance(module, Attention):
                module.flash = flash
    sizes = config.model.hidden_size, config.model.ffn_size
    aligned = all(size % ALIGNED == 0 for size in sizes)
    if not (plain and aligned and precision.compute_dtype == "bfloat16" and has_grouped_products(hardware)):
        return
    blackwell = (hardware.capability or (0, 0)) >= (10, 0)
    for module in model.modules():
        if isinstance(module, MoE):
            module.in_groups = experts.grouped_and_cleared if blackwell else experts.grouped


def refuse_what_cannot_be_compiled(config: Config, hardware: Hardware) -> None:
    """Raises `Refusal` (unsupported)."""
    optimization = config.optimization
    for name, asked, reason in (
        ("compile", optimization.compile, compile_problem),
        ("cuda_graphs", optimization.cuda_graphs, graphs_problem),
    ):
        if asked and (problem := reason(hardware)):
            raise Refusal("unsupported", f"optimization.{name} = true: {problem}; use false")


def compile_layers(model: Transformer, config: Config) -> None:
    """Compiles what the configuration asks for."""
    if config.optimization.compile:
        for layer in model.layers:
            layer.compile_dense(config.optimization.cuda_graphs, config.has_documents)  # type: ignore[operator]


class Graphs:
    """What a step has to heed where parts of it are replayed as CUDA graphs, each time into the same memory."""

    def __init__(self, config: Config) -> None:
        self.used = config.optimization.cuda_graphs

    def begin(self) -> None:
        """Before each forward pass: what the graphs gave in the one before is no longer needed."""
        if self.used:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def keep_gradients(self, weights: Iterable[Tensor]) -> None:
        """Zeros to add gradients to: a weight without any would take those that a graph gives for its own, and the
        next micro-batch would overwrite them (pytorch/pytorch#169545)."""
        for weight in weights if self.used else ():
            weight.grad = torch.zeros_like(weight)
