"""Everything that is to be known on a GPU, in one call of less than eight minutes: tokens per second, share of the peak
and memory of a step with about 1B active parameters, next to Hugging Face's Mixtral; what options cost; how often the
host waits; and whether a GPU computes what the CPU does.

`python benchmarks/gpu.py` writes `docs/performance.md` and `docs/gpu.json`; `--out FOLDER` writes `gpu.json` and
`gpu.md` there instead, after every part, and `--take FILE` takes such a `gpu.json` into the docs. Each part has a
process of its own: what fails is told in its row. `--device cpu --size tiny --dry` tries it out.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gpu_parts
import torch
from pages import DOCS, Section

MARK = "RESULT "  # before the line of JSON in which a part answers
BUDGET = 450.0  # seconds
# Dense bfloat16 of the data sheets, FLOP/s; the first name that a card's has in it.
PEAKS = {"H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12, "GH200": 989e12, "B200": 2250e12,
         "A100": 312e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12, "RTX 3090": 71e12}  # fmt: skip
ABOUT = """\
## A training step on a GPU

`python benchmarks/gpu.py`: forward, backward, clipping and AdamW, all statistics on, on random tokens. MFU is the share
of the card's peak in its data sheet (dense bfloat16), with the operations of `lumina.accounting` (attention counted
whole, not as a triangle; nothing for what is computed twice). The micro-batch is the largest that fits. Mixtral is
Hugging Face's, with `grouped_mm` and fused AdamW; Lumina keeps weights and moments in float32.
"""


@dataclass(frozen=True)
class Part:
    """A row: what measures it, with which arguments, and after how many seconds it has failed."""

    label: str
    measure: Callable[..., dict[str, Any]]
    arguments: dict[str, Any] = field(default_factory=dict)
    limit: float = 90.0


def parts() -> list[Part]:
    """What matters most first, for when time runs out."""
    lumina, parity, waits = gpu_parts.lumina, gpu_parts.parity, gpu_parts.waits
    depth = {"use_mod": True, "mod_capacity_factor": 0.5, "mod_warmup_steps": 0, "mod_anneal_steps": 0}
    return [
        Part("one product of 8192 x 8192", gpu_parts.products),
        Part("GPU and CPU: mixed_bf16", parity, {"precision": "mixed_bf16"}),
        Part("GPU and CPU: mixed_bf16, documents", parity, {"precision": "mixed_bf16", "packed": True}),
        Part("Lumina", lumina),
        Part("Mixtral, bfloat16 weights", gpu_parts.mixtral, {"held": "bfloat16"}, 120.0),
        Part("Lumina, packed documents", lumina, {"packed": True}),
        Part("a whole run", gpu_parts.trained),
        Part("waits, packed documents", waits),
        Part("waits, packed documents, MoD 0.5", waits, depth),
        Part("Lumina, compile", lumina, {"compile": True}, 150.0),
        Part("Lumina, MoD 0.5", lumina, depth),
        Part("Lumina, compile and CUDA graphs", lumina, {"compile": True, "cuda_graphs": True}, 150.0),
        Part("Lumina, gradient checkpointing", lumina, {"gradient_checkpointing": True}),
        Part("Lumina, fp8_e4m3", lumina, {"precision": "fp8_e4m3"}),
        Part("Lumina, bf16", lumina, {"precision": "bf16"}),
        Part("GPU and CPU: fp32", parity, {"precision": "fp32"}),
        Part("GPU and CPU: fp32, documents", parity, {"precision": "fp32", "packed": True}),
        Part("GPU and CPU: mixed_bf16, documents, MoD 0.5", parity,
             {"precision": "mixed_bf16", "packed": True, **depth}),
        Part("GPU and CPU: fp8_e4m3", parity, {"precision": "fp8_e4m3"}),
        Part("an expert without tokens", gpu_parts.unused),
        Part("Mixtral, autocast over float32", gpu_parts.mixtral, {"held": "float32"}, 120.0),
    ]  # fmt: skip


def run(number: int, part: Part, options: argparse.Namespace, left: float) -> dict[str, Any]:
    """The part in a process of its own; what goes wrong there becomes its row."""
    if left < 15.0:
        return {"subject": part.label, "error": "not reached: time was up"}
    command = [sys.executable, __file__, "--part", str(number), "--device", options.device, "--size", options.size]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=min(part.limit, left))
    except subprocess.TimeoutExpired:
        return {"subject": part.label, "error": f"not done after {time.perf_counter() - started:.0f} s"}
    took = {"subject": part.label, "process_seconds": time.perf_counter() - started}
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return {**took, **json.loads(line.removeprefix(MARK))}
    said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return {**took, "error": f"status {done.returncode}: {said[:300]}", "stderr": done.stderr[-3000:]}


def completed(rows: list[dict[str, Any]], peak: float | None) -> list[dict[str, Any]]:
    """Rows with their shares of the peak and of the measured product; Mixtral does what Lumina's first row does."""
    rate = next((row["flops_per_second"] for row in rows if "flops_per_second" in row), None)
    flops = next((row["flops_per_token"] for row in rows if "flops_per_token" in row), None)
    found = []
    for row in rows:
        each = row.get("flops_per_token", flops)
        if "tokens_per_second" in row and each:
            done = row["tokens_per_second"] * each
            row = {**row, "mfu": done / peak if peak else None, "of_product_rate": done / rate if rate else None}
        found.append(row)
    return found


def table(name: str, entry: dict[str, Any]) -> str:
    """One card as Markdown."""
    peak = f"{entry['peak'] / 1e12:.0f} TFLOP/s" if entry["peak"] else "not known"
    lines = [f"### {name}", "", f"{entry['machine']}; peak {peak}; {entry['tokens']:,} tokens in a step.", ""]
    lines += ["| | tokens/s | step, ms | MFU | of the product's rate | peak memory, GB | sequences at once |",
              "|---|---|---|---|---|---|---|"]  # fmt: skip
    others = []
    for row in entry["rows"]:
        if "tokens_per_second" in row:
            shares = [f"{row[key]:.1%}" if row.get(key) else "" for key in ("mfu", "of_product_rate")]
            lines.append(
                f"| {row['subject']} | {row['tokens_per_second']:,.0f} | {1000 * row['seconds']:.0f} | {shares[0]} | "
                f"{shares[1]} | {row['peak_bytes'] / 1e9:.1f} | {row['micro_batch']} |"
            )
        else:
            others.append(f"- {row['subject']}: {told(row)}")
    return "\n".join([*lines, "", *others]) + "\n"


def told(row: dict[str, Any]) -> str:
    """A row without a step's time, in words."""
    if "error" in row:
        return f"**failed** ({row['error']})"
    if "flops_per_second" in row:
        return f"{row['flops_per_second'] / 1e12:.1f} TFLOP/s"
    if "loss_difference" in row:
        pairs = ((key, row[f"{key}_difference"]) for key in ("loss", "gradient", "weights"))
        return "relative differences after a step: " + ", ".join(f"{key} {value:.1e}" for key, value in pairs)
    if "waits" in row:
        counts = (", ".join(f"{name} {count}" for name, count in each.items() if count) for each in row["waits"])
        by_layers = "; ".join(f"{n} layers: {each}" for n, each in zip(row["layers"], counts, strict=True))
        return f"{'grows' if row['grows'] else 'does not grow'} with layers ({by_layers}; noticed: {row['warned'][1]})"
    if "losses" in row:
        return "losses after 1 step, 30 steps, and 5 more of a resume: " + ", ".join(f"{v:.3f}" for v in row["losses"])
    if "largest_of_unused" in row:
        return f"its largest gradient is {row['largest_of_unused']:g}, all are {'' if row['finite'] else 'not '}finite"
    return str(row["note"])


KEPT = Section("benchmarks/gpu.py", ABOUT, DOCS / "gpu.json", table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--size", default="1b", choices=[*gpu_parts.SIZES])
    parser.add_argument("--only", action="append", metavar="TEXT", help="parts with it in their name; may be repeated")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds after which no part begins")
    parser.add_argument("--out", type=Path, help="a folder to write gpu.json and gpu.md to, instead of the docs")
    parser.add_argument("--take", type=Path, metavar="FILE", help="take a gpu.json from elsewhere into the docs")
    parser.add_argument("--dry", action="store_true", help="print only")
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.take:
        for name, entry in json.loads(options.take.read_text(encoding="utf-8")).items():
            KEPT.keep(name, entry)
    elif options.part is not None:
        part = parts()[options.part]
        result = part.measure(options.device, gpu_parts.SIZES[options.size], **part.arguments)
        print(MARK + json.dumps(result), flush=True)
    else:
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """All parts, one after the other; what is there already is written after each."""
    started, size = time.perf_counter(), gpu_parts.SIZES[options.size]
    hardware = gpu_parts.hardware_of(options.device)
    if hardware.device != options.device:
        raise SystemExit(f"no GPU here: torch {torch.__version__} finds {hardware}; --device cpu tries the parts out")
    entry: dict[str, Any] = {
        "machine": f"{hardware}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}",
        "peak": next((peak for name, peak in PEAKS.items() if name in hardware.name), None),
        "tokens": size.sequences * size.length,
    }
    rows: list[dict[str, Any]] = []
    for number, part in enumerate(parts()):
        if options.only and not any(text in part.label for text in options.only):
            continue
        rows.append(run(number, part, options, options.budget - (time.perf_counter() - started)))
        entry["rows"] = completed(rows, entry["peak"])
        print(json.dumps(entry["rows"][-1]), flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "gpu.json").write_text(json.dumps({hardware.name: entry}, indent=1) + "\n", encoding="utf-8")
            (options.out / "gpu.md").write_text(table(hardware.name, entry), encoding="utf-8")
    print(f"\n{ABOUT}\n{table(hardware.name, entry)}\n{time.perf_counter() - started:.0f} s in all", flush=True)
    if not options.dry and not options.out:
        KEPT.keep(hardware.name, entry)


if __name__ == "__main__":
    main()
