"""What `gpu.py` measures, each part in a process of its own: a step of Lumina or of Hugging Face's Mixtral, how often
the host waits within a step, and whether a GPU computes what the CPU does. A CPU can stand in, to try the parts out."""

from __future__ import annotations

import gc
import resource
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lumina.accounting import count_parameters, flops_per_token
from lumina.config import Config, load_config
from lumina.engine.api import MicroBatch, OutOfMemory
from lumina.engine.torch_engine import TorchEngine
from lumina.hardware import Hardware, choose_precision, detect, detect_cpu
from lumina.model import experts
from lumina.model.attention import Attention
from lumina.model.moe import MoE

WARMUP = 2
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense",
         "aten::nonzero")  # fmt: skip


@dataclass(frozen=True)
class Size:
    """A model, and the sequences of a step; `rounds` steps are timed."""

    vocab: int
    length: int
    sequences: int
    rounds: int
    config: dict[str, Any]


SIZES = {
    "1b": Size(32000, 2048, 16, 4, {"hidden_size": 2048, "num_layers": 16, "num_heads": 16, "num_kv_heads": 4,
               "num_experts": 8, "moe_top_k": 2, "intermediate_size": 4224}),
    "tiny": Size(512, 256, 4, 2, {"hidden_size": 128, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1,
                 "num_experts": 8, "moe_top_k": 2, "intermediate_size": 352}),
}  # fmt: skip


def hardware_of(device: str) -> Hardware:
    return detect_cpu() if device == "cpu" else detect()


def configured(size: Size, **changes: Any) -> Config:
    """As Mixtral is: no token is dropped and no layer skipped."""
    base = {"use_mod": False, "capacity_factor": None, "max_position_embeddings": size.length,
            "vocab_size": size.vocab, "document_boundaries": False}  # fmt: skip
    return load_config("debug", {**size.config, **base, **changes})


def batch(size: Size, number: int, packed: bool = False) -> MicroBatch:
    """Random tokens; `packed`: of documents that are a quarter of a sequence long on average."""
    draw = np.random.default_rng(number)
    tokens = draw.integers(0, size.vocab, (size.sequences, size.length + 1))
    documents = (draw.random((size.sequences, size.length)) < 4 / size.length).cumsum(1) if packed else None
    return MicroBatch(tokens[:, :-1], tokens[:, 1:], documents)


def cut(whole: MicroBatch, sequences: int) -> list[MicroBatch]:
    """The micro-batches of a step."""
    documents = whole.documents
    return [
        MicroBatch(whole.tokens[at : at + sequences], whole.labels[at : at + sequences],
                   None if documents is None else documents[at : at + sequences])
        for at in range(0, len(whole.tokens), sequences)
    ]  # fmt: skip


# A step's time and memory


def lumina(
    device: str, size: Size, packed: bool = False, precision: str = "mixed_bf16", **changes: Any
) -> dict[str, Any]:
    """Lumina's engine with all of its statistics."""
    hardware = hardware_of(device)
    config = configured(size, precision=precision, **changes)
    engine = TorchEngine(config, size.vocab, hardware, choose_precision(precision, hardware))

    def step(number: int, sequences: int) -> None:
        engine.train_step(number, cut(batch(size, number, packed), sequences), 3e-4)

    found = timed(device, size, step, (OutOfMemory,))
    flops = flops_per_token(config, size.length, size.vocab).useful
    attention = next(module for module in engine.model.modules() if isinstance(module, Attention))
    moe = next(module for module in engine.model.modules() if isinstance(module, MoE))
    return {
        **found,
        "flops_per_token": flops,
        "active": count_parameters(config).active,
        "flash": attention.flash.name if attention.flash else None,
        "experts": getattr(moe.in_groups or moe.compute, "__name__", "by_product"),
    }


def mixtral(device: str, size: Size, held: str) -> dict[str, Any]:
    """Hugging Face's Mixtral with grouped products, fused AdamW, clipping and its auxiliary loss; its weights are held
    in bfloat16, or in float32 under autocast."""
    from transformers import MixtralConfig, MixtralForCausalLM

    shape = size.config
    config = MixtralConfig(
        vocab_size=size.vocab, hidden_size=shape["hidden_size"], intermediate_size=shape["intermediate_size"],
        num_hidden_layers=shape["num_layers"], num_attention_heads=shape["num_heads"],
        num_key_value_heads=shape["num_kv_heads"], num_local_experts=shape["num_experts"],
        num_experts_per_tok=shape["moe_top_k"], max_position_embeddings=size.length, router_aux_loss_coef=0.01,
        output_router_logits=True, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = MixtralForCausalLM(config).to(getattr(torch, held))
    model.set_experts_implementation("grouped_mm")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.01, fused=True)

    def step(number: int, sequences: int) -> None:
        parts = cut(batch(size, number), sequences)
        optimizer.zero_grad(set_to_none=True)
        for part in parts:
            tokens = torch.from_numpy(np.ascontiguousarray(part.tokens)).to(device)
            with torch.autocast(device, torch.bfloat16) if held == "float32" else nullcontext():
                loss = model(tokens, labels=tokens).loss / len(parts)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    memory_errors = (torch.OutOfMemoryError,) if device == "cuda" else (MemoryError,)
    found = timed(device, size, step, memory_errors, lambda: optimizer.zero_grad(set_to_none=True))
    return {**found, "flash": model.config._attn_implementation}


def timed(device: str, size: Size, step: Callable[[int, int], None], memory_errors: tuple[type[Exception], ...],
          forget: Callable[[], None] = lambda: None) -> dict[str, Any]:  # fmt: skip
    """Seconds of a step, in micro-batches of as many sequences as fit: all of them, a half, a quarter ..."""
    sequences = size.sequences
    while True:
        try:
            for number in range(1, 1 + WARMUP):
                step(number, sequences)
            break
        except memory_errors:
            if sequences == 1:
                raise
        sequences //= 2
        forget()
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    wait(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken = []
    for number in range(size.rounds):
        started = time.perf_counter()
        step(1 + WARMUP + number, sequences)
        wait(device)
        taken.append(time.perf_counter() - started)
    peak = (
        torch.cuda.max_memory_allocated()
        if device == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    seconds = statistics.median(taken)
    return {
        "seconds": seconds,
        "tokens_per_second": size.sequences * size.length / seconds,
        "peak_bytes": peak,
        "micro_batch": sequences,
    }


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def products(device: str, size: Size) -> dict[str, Any]:
    """The rate of one large product in bfloat16, which no step can exceed."""
    width = 8192 if device == "cuda" else 512
    a, b = (torch.randn(width, width, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    wait(device)
    started = time.perf_counter()
    for _ in range(10):
        a @ b
    wait(device)
    return {"flops_per_second": 10 * 2.0 * width**3 / (time.perf_counter() - started)}


# A whole run


def trained(device: str, size: Size) -> dict[str, Any]:
    """Lumina's whole trainer on the built-in corpus: 30 steps, an intervention, an added expert, checkpoints, and a
    resume from the last."""
    from lumina.store import RunPaths
    from lumina.train.trainer import Trainer

    with tempfile.TemporaryDirectory(prefix="lumina-gpu-") as folder:
        options = {"directory": folder, "precision": "mixed_bf16", "eval_interval": 15, "save_every_n_batches": 10,
                   "max_position_embeddings": 128, "batch_size": 2, "gradient_accumulation_steps": 2,
                   "corpus_documents": 60, "model.vocab_size": 512, "eval_sequences": 4}  # fmt: skip
        with Trainer("debug", name="gpu", steps=30, **options) as run:
            run.train(until=1)
            first = float(run.get_current_metrics()["loss"])
            run.adjust_routing_temperature(1.2)
            run.train(until=20)
            run.add_expert(0)
            run.train(until=30)
            last = float(run.get_current_metrics()["loss"])
        with Trainer.open(RunPaths(Path(folder) / "gpu"), resume="latest", steps=35) as again:
            again.train()
            resumed = float(again.get_current_metrics()["loss"])
    return {"losses": [first, last, resumed]}


# How often the host waits


def waits(device: str, size: Size, layers: tuple[int, int] = (4, 8), **changes: Any) -> dict[str, Any]:
    """Waits of the host within one step, with some layers and with twice as many; PyTorch's own warnings say where."""
    if device == "cpu":
        return {"note": "a CPU has nothing to wait for: not counted"}
    small = Size(size.vocab, size.length, 2, 1, {**size.config, "hidden_size": 1024, "num_heads": 8, "num_kv_heads": 2})
    hardware, counts, places = hardware_of(device), [], []
    for depth in layers:
        config = configured(small, **changes, num_layers=depth)
        engine = TorchEngine(config, size.vocab, hardware, choose_precision("mixed_bf16", hardware))
        steps = [[batch(small, number, packed=True)] for number in range(1, 6)]
        for number in range(3):
            engine.train_step(number + 1, steps[number], 3e-4)
        places.append(warned(lambda: engine.train_step(4, steps[3], 3e-4)))  # noqa: B023
        counts.append(profiled(lambda: engine.train_step(5, steps[4], 3e-4)))  # noqa: B023
        engine.close()
    return {
        "layers": list(layers),
        "waits": counts,
        "warned": places,
        "grows": any(counts[1][name] > counts[0][name] for name in counts[1]) or places[0] != places[1],
    }


def warned(step: Callable[[], Any]) -> dict[str, int]:
    """Where PyTorch notices that the host waits, and how often."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))
    return dict(found)


def profiled(step: Callable[[], Any]) -> dict[str, int]:
    """What the profiler saw of waiting, and of copies to the host."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
    seen = Counter(event.name for event in profile.events())
    copies = sum(count for name, count in seen.items() if name.startswith("Memcpy DtoH"))
    return {**{name: seen[name] for name in WAITS}, "copies to the host": copies}


# Whether it is right


def parity(device: str, size: Size, precision: str, packed: bool = False, **changes: Any) -> dict[str, Any]:
    """One step of a small model on the device and on the CPU, from the same weights, on the same tokens."""
    small, cpu, there = SIZES["tiny"], detect_cpu(), hardware_of(device)
    config = configured(small, precision=precision, **changes)
    one = TorchEngine(config, small.vocab, cpu, choose_precision(precision, there))
    other = TorchEngine(config, small.vocab, there, choose_precision(precision, there))
    other.restore_state(one.export_state())
    given = cut(batch(small, 1, packed), 2)
    here, away = (engine.train_step(1, given, 1e-3) for engine in (one, other))
    moved = [engine.export_state().params for engine in (one, other)]
    apart = sum(float((moved[0][name] - moved[1][name]).square().sum()) for name in moved[0]) ** 0.5
    return {
        "loss_cpu": here.loss,
        "loss_device": away.loss,
        "loss_difference": abs(away.loss / here.loss - 1),
        "gradient_difference": abs(away.grad_norm / here.grad_norm - 1),
        "weights_difference": apart / sum(float(value.square().sum()) for value in moved[0].values()) ** 0.5,
        "finite": bool(np.isfinite([away.loss, away.grad_norm]).all()),
    }


def unused(device: str, size: Size) -> dict[str, Any]:
    """The gradient of an expert without tokens, in memory that held other numbers before."""
    compute = experts.grouped
    if device == "cuda" and torch.cuda.get_device_capability() >= (10, 0):
        compute = experts.grouped_and_cleared
    expert = torch.randint(0, 2, (512,), device=device) * 2  # never the one in the middle
    order = expert.argsort(stable=True)
    count, row = torch.bincount(expert, minlength=3), order.argsort().view(2, 256)
    x, weight = torch.randn(256, 128, device=device), torch.rand(512, device=device)
    w_in, w_out = (torch.randn(3, *shape, device=device, requires_grad=True) for shape in ((256, 128), (128, 128)))
    junk = [torch.full((3, 256, 128), float("nan"), device=device, dtype=torch.bfloat16) for _ in range(64)]
    del junk
    with torch.autocast(device, torch.bfloat16):
        compute(x, weight, order % 256, count, w_in, w_out, row).square().sum().backward()
    assert w_in.grad is not None
    assert w_out.grad is not None
    return {"largest_of_unused": float(w_in.grad[1].abs().max() + w_out.grad[1].abs().max()),
            "finite": bool(w_in.grad.isfinite().all() and w_out.grad.isfinite().all())}  # fmt: skip
