"""Scores the predicted final loss on real trainings: `python benchmarks/scaling.py`, about 10 minutes on 2 quiet cores.

Trains small models of varied size, seed, data and schedule to their end, asks at 30 % and 50 % of each what the end
will be, and writes `docs/scaling.md`. With `--curves DIR` every training is kept there and not made a second time.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.orchestrator import RunFacts

DOCS = Path(__file__).parent.parent / "docs" / "scaling.md"
SHARES = (0.3, 0.5)
FIRST_SEED = 700
SMALL: dict[str, Any] = {
    "model.vocab_size": 300,
    "model.max_position_embeddings": 32,
    "model.num_heads": 4,
    "model.num_kv_heads": 2,
    "model.num_layers": 2,
    "moe.num_experts": 4,
    "num_threads": 1,
    "eval_interval": 100_000,
    "check_interval": 1000,
    "save_every_n_batches": 100_000,
    "warmup_steps": 0.05,
    "use_adaptive_training": False,
}


@dataclass(frozen=True)
class Scored:
    """One training: what it was, how it ended, and what was told at each share: (low, predicted, high)."""

    seed: int
    what: str
    steps: int
    end: float
    told: dict[float, tuple[float, float, float]]

    def held(self, share: float) -> bool:
        low, _, high = self.told[share]
        return low <= self.end <= high


def settings_of(seed: int) -> tuple[int, dict[str, Any]]:
    """Steps and settings of a training; all of them a function of its seed."""
    rng = np.random.default_rng(seed)
    chosen = {
        "model.hidden_size": int(rng.choice([16, 24, 32, 48])),
        "model.intermediate_size": int(rng.choice([24, 48])),
        "seed": seed,
        "batch_size": int(rng.choice([2, 4, 6])),
        "learning_rate": float(rng.choice([1e-3, 3e-3, 6e-3])),
        "lr_schedule": str(rng.choice(["cosine", "linear", "constant"])),
        "corpus_documents": int(rng.choice([100, 1000, 3000])),
        "use_moe": bool(rng.random() < 0.6),
        "use_mod": bool(rng.random() < 0.3),
    }
    return int(rng.choice([800, 1200, 1600])), {**SMALL, **chosen}


def curve_of(seed: int, curves: Path | None) -> dict[str, NDArray[np.float64]]:
    """Loss, tokens and learning rate of every step of a training, which is made unless `curves` has it."""
    import lumina
    from lumina.store.reader import StoreReader

    kept = None if curves is None else curves / f"{seed}.npz"
    if kept is not None and kept.exists():
        with np.load(kept) as archive:
            return dict(archive)
    steps, settings = settings_of(seed)
    with tempfile.TemporaryDirectory() as folder:
        with lumina.Trainer("debug", name="run", steps=steps, directory=folder, **settings) as trainer:
            trainer.train()
        found = StoreReader(trainer._session.paths).series(["loss", "tokens", "learning_rate"], max_points=None)
    columns = {name: np.array(column["value"], np.float64) for name, column in found.items()}
    if kept is not None:
        np.savez(kept, **columns)
    return columns


def facts_of(config: Config, steps: int) -> RunFacts:
    """Those facts of a run that its prediction depends on."""
    from lumina.accounting import count_parameters, token_budget
    from lumina.orchestrator import RunFacts

    counted = count_parameters(config)
    return RunFacts(
        moe_layers=(), mod_layers=(), num_experts=config.moe.num_experts, top_k=config.moe.moe_top_k,
        params_total=counted.total, params_active=counted.active, flops_per_token=6.0 * counted.active,
        tokens_optimal=token_budget(config, counted), total_steps=steps,
    )  # fmt: skip


def train_and_score(seed: int, curves: Path | None = None) -> Scored:
    """Trains one run to its end and shows its steps to `Chinchilla` as they came."""
    from lumina.config import load_config
    from lumina.orchestrator.chinchilla import Chinchilla

    steps, settings = settings_of(seed)
    columns, config = curve_of(seed, curves), load_config("debug", settings)
    facts = facts_of(config, steps)
    told = {}
    for share in SHARES:
        progress = Chinchilla(config, facts)
        for step in range(1, int(share * steps) + 1):
            progress.observe(step, {name: values[step - 1] for name, values in columns.items()})
        report = progress.check()
        told[share] = (report["predicted_low"], report["predicted_final_loss"], report["predicted_high"])
    end = float(np.mean(columns["loss"][-max(20, steps // 20) :]))
    kind = ("MoE" if config.moe.use_moe else "dense") + (" + MoD" if config.mod.use_mod else "")
    training = config.training
    what = (
        f"{kind}, hidden {config.model.hidden_size}, batch {training.batch_size}, rate {training.learning_rate:g} "
        f"{training.lr_schedule}, {config.data.corpus_documents} documents"
    )
    return Scored(seed, what, steps, end, told)


ABOUT = """\
# How good is the predicted final loss?

<!-- Written by `python benchmarks/scaling.py`. -->

Real trainings of tiny models on the built-in corpus, to their end. *End* is the mean training loss of the last
twentieth of the steps (at least 20). *At 30 %* is what was told after 30 % of the steps: the prediction and its 90 %
band (`lumina/orchestrator/scaling.py` has the formula); bold where the band does not hold the end. The priors of the
fit were chosen on other seeds; the width of the band on made-up runs, on six other trainings and on those with an even
seed, so the odd ones are told apart, too. All trainings are listed. Such short trainings are the hardest case: at 30 %
they have hardly left the first, steep part of the curve.

| share of the steps | trainings | band holds the end | median width of the band | median error |
|---|---|---|---|---|"""
GROUPS: dict[str, Callable[[Scored], bool]] = {"all": lambda run: True, "odd seeds": lambda run: run.seed % 2 == 1}


def table(runs: list[Scored]) -> str:
    """The page, from all trainings."""
    lines = [ABOUT]
    for (name, belongs), share in itertools.product(GROUPS.items(), SHARES):
        group = [run for run in runs if belongs(run)]
        if not group:
            continue
        held = sum(run.held(share) for run in group)
        width = np.median([(run.told[share][2] - run.told[share][0]) / run.end for run in group])
        error = np.median([abs(run.told[share][1] / run.end - 1) for run in group])
        shown = f"{held} ({held / len(group):.0%})"
        lines.append(f"| {share:.0%} | {len(group)} ({name}) | {shown} | {width:.0%} | {error:.1%} |")
    lines += ["", "| seed | training | steps | end | at 30 % | at 50 % |", "|---|---|---|---|---|---|"]
    for run in runs:
        cells = [_band(run, share) for share in SHARES]
        lines.append(f"| {run.seed} | {run.what} | {run.steps} | {run.end:.3f} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _band(run: Scored, share: float) -> str:
    low, predicted, high = run.told[share]
    text = f"{predicted:.3f} ({low:.3f} to {high:.3f})"
    return text if run.held(share) else f"**{text}**"


def main() -> None:
    """Trains, scores, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--curves", type=Path, help="a folder that keeps the trainings")
    options = parser.parse_args()
    if options.curves is not None:
        options.curves.mkdir(parents=True, exist_ok=True)
    runs: list[Scored] = []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        seeds = itertools.islice(itertools.count(FIRST_SEED), options.runs)
        for run in pool.imap(functools.partial(train_and_score, curves=options.curves), seeds):
            runs.append(run)
            print(f"{run.seed}: {run.what}, {run.steps} steps, end {run.end:.3f}, 30 %: {_band(run, 0.3)}", flush=True)
            DOCS.write_text(table(runs), encoding="utf-8")  # so that a run that is cut short leaves what it has
    print(f"wrote {DOCS}")


if __name__ == "__main__":
    main()
