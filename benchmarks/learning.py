"""What each family of models learns in 300 steps on real text, next to Hugging Face models of the same shape.

`python benchmarks/learning.py TEXT ...` trains dense and MoE models beside Llama and Mixtral from the same weights, on
the same batches with the same optimizer, and MoD and both against dense at equal steps and at equal FLOPs; three seeds.
It writes `docs/learning.md` and `docs/learning.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.accounting import flops_per_token
from lumina.config import Config, load_config
from lumina.data import Dataset, prepare
from lumina.engine.api import MicroBatch
from lumina.engine.torch_engine import TorchEngine
from lumina.hardware import choose_precision, detect_cpu

DOCS = Path(__file__).parents[1] / "docs"
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "intermediate_size": 256,
    "max_position_embeddings": 128,
    "vocab_size": 2048,
    "num_experts": 8,
    "moe_top_k": 2,
    "capacity_factor": None,
    "mod_collapse_guard": False,
}
FAMILIES = {
    "dense": {"use_moe": False, "use_mod": False},
    "moe": {"use_moe": True, "use_mod": False},
    "mod": {"use_moe": False, "use_mod": True, "mod_every": 2, "mod_start_layer": 1},
    "moe+mod": {"use_moe": True, "use_mod": True, "mod_every": 2, "mod_start_layer": 1},
}
PEERS = {"dense": "Llama", "moe": "Mixtral"}
RATE, WARMUP, STEPS, SEQUENCES, EVERY = 1e-3, 30, 300, 8, 50
SEEDS = (0, 1, 2)
Curve = dict[int, float]  # step -> validation loss, nats per token


def config_of(family: str, seed: int, text: list[str]) -> Config:
    run = {"base_paths": text, "seed": seed, "batch_size": SEQUENCES, "precision": "fp32"}
    return load_config("debug", {**SHAPE, **FAMILIES[family], **run, "document_boundaries": False})


def rate(step: int) -> float:
    """Constant after a warm-up, so that one curve can be read at any step."""
    return RATE * min(1.0, step / WARMUP)


def batches(data: Dataset, steps: int) -> Callable[[int], MicroBatch]:
    """The batch of a step."""
    loader = data.training_loader(unit=SEQUENCES, horizon=steps * SEQUENCES)

    def at(step: int) -> MicroBatch:
        found = loader.batch((step - 1) * SEQUENCES, SEQUENCES)
        return MicroBatch(found.tokens, found.labels)

    return at


def held_out(data: Dataset) -> list[MicroBatch]:
    loader, count = data.validation_loader(), sum(source.validation.count for source in data.sources)
    found = [loader.batch(at, min(SEQUENCES, count - at)) for at in range(0, count, SEQUENCES)]
    return [MicroBatch(batch.tokens, batch.labels) for batch in found]


def engine_of(config: Config, data: Dataset) -> TorchEngine:
    hardware = detect_cpu()
    return TorchEngine(config, data.vocab_size, hardware, choose_precision("fp32", hardware))


def learn_lumina(family: str, seed: int, text: list[str], steps: int) -> dict[str, Any]:
    """Validation losses of Lumina's model, and what a token costs."""
    config = config_of(family, seed, text)
    data = prepare(config)
    engine, batch, held = engine_of(config, data), batches(data, 2 * steps), held_out(data)
    flops = flops_per_token(config, config.sequence_length, data.vocab_size).total
    dense = config_of("dense", seed, text)
    same_cost = round(steps * flops_per_token(dense, dense.sequence_length, data.vocab_size).total / flops)
    curve, by_topk = Curve(), Curve()
    for step in range(1, max(steps, same_cost) + 1):
        engine.train_step(step, [batch(step)], rate(step))
        if step % EVERY == 0 or step in (steps, same_cost):
            found = [engine.eval_step(one) for one in held]
            tokens = sum(one.tokens for one in found)
            curve[step] = sum(one.loss_sum for one in found) / tokens
            by_topk[step] = sum(one.loss_topk_sum for one in found) / tokens
    return {"family": family, "seed": seed, "by": "Lumina", "curve": curve, "by_topk": by_topk, "flops": flops,
            "same_cost": same_cost, "unigram": data.unigram_entropy}  # fmt: skip


def learn_peer(family: str, seed: int, text: list[str], steps: int) -> dict[str, Any]:
    """The same with Hugging Face's model, from the same weights."""
    config = config_of(family, seed, text)
    data = prepare(config)
    peer = peer_of(config, data.vocab_size)
    copy_weights(engine_of(config, data), peer)
    batch, held = batches(data, 2 * steps), held_out(data)
    groups = [{"params": [p for p in peer.parameters() if p.ndim >= 2], "weight_decay": config.training.weight_decay},
              {"params": [p for p in peer.parameters() if p.ndim < 2], "weight_decay": 0.0}]  # fmt: skip
    betas = (config.training.adam_beta1, config.training.adam_beta2)
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=betas, eps=config.training.adam_eps, fused=True)
    curve = Curve()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        peer.train()
        optimizer.zero_grad()
        loss, auxiliary = peer_loss(peer, batch(step))
        (loss + auxiliary).backward()
        nn.utils.clip_grad_norm_(peer.parameters(), config.training.gradient_clip_val)
        optimizer.step()
        if step % EVERY == 0 or step == steps:
            curve[step] = peer_validation(peer, held)
    return {"family": family, "seed": seed, "by": PEERS[family], "curve": curve}


def peer_of(config: Config, vocab: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    model = config.model
    shape = {"vocab_size": vocab, "hidden_size": model.hidden_size, "intermediate_size": model.ffn_size,
             "num_hidden_layers": model.num_layers, "num_attention_heads": model.num_heads,
             "num_key_value_heads": model.num_kv_heads, "max_position_embeddings": model.max_position_embeddings,
             "rms_norm_eps": model.rms_norm_eps, "use_cache": False}  # fmt: skip
    if not config.moe.use_moe:
        return LlamaForCausalLM(LlamaConfig(**shape))
    # Mixtral sums its balance loss over the k choices, Lumina takes their mean.
    weight = config.moe.load_balancing_weight / config.moe.moe_top_k
    return MixtralForCausalLM(MixtralConfig(
        **shape, num_local_experts=config.moe.num_experts, num_experts_per_tok=config.moe.moe_top_k,
        router_aux_loss_coef=weight, output_router_logits=True, sliding_window=None,
    ))  # fmt: skip


def copy_weights(engine: TorchEngine, peer: nn.Module) -> None:
    named = dict(peer.named_parameters())
    with torch.no_grad():
        for name, weight in engine.weights.by_name.items():
            named[peer_name(name)].copy_(weight)


def peer_name(name: str) -> str:
    """What transformers calls one of Lumina's parameters."""
    whole = {"embedding": "model.embed_tokens.weight", "head": "lm_head.weight", "norm.weight": "model.norm.weight"}
    if name in whole:
        return whole[name]
    _, index, part, *rest = name.split(".")
    parts = {"input_norm": "input_layernorm", "post_norm": "post_attention_layernorm", "attention": "self_attn",
             "ffn": "mlp"}  # fmt: skip
    inner = {"router": "gate.weight", "w_in": "experts.gate_up_proj", "w_out": "experts.down_proj"}
    return f"model.layers.{index}." + ("mlp." + inner[rest[0]] if part == "moe" else ".".join([parts[part], *rest]))


def peer_loss(peer: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Mean loss over the labels, and the weighted balance loss."""
    output = peer(input_ids=torch.from_numpy(batch.tokens.astype(np.int64)))
    label = torch.from_numpy(batch.labels.astype(np.int64))
    loss = F.cross_entropy(output.logits.float().flatten(0, 1), label.flatten(), ignore_index=-100)
    auxiliary = getattr(output, "aux_loss", None)
    return loss, torch.zeros(()) if auxiliary is None else auxiliary * peer.config.router_aux_loss_coef


@torch.no_grad()
def peer_validation(peer: nn.Module, held: list[MicroBatch]) -> float:
    peer.eval()
    tokens = [int((batch.labels != -100).sum()) for batch in held]
    losses = [float(peer_loss(peer, batch)[0]) for batch in held]
    return sum(loss * count for loss, count in zip(losses, tokens, strict=True)) / sum(tokens)


def one_thread() -> None:
    torch.set_num_threads(1)


def train_all(text: list[str], seeds: tuple[int, ...], steps: int, jobs: int) -> Iterator[dict[str, Any]]:
    """Every cell as it ends."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        sent = [pool.submit(learn_lumina, family, seed, text, steps) for seed in seeds for family in FAMILIES]
        sent += [pool.submit(learn_peer, family, seed, text, steps) for seed in seeds for family in PEERS]
        for future in sent:
            yield future.result()


def report(cells: list[dict[str, Any]], steps: int) -> str:
    """The tables as Markdown."""
    by = {(cell["by"], cell["family"], cell["seed"]): cell for cell in cells}
    seeds = sorted({cell["seed"] for cell in cells})
    lines = [
        "# What is learnt in a few hundred steps", "", "<!-- Written by benchmarks/learning.py -->", "",
        f"`python benchmarks/learning.py TEXT ...`: {steps} steps of {SEQUENCES} sequences of "
        f"{SHAPE['max_position_embeddings']} tokens, float32, AdamW at a constant rate of {RATE:g} after a warm-up of "
        f"{WARMUP}. Validation loss in nats per token; lower is better. "
        f"The unigram entropy of the text is {cells[0]['unigram']:.3f}.", "",
        "## Next to Hugging Face, from the same weights on the same batches", "",
        "| family | peer | " + " | ".join(f"seed {seed}: Lumina / peer" for seed in seeds) + " | ratio of means |",
        "|---|---|" + "---|" * (len(seeds) + 1),
    ]  # fmt: skip
    for family, peer in PEERS.items():
        pairs = [(by["Lumina", family, seed]["curve"][steps], by[peer, family, seed]["curve"][steps]) for seed in seeds]
        ours, theirs = (statistics.mean(column) for column in zip(*pairs, strict=True))
        shown = " | ".join(f"{one:.4f} / {other:.4f}" for one, other in pairs)
        lines.append(f"| {family} | {peer} | {shown} | {ours / theirs:.4f} |")
    lines += ["", "## Against dense", "",
              "| family | FLOPs per token, share of dense | loss at equal steps | with the top-k choice | "
              "steps at equal FLOPs | loss at equal FLOPs |", "|---|---|---|---|---|---|"]  # fmt: skip
    for family in FAMILIES:
        found = [by["Lumina", family, seed] for seed in seeds]
        dense = by["Lumina", "dense", seeds[0]]["flops"]
        mean = {key: statistics.mean(values) for key, values in (
            ("equal", [cell["curve"][steps] for cell in found]),
            ("topk", [cell["by_topk"][steps] for cell in found]),
            ("cost", [cell["curve"][cell["same_cost"]] for cell in found]),
        )}  # fmt: skip
        lines.append(f"| {family} | {found[0]['flops'] / dense:.3f} | {mean['equal']:.4f} | {mean['topk']:.4f} | "
                     f"{found[0]['same_cost']} | {mean['cost']:.4f} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="+", help="text files to learn from")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 1), help="processes at once")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    cells = []
    for cell in train_all(options.text, tuple(options.seeds), options.steps, options.jobs):
        print(f"{cell['by']} {cell['family']} seed {cell['seed']}: {cell['curve'][options.steps]:.4f}", flush=True)
        cells.append(cell)
    page = report(cells, options.steps)
    print(page)
    if not options.dry:
        (DOCS / "learning.md").write_text(page, encoding="utf-8")
        (DOCS / "learning.json").write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
