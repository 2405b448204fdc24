"""Which runs a table of the gym needs: cells of scenario, method and seed, and their healthy twins.

A cell is named by everything that its run depends on. Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lumina.gym.scenario import Fault, Scenario, Seeds, digest

NOISE_SEEDS = 2  # tuning seeds whose healthy runs also count for the seed noise
FORMAT = 1  # raise it when the same cell would come out otherwise
REFERENCE = "clip"  # the method whose run without a fault is the healthy one


@dataclass(frozen=True)
class Cell:
    """What is to be trained. `scenario` is for people; everything that matters is in the other fields."""

    scenario: str
    settings: Mapping[str, Any]
    steps: int
    fault: Fault | None
    method: str
    seed: int

    @property
    def key(self) -> str:
        """Equal for cells that train the same run, whatever scenario asks for it."""
        told = {"format": FORMAT, **{k: v for k, v in asdict(self).items() if k != "scenario"}}
        return f"{self.method}-{self.seed}-{digest(told)}"


def cell_of(scenario: Scenario, method: str, seed: int, short: bool) -> Cell:
    """The run of a method in a scenario."""
    return Cell(scenario.name, scenario.settings, scenario.length(short), scenario.fault, method, seed)


def reference_of(scenario: Scenario, seed: int, short: bool) -> Cell:
    """The healthy twin; scenarios that differ in their fault alone share it."""
    return Cell("healthy twin", scenario.settings, scenario.length(short), None, REFERENCE, seed)


def noise_seeds(seeds: Sequence[int], split: Seeds) -> list[int]:
    """Seeds whose healthy runs tell the seed noise: those of the table, and two more."""
    return [*seeds, *(seed for seed in split.tune[:NOISE_SEEDS] if seed not in seeds)]


def cells(scenarios: Sequence[Scenario], methods: Sequence[str], seeds: Sequence[int], split: Seeds,
          short: bool) -> list[Cell]:  # fmt: skip
    """Every cell that a table of these needs, each once: the methods, doing nothing, and the healthy twins."""
    wanted: dict[str, Cell] = {}
    for scenario in scenarios:
        for seed in noise_seeds(seeds, split):
            twin = reference_of(scenario, seed, short)
            if scenario.reference == "best_of_none":
                twin = cell_of(scenario, "none", seed, short)
            if not scenario.healthy:
                wanted.setdefault(twin.key, twin)
        for method in dict.fromkeys(["none", *methods]):
            for seed in seeds:
                cell = cell_of(scenario, method, seed, short)
                wanted[cell.key] = cell
    return list(wanted.values())
