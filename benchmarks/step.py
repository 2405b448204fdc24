"""How long a training step takes: Lumina with and without its statistics, with and without Mixture of Depths, and next
to Hugging Face's Mixtral and litgpt's mixture of the same size.

`python benchmarks/step.py` lets the processes of each comparison take turns, prints medians and ratios, and writes them
to `docs/performance.md` and `docs/performance.json`. `--size tiny --rounds 5` is a quick look.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pages import DOCS, Section
from turns import Samples, Subject, ratio, seconds, spread, take_turns

from lumina.accounting import flops_per_token
from lumina.config import load_config
from lumina.hardware import choose_threads, detect

TOKENS = 2048
ABOUT = """\
## A training step

`python benchmarks/step.py`: forward, backward, clipping and AdamW on 2,048 tokens. Processes take turns, step by step;
ratios are medians over rounds of times in the same round. CPU time is what a step itself worked, whatever else the
machine did. The rate of one large product is that of the faster of PyTorch's two libraries. Every process has the
trainer's thread settings. "As shipped" has torch's other defaults; "tuned" has the allocator setting that Lumina's
trainer starts with, and a fused AdamW. Mixtral is Hugging Face's; next to it Lumina drops no token and skips no layer,
and so next to litgpt (`--what litgpt`), which wants other versions of what Lumina uses and has a folder of its own:
`pip install --no-deps --target FOLDER litgpt lightning pytorch-lightning lightning-utilities torchmetrics jsonargparse
docstring-parser`, then `PYTHONPATH=FOLDER`.
"""


@dataclass(frozen=True)
class Size:
    """A model and how long its sequences are; every step has 2,048 tokens."""

    vocab: int
    length: int
    rounds: int
    config: dict[str, Any]


def _config(hidden: int, layers: int, heads: int, kv: int, experts: int, top_k: int, width: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv,
        "num_experts": experts,
        "moe_top_k": top_k,
        "intermediate_size": width,
    }


SIZES = {
    "tiny": Size(8192, 256, 30, _config(128, 2, 2, 2, 8, 2, 344)),
    "small": Size(16384, 512, 8, _config(512, 8, 8, 2, 8, 2, 1408)),
    "many": Size(16384, 512, 8, _config(512, 4, 8, 2, 64, 4, 256)),
    "few": Size(16384, 512, 8, _config(512, 4, 8, 2, 8, 4, 256)),
    "long": Size(8192, 2048, 20, _config(128, 2, 2, 2, 8, 2, 344)),
}


@dataclass(frozen=True)
class Comparison:
    """Subjects that take turns; ratios are to the first."""

    name: str
    subjects: tuple[Subject, ...]
    rounds: int
    flops_per_step: float | None = None


def peers(name: str, threads: int, precision: str) -> Comparison:
    """Lumina without dropping and without depth, as Mixtral is, against Mixtral."""
    theirs = {**_spec(SIZES[name], threads, precision), "kind": "mixtral", "config": SIZES[name].config}
    grouped = {**theirs, "experts": "grouped_mm"}
    subjects = [Subject("Mixtral grouped_mm, as shipped", grouped, keeps_memory=False)]
    if name == "tiny":  # each process of the larger sizes takes about 4 GB
        subjects.append(Subject("Mixtral eager, as shipped", {**theirs, "experts": "eager"}, keeps_memory=False))
    subjects.append(Subject("Mixtral grouped_mm, tuned", {**grouped, "fused": True}))
    return _beside("Mixtral", name, threads, precision, subjects)


def litgpt(name: str, threads: int, precision: str) -> Comparison:
    """The same against litgpt's mixture of experts."""
    theirs = {**_spec(SIZES[name], threads, precision), "kind": "litgpt", "config": SIZES[name].config}
    subjects = [
        Subject("litgpt, as shipped", theirs, keeps_memory=False),
        Subject("litgpt, tuned", {**theirs, "fused": True}),
    ]
    return _beside("litgpt", name, threads, precision, subjects)


def _beside(whom: str, name: str, threads: int, precision: str, theirs: Sequence[Subject]) -> Comparison:
    size = SIZES[name]
    spec = _spec(size, threads, precision)
    lumina = {**spec, "kind": "engine", "config": {**_lumina(size), "use_mod": False, "capacity_factor": None}}
    config = load_config("debug", lumina["config"])
    product = Subject("one product of 2048 x 2048", {**spec, "kind": "gemm", "config": {}})
    return Comparison(
        f"{name}: next to {whom}",
        (Subject("Lumina, statistics on", lumina), *theirs, product),
        size.rounds,
        flops_per_token(config, size.length, size.vocab).useful * TOKENS,
    )


def depth(name: str, threads: int, precision: str) -> Comparison:
    """The same model with half of the tokens in every layer, and with all of them."""
    size = SIZES[name]
    spec = {**_spec(size, threads, precision), "kind": "engine"}
    return Comparison(
        f"{name}: Mixture of Depths",
        (
            Subject("off", {**spec, "config": {**_lumina(size), "use_mod": False}}),
            Subject("capacity 0.5", {**spec, "config": {**_lumina(size), "use_mod": True}}),
            Subject("capacity 0.5, feed-forward only", {**spec, "config": {**_lumina(size), "mod_scope": "ffn"}}),
        ),
        size.rounds,
    )


def telemetry(name: str, threads: int, precision: str) -> Comparison:
    """What watching costs: statistics alone, and the whole trainer around the step."""
    size = SIZES[name]
    data = {"batch_size": TOKENS // size.length, "vocab_size": size.vocab, "precision": precision}
    spec = {"threads": threads, "config": {**_lumina(size), **data}}
    engine = {**_spec(size, threads, precision), "kind": "engine", "config": _lumina(size)}
    return Comparison(
        f"{name}: statistics",
        (
            Subject("engine, statistics off", {**engine, "telemetry": False}),
            Subject("engine, statistics on", engine),
            Subject("step alone on the corpus, statistics off", {**spec, "kind": "engine_of_trainer"}),
            Subject("whole trainer on the corpus", {**spec, "kind": "trainer"}),
        ),
        2 * size.rounds,
    )


def choices(name: str, threads: int, precision: str) -> Comparison:
    """What each option of a run costs and saves; attention by products and fused, where the length lets it choose."""
    size = SIZES[name]
    spec = {**_spec(size, threads, precision), "kind": "engine"}
    config = {**_lumina(size), "use_mod": False}
    varied = (
        ("as it is", {}, {}),
        ("mixed_bf16", {"precision": "mixed_bf16"}, {}),
        ("bf16", {"precision": "bf16"}, {}),
        ("gradient checkpointing", {}, {"gradient_checkpointing": True}),
        ("compile", {}, {"compile": True}),
        ("attention by products", {}, {"use_flash_attention": False}),
    )
    subjects = [Subject(label, {**spec, **given, "config": {**config, **more}}) for label, given, more in varied]
    return Comparison(f"{name}: options", tuple(subjects), size.rounds)


def slots(threads: int, precision: str) -> Comparison:
    """Eight times the experts at the same work for each token."""
    subjects = [
        Subject(f"{SIZES[name].config['num_experts']} experts, top-4", {
            **_spec(SIZES[name], threads, precision), "kind": "engine",
            "config": {**_lumina(SIZES[name]), "use_mod": False, "capacity_factor": None},
        })
        for name in ("few", "many")
    ]  # fmt: skip
    return Comparison("from 8 to 64 experts", tuple(subjects), SIZES["many"].rounds)


def _spec(size: Size, threads: int, precision: str) -> dict[str, Any]:
    shape = {"sequences": TOKENS // size.length, "length": size.length, "vocab": size.vocab}
    return {**shape, "threads": threads, "precision": precision}


def _lumina(size: Size) -> dict[str, Any]:
    return {**size.config, "max_position_embeddings": size.length}


def rows(comparison: Comparison, samples: Samples) -> Iterator[dict[str, Any]]:
    """One row per subject: median, ratio to the first and its quarters, memory, share of the measured product rate."""
    first = comparison.subjects[0].label
    rates = [sample["flops"] for taken in samples.values() for sample in taken if "flops" in sample]
    for subject in comparison.subjects:
        label = subject.label
        if "flops" in samples[label][0]:
            yield {"subject": label, "gflops": statistics.median(rates) / 1e9}
            continue
        row: dict[str, Any] = {"subject": label, "seconds": seconds(samples, label)}
        row["ratio"], row["quarters"] = ratio(samples, label, first), spread(samples, label, first)
        row["cpu_ratio"] = ratio(samples, label, first, "cpu_seconds")
        row["peak_bytes"] = max(sample["peak_bytes"] for sample in samples[label])
        if comparison.flops_per_step and rates:
            row["of_product_rate"] = comparison.flops_per_step / row["seconds"] / statistics.median(rates)
        yield row


def table(name: str, entry: dict[str, Any]) -> str:
    """One comparison as Markdown."""
    found = entry["rows"]
    lines = [f"### {name}", "", f"{entry['rounds']} rounds on {entry['machine']}.", ""]
    heads = (
        f"| | step, ms | times {found[0]['subject']} (middle half) | in CPU time | peak memory, GB | of the GEMM rate |"
    )
    lines += [heads, "|---|---|---|---|---|---|"]
    for row in found:
        if "gflops" in row:
            lines.append(f"| {row['subject']} | | | | | {row['gflops']:.0f} GFLOP/s |")
            continue
        share = f"{row['of_product_rate']:.0%}" if "of_product_rate" in row else ""
        low, high = row["quarters"]
        lines.append(
            f"| {row['subject']} | {1000 * row['seconds']:.0f} | {row['ratio']:.3f} ({low:.3f}-{high:.3f}) | "
            f"{row['cpu_ratio']:.3f} | {row['peak_bytes'] / 1e9:.2f} | {share} |"
        )
    return "\n".join(lines) + "\n"


KEPT = Section("benchmarks/step.py", ABOUT, DOCS / "performance.json", table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=[*SIZES], help="may be repeated; default tiny and small")
    parser.add_argument(
        "--what", action="append", choices=["telemetry", "depth", "peers", "litgpt", "choices", "slots"],
        help="may be repeated; default telemetry, depth and peers; slots has sizes of its own",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, help="steps of each subject; default by size")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "mixed_bf16"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    hardware = detect()
    threads = options.threads or choose_threads(hardware)
    machine = f"{hardware.name}, {threads} threads, {platform.system()}, torch {torch.__version__}"
    made = {"telemetry": telemetry, "depth": depth, "peers": peers, "litgpt": litgpt, "choices": choices}
    print(ABOUT)
    for size in options.size or ["tiny", "small"]:
        for what in options.what or ["telemetry", "depth", "peers"]:
            by_size = what in made
            comparison = made[what](size, threads, options.precision) if by_size else slots(threads, options.precision)
            rounds = options.rounds or comparison.rounds
            found = list(rows(comparison, take_turns(comparison.subjects, rounds, warmup=2)))
            name, entry = (
                f"{comparison.name}, {options.precision}",
                {"machine": machine, "rounds": rounds, "rows": found},
            )
            print(table(name, entry), flush=True)
            if not options.dry:
                KEPT.keep(name, entry)


if __name__ == "__main__":
    main()
