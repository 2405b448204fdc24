"""What can be seen of a configuration: shapes, outputs, updates, data, plans, proposals, and what a short run leaves.

An observation takes parameters by name and returns something that can be compared; it knows no parameter's purpose.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from smallest import LENGTH, VOCAB, batch, config, dataset, engine, model, stepped, tokens
from torch.overrides import TorchFunctionMode

from lumina.accounting import count_parameters, token_budget
from lumina.client import check_needs
from lumina.config import ConfigError
from lumina.data import DataError, Loader, prepare
from lumina.data.loader import THREAD_NAME
from lumina.model import surgery
from lumina.model.mod import DepthRouter
from lumina.orchestrator import Attempt, Orchestrator, Proposal, RunFacts
from lumina.train.setup import _plan

DIGITS = 5  # significant digits: two sums in another order are no other behaviour


def digits(value: float | torch.Tensor) -> str:
    number = value.item() if isinstance(value, torch.Tensor) else value
    return f"{number:.{DIGITS}g}"


# The model


def shapes(**changes: Any) -> dict[str, tuple[int, ...]]:
    """Every parameter of the model with its shape."""
    return {name: tuple(p.shape) for name, p in model(**changes).named_parameters()}


def weights(**changes: Any) -> list[str]:
    """The size of every initial weight matrix."""
    return [digits(p.detach().norm()) for p in engine(**changes).model.parameters()]


def loss(**changes: Any) -> tuple[str, str]:
    """Loss and auxiliary loss of a training step."""
    output = model(**changes)(tokens(), tokens())
    return digits(output.loss_sum), digits(output.auxiliary)


def auxiliary(**changes: Any) -> str:
    return loss(**changes)[1]


def longest(**changes: Any) -> list[bool]:
    """Which of two lengths the model can take."""
    return [_takes(model(**changes), length) for length in (48, 96)]


def _takes(built: torch.nn.Module, length: int) -> bool:
    try:
        built(tokens(1, length), tokens(1, length))
    except (IndexError, RuntimeError):
        return False
    return True


def dropped(**changes: Any) -> float:
    """Assignments that found no room in an expert."""
    return sum(float(layer.moe.dropped) for layer in model(**changes)(tokens(), tokens()).layers if layer.moe)


def attention_is_fused(**changes: Any) -> bool:
    """Whether a sequence that is long enough goes through the fused attention."""
    long, calls = 1100, _Calls()
    with calls, torch.no_grad():
        model(**changes)(tokens(1, long), tokens(1, long))
    return "scaled_dot_product_attention" in calls.names


class _Calls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


def times_computed(**changes: Any) -> int:
    """How often a training step computes the first layer's attention."""
    built, calls = engine(**changes), []
    built.model.layers[0].attention.register_forward_hook(lambda *_: calls.append(1))
    built.train_step(1, [batch(1)], 1e-3)
    return len(calls)


def compiled(**changes: Any) -> list[tuple[str, str | None]]:
    """What is handed to torch.compile (whose own compiler would take half a minute), and in which mode."""
    names: list[tuple[str, str | None]] = []

    def noted(function: Any, mode: str | None = None) -> Any:
        names.append((function.__name__, mode))
        return function

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", noted)
        for problem in ("compile_problem", "graphs_problem"):
            patch.setattr(f"lumina.engine.kernels.{problem}", lambda hardware: None)
        engine(**changes)
    return names


# Steps of the engine


def updated(**changes: Any) -> list[str]:
    """The size of every weight matrix after three steps from the same start."""
    return [digits(p.detach().norm()) for p in stepped(3, **changes).model.parameters()]


def first_moment(**changes: Any) -> str:
    """The size of the optimizer's mean gradient after a step: a share of the clipped gradient."""
    moments = stepped(1, **changes).export_state().exp_avg.values()
    return digits(torch.stack([moment.norm() for moment in moments]).norm())


def choice_bias(**changes: Any) -> list[str]:
    buffers = stepped(1, **changes).export_state().buffers
    return [digits(b.abs().max()) for name, b in buffers.items() if name.endswith("choice_bias_E")]


def mod_series(name: str, steps: int = 1) -> Callable[..., list[Any]]:
    """One series of the first steps."""

    def observe(**changes: Any) -> list[Any]:
        built = engine(**changes)
        return [built.train_step(at, [batch(at)], 1e-3).series.get(name) for at in range(1, steps + 1)]

    return observe


def skipping_layers(**changes: Any) -> list[str]:
    """The layers that have a series of their own for the tokens that took them."""
    series = engine(**changes).train_step(1, [batch(1)], 1e-3).series
    return sorted(name for name in series if name.startswith("mod.usage."))


def chosen_tokens(**changes: Any) -> list[list[bool]]:
    """Which tokens of a batch go through the first layer."""
    mod = model(**changes)(tokens(), tokens()).layers[0].mod
    assert mod is not None
    masks: list[list[bool]] = mod.mask_BT.tolist()
    return masks


def ramping(**changes: Any) -> list[str]:
    """What the router adds to the logit of an added expert in each of its first five steps."""
    built = engine(**changes)
    built.rebuild(surgery.add_expert(built.export_state(), 0, source_expert=1, step=0, seed=0))
    added, offsets = built.model.layers[0].moe, []
    for step in range(1, 6):
        built.train_step(step, [batch(step)], 1e-3)
        offsets.append(digits(added.logit_offset()[-1]))
    return offsets


def guarded(**changes: Any) -> list[float]:
    """Layers that are held open in three steps of a model whose routers have both collapsed."""
    built = engine(router_init_bias=30.0, load_balancing_weight=0.0, moe_top_k=1, **changes)
    with torch.no_grad():
        for layer in built.model.layers:
            assert isinstance(layer.mod, DepthRouter)
            layer.mod.score.fill_(0.0)
            layer.mod.score[0] = -20.0
        built.model.embedding[:, 0] = 2.0  # every token is positive there, so that every gate is nearly shut
    return [built.train_step(step, [batch(step)], 1e-5).series["mod.guarded_layers"] for step in range(1, 4)]


def validation_loss(**changes: Any) -> str:
    return digits(engine(**changes).eval_step(batch(9)).loss_sum)


def training_loss(**changes: Any) -> str:
    return digits(engine(**changes).train_step(1, [batch(1)], 1e-3).loss)


def loss_scales(**changes: Any) -> list[float]:
    """The scale of the loss over five steps, the first of which overflow."""
    built = engine(precision="mixed_fp16", **{"init_scale": 2.0**36, **changes})
    return [built.train_step(step, [batch(step)], 1e-3).series["precision.loss_scale"] for step in range(1, 13)]


# Data


def fact(name: str) -> Callable[..., Any]:
    """One figure of the data that a run is made of."""
    return lambda **changes: dataset(**changes).facts[name]


def loader(**changes: Any) -> Loader:
    """The training batches of a run of 64 sequences in steps of 8; a first phase has 24 of them."""
    made = dataset(**changes)
    boundary = 24 if made.program.mode == "hybrid_sequential" else None
    return made.training_loader(unit=8, horizon=64, boundary=boundary)


def sources(**changes: Any) -> list[int]:
    """Which source each of the first 64 sequences comes from."""
    with_both = {"base_paths": "a.jsonl", "finetuning_paths": "chat.jsonl", **changes}
    return [int(source) for source in loader(**with_both).locate(0, 64)[0]]


def batches(**changes: Any) -> list[list[int]]:
    """The tokens of the first sequences."""
    rows: list[list[int]] = loader(**changes).batch(0, 8).tokens.tolist()
    return rows


def boundaries(**changes: Any) -> bool:
    """Whether documents of one sequence are told apart."""
    return loader(**changes).batch(0, 8).documents is not None


def readers(**changes: Any) -> int:
    """Threads that read batches ahead."""
    made = loader(**changes)
    for number in range(4):
        made.batch(number * 2, 2)
    count = sum(thread.name.startswith(THREAD_NAME) for thread in threading.enumerate())
    made.close()
    return count


def rewarmed(**changes: Any) -> list[str]:
    """The learning rates of a run whose second phase begins half-way."""
    both = {"training_mode": "hybrid_sequential", "base_paths": "a.jsonl", "finetuning_paths": "chat.jsonl"}
    return learning_rates(**{**both, **changes})


def phases(**changes: Any) -> tuple[int, int | None]:
    """Steps of a run with two phases, and the position at which the second begins."""
    both = {"training_mode": "hybrid_sequential", "base_paths": "a.jsonl", "finetuning_paths": "chat.jsonl"}
    made = config(**{**both, "auto_epoch_scaling": False, "num_epochs": 2, **changes})
    plan = _plan(made, prepare(made), [], None)
    return plan.total_steps, plan.boundary


def gives_way(**changes: Any) -> list[int]:
    """The sequences of a pass after one in which later ones were harder."""
    made = loader(**changes)
    if made.history is not None:
        count = len(made.history.state()["loss_history"])
        made.history.record(np.arange(count), np.arange(count, dtype=np.float32))
    return [int(row) for row in made.locate(0, 40)[1]]


def vocabulary(**changes: Any) -> int:
    return dataset(**changes).vocab_size


def sequence_length(**changes: Any) -> int:
    return int(loader(**changes).batch(0, 1).tokens.shape[1])


def labels_without_loss(**changes: Any) -> int:
    made = dataset(**changes)
    return int((loader(**changes).batch(0, made.program.sequences_per_epoch).labels == -100).sum())


def judgement(**changes: Any) -> str | int:
    """What is said of the files before a run is made of them."""
    try:
        return check_needs(config(**changes)).totals["invalid"]
    except (ConfigError, DataError) as error:
        return str(error)


# The plan


def total_steps(**changes: Any) -> int:
    """The length of a run on the built-in corpus."""
    made = config(**changes)
    return _plan(made, dataset(**changes), [], None).total_steps


def learning_rates(**changes: Any) -> list[str]:
    made = config(max_steps=20, **changes)
    plan = _plan(made, prepare(made), [], None)
    return [digits(plan.learning_rate(step)) for step in range(1, 21)]


def token_goal(**changes: Any) -> int:
    made = config(**changes)
    return token_budget(made, count_parameters(made, VOCAB)).tokens_optimal


# The orchestrator


def proposals(**changes: Any) -> tuple[Proposal, ...]:
    """What a check proposes for a router that uses less than half of its experts."""
    watching = _watching(check_interval=30, **changes)
    _show(watching, range(1, 31))
    return watching.check(30, {"routing_temperature": 1.0}, []).proposals


def _watching(**changes: Any) -> Orchestrator:
    made = config(**changes)
    counts = count_parameters(made, VOCAB)
    facts = RunFacts((0, 1), (0, 1), 4, 2, counts.total, counts.active, 1e6, token_budget(made, counts), 300)
    return Orchestrator(made, facts)


def _show(watching: Orchestrator, steps: range, entropy: float = 0.45,
          load: tuple[float, ...] = (0.45, 0.45, 0.05, 0.05)) -> None:  # fmt: skip
    for step in steps:
        series = {"loss": 3.0, "grad_norm": 1.0, "tokens": float(step * LENGTH)}
        series |= {f"moe.routing_entropy.layer{layer}": entropy for layer in (0, 1)}
        shares = np.array([load] * 2, dtype=np.float32)
        watching.observe(step, series, {"expert_load": shares, "expert_live": np.ones_like(shares)})


def proposed_for_a_dead_expert(**changes: Any) -> list[str]:
    """An expert that was dead at two checks in a row."""
    watching, found = _watching(check_interval=30, **changes), []
    for step in (30, 60):
        _show(watching, range(step - 29, step + 1), entropy=0.9, load=(0.34, 0.33, 0.33, 0.0))
        found += watching.check(step, {"routing_temperature": 1.0}, []).proposals
    return [proposal.method for proposal in found]


def asked_again(**changes: Any) -> list[int]:
    """The steps at which a collapse is proposed a remedy, when each proposal is rejected at once."""
    watching, found = _watching(check_interval=30, **changes), []
    for step in range(30, 301, 30):
        _show(watching, range(step - 29, step + 1))
        found += [proposal.step for proposal in watching.check(step, {"routing_temperature": 1.0}, []).proposals]
    return found


def courses(**changes: Any) -> list[str]:
    """What becomes of a routine proposal, of one that adds an expert and of an emergency, two hundred steps after one
    intervention and twenty after two more."""
    watching = _watching(**changes)
    past = [Attempt("router_collapse", step, "adjust_routing_temperature", True, False) for step in (100, 280, 290)]
    return [
        watching.course(
            300, Proposal(method, 300, method, {}, method, {}, 0.9, 400, emergency=urgent), _autonomy(changes), past
        )
        for method, urgent in (("adjust_routing_temperature", False), ("add_expert", False), ("rollback_steps", True))
    ]


def _autonomy(changes: dict[str, Any]) -> str:
    return str(config(**changes).orchestrator.autonomy)


def progress(name: str) -> Callable[..., Any]:
    """One figure of the progress of a run that has settled: falling at first, flat for the last two thirds."""

    def observe(**changes: Any) -> Any:
        made = config(check_interval=30, **changes)
        counts = count_parameters(made, VOCAB)
        budget = token_budget(made, counts)
        facts = RunFacts((), (), 4, 2, counts.total, counts.active, 1e6, budget, 300, tokens_per_epoch=20.0 * LENGTH)
        watching = Orchestrator(made, facts)
        for step in range(1, 151):
            series = {"loss": 3.0 + 3.0 * 0.9**step, "grad_norm": 1.0, "tokens": float(step * LENGTH)}
            watching.observe(step, series | ({"val_loss": series["loss"]} if step % 10 == 0 else {}), {})
        told = watching.check(150, {}, []).chinchilla
        return watching.ended if name == "ended" else told[name]

    return observe


def proposed_for_the_course(**changes: Any) -> list[str]:
    """What is proposed in a run that has soon learned what it will learn."""
    made = config(check_interval=30, intervention_threshold=0.5, **changes)
    counts = count_parameters(made, VOCAB)
    facts = RunFacts((), (), 4, 2, counts.total, counts.active, 1e6, token_budget(made, counts), 600,
                     tokens_per_epoch=20.0 * LENGTH)  # fmt: skip
    watching, found = Orchestrator(made, facts), []
    for step in range(1, 301):
        series = {"loss": 3.0 + 300.0 * step**-2.0, "grad_norm": 1.0, "tokens": float(step * LENGTH)}
        watching.observe(step, series, {})
        if step % 30 == 0:
            live = {"total_steps": 600.0, "difficulty_sampling": made.data.difficulty_sampling}
            found += watching.check(step, live, []).proposals
    return sorted({proposal.method for proposal in found})


def expiry(**changes: Any) -> list[int]:
    return [proposal.expires_step for proposal in proposals(**changes)]


def proposed(**changes: Any) -> list[str]:
    return [proposal.method for proposal in proposals(**changes)]
