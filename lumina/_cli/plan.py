"""`plan` and `presets`: what a configuration costs, by formula, before anything is built.

It prints what `lumina.accounting` counts; no torch, no run.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from lumina._cli.output import MISSING, facts, number, print_json, say, short, size, table
from lumina._cli.parsing import Commands, add_json, add_settings, positive

if TYPE_CHECKING:
    from lumina.accounting import ParameterCount
    from lumina.config import Config

_PRECISIONS = ("fp32", "mixed_bf16")


def register(commands: Commands) -> None:
    """Add both commands."""
    presets = commands.add(
        "presets",
        show_presets,
        "list the presets with computed parameters, memory and hardware",
        about="Active: parameters that one token uses, without embeddings. Memory: training with batch size 1 in "
        "mixed_bf16.",
        examples=("lumina presets", "lumina presets --json"),
    )
    add_json(presets)
    plan = commands.add(
        "plan",
        show_plan,
        "count what a configuration takes: parameters, FLOPs, memory, tokens",
        examples=(
            "lumina plan b1",
            "lumina plan debug --set moe.num_experts=16 --tokens 2_000_000",
            "lumina plan b7 --json",
        ),
    )
    plan.add_argument("preset", metavar="PRESET", help="a preset or a YAML file")
    add_settings(plan)
    plan.add_argument("--tokens", type=positive, metavar="N", help="tokens of your data: adds the number of epochs")
    add_json(plan)


def show_presets(args: argparse.Namespace) -> int:
    """The table of presets."""
    from lumina.accounting import preset_table

    rows = preset_table()
    if args.json:
        print_json([dataclasses.asdict(row) for row in rows])
        return 0
    headers = (
        "preset",
        "active",
        "total",
        "memory",
        "hidden",
        "layers",
        "heads",
        "kv",
        "experts",
        "top-k",
        "mod",
        "hardware",
    )
    shown = [
        (
            row.name,
            short(row.active),
            short(row.total),
            size(row.memory_bytes),
            row.hidden_size,
            row.num_layers,
            row.num_heads,
            row.num_kv_heads,
            row.experts or MISSING,
            row.top_k or MISSING,
            "yes" if row.mod else "no",
            row.hardware,
        )
        for row in rows
    ]
    say(table(headers, shown, "lrrrrrrrrrll"))
    return 0


def show_plan(args: argparse.Namespace) -> int:
    """Parameters, FLOPs, memory, token budget, and epochs where the size of the data is given."""
    from lumina.config import load_config

    config = load_config(args.preset, args.set)
    plan = make_plan(config, args.tokens)
    if args.json:
        print_json(plan)
    else:
        say(facts(_rows(plan)))
    return 0


def make_plan(config: Config, data_tokens: int | None = None) -> dict[str, Any]:
    """The plan as the documented JSON document of `plan --json`."""
    from lumina.accounting import count_parameters, flops_per_token, memory_bytes, token_budget

    counts = count_parameters(config)
    flops, budget = flops_per_token(config), token_budget(config, counts)
    training = config.training
    per_step = training.batch_size * training.gradient_accumulation_steps * config.sequence_length
    memory = {name: memory_bytes(config, name) for name in _PRECISIONS}
    return {
        "preset": config.preset,
        "parameters": {"total": counts.total, **dataclasses.asdict(counts)},
        "flops_per_token": {"total": flops.total, "forward": flops.forward, **dataclasses.asdict(flops)},
        "memory_bytes": {name: {"total": use.total, **dataclasses.asdict(use)} for name, use in memory.items()},
        "batch_size": training.batch_size,
        "sequence_length": config.sequence_length,
        "tokens_per_step": per_step,
        "budget": {
            **dataclasses.asdict(budget),
            "steps": -(-budget.tokens_optimal // per_step),
            "flops": budget.tokens_optimal * flops.total,
        },
        "data": None if data_tokens is None else _data_part(config, counts, data_tokens, per_step),
    }


def _data_part(config: Config, counts: ParameterCount, data_tokens: int, per_step: int) -> dict[str, Any]:
    from lumina.accounting import recommended_epochs

    advice = recommended_epochs(config, counts, data_tokens)
    return {
        "tokens": data_tokens,
        "coverage": advice.coverage,
        "epochs_exact": advice.exact,
        "epochs": advice.epochs,
        "steps": -(-advice.epochs * data_tokens // per_step),
    }


def _rows(plan: dict[str, Any]) -> list[tuple[str, Any]]:
    parameters, flops, budget = plan["parameters"], plan["flops_per_token"], plan["budget"]
    rows = [
        ("preset", plan["preset"]),
        ("parameters, total", f"{number(parameters['total'])} ({short(parameters['total'])})"),
        ("parameters, active", f"{number(parameters['active'])} ({short(parameters['active'])}; used by one token)"),
        ("  embedding and head", number(parameters["embedding"] + parameters["head"])),
        ("  attention", number(parameters["attention"])),
        ("  feed-forward", number(parameters["feed_forward"])),
        ("  routers and norms", number(parameters["router"] + parameters["depth_router"] + parameters["norm"])),
        (
            "FLOPs per token",
            f"{short(flops['total'])} (forward {short(flops['forward'])}, backward {short(flops['backward'])})",
        ),
    ]
    for name, use in plan["memory_bytes"].items():
        detail = ", ".join(f"{part} {size(use[part])}" for part in ("weights", "gradients", "optimizer", "activations"))
        rows.append((f"memory, {name}", f"{size(use['total'])} ({detail}; batch {plan['batch_size']})"))
    rows += [
        ("tokens per step", f"{number(plan['tokens_per_step'])} (sequences of {number(plan['sequence_length'])})"),
        ("token budget", f"{short(budget['tokens_optimal'])} tokens ({budget['basis']} parameters), "
                         f"{short(budget['tokens_optimal_other'])} ({budget['other_basis']} parameters)"),
        ("to reach it", f"{number(budget['steps'])} steps, {short(budget['flops'])} FLOPs"),
    ]  # fmt: skip
    data = plan["data"]
    if data is None:
        rows.append(("epochs", "give --tokens N (tokens of your data)"))
    else:
        rows.append(
            (
                "epochs",
                f"{data['epochs']} ({data['epochs_exact']:.2f} before limits and rounding; one pass over "
                f"{short(data['tokens'])} tokens is {data['coverage']:.1%} of the budget): "
                f"{number(data['steps'])} steps",
            )
        )
    return rows
