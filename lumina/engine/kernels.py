"""Which kernels a model's layers compute with on this hardware, in this number format.
It hands them to the layers; it knows what each kernel needs, and no step."""

from __future__ import annotations

from lumina.config import Config
from lumina.hardware import Hardware, PrecisionChoice, flash_problem, has_grouped_products
from lumina.model import Transformer, experts
from lumina.model.attention import Attention
from lumina.model.flash import flash_kernels
from lumina.model.moe import MoE

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
            module.compute = experts.grouped_and_cleared if blackwell else experts.grouped
