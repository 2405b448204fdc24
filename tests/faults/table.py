"""The table in docs/reliability.md: made of what the rows came to, which docs/reliability.json keeps.

It knows documents, not runs; `python tests/faults/table.py` writes the page anew from the JSON beside it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

DOCS: Final = Path(__file__).parents[2] / "docs"
COMMAND: Final = "make faults"
THEMES: Final = {
    "kills": "Killed",
    "disk": "Power and disk",
    "checkpoints": "Damaged checkpoints",
    "store": "Journal, database and folder",
    "signals": "Signals",
    "numbers": "Numbers and memory",
    "commands": "Commands",
    "watchers": "Watchers",
}
INTRODUCTION: Final = """# Reliability

What Lumina promises when something breaks, and what was tried to break the promise. A run that is stopped, killed or
starved continues without losing or inventing anything: every decision is in the journal whole or not at all, every
checkpoint is there whole or not at all, and on a CPU the continued run ends in the same bits as one that nothing
happened to.

The rows below were written by `{command}`, which injects every fault into real trainers of a tiny model (hidden size
32, two layers with both kinds of sparsity) and counts only injections that are confirmed to have hit. "Lost" is what
was gone for good afterwards; steps that are computed again from the newest checkpoint are not lost. The short form
of every row, with fewer tries, is part of `make test`; a row that says so was last tried in it.

How faults get in: every change of a run's files passes one seam (`lumina/store/atomic.py`), where a test kills the
process at the k-th operation, lets an operation fail, or records all of them. Power loss is modelled from such a
record: what was fsynced is there; of everything else any part, in any combination, may be missing or cut short. What
SQLite itself does with its files on a power cut is SQLite's promise, and not tried here.
"""


@dataclass
class Result:
    """What one row came to."""

    name: str
    theme: str
    injected: str
    expected: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    held: bool = True
    long: bool = True

    @classmethod
    def of(cls, told: dict[str, Any]) -> Result:
        return cls(told["name"], told["theme"], told["injected"], told["expected"])

    def add(self, told: dict[str, Any], passed: bool) -> None:
        """Takes one test of the row into account."""
        self.tried += told["tried"]
        self.lost += [what for what in told["lost"] if what not in self.lost]
        self.figures += [what for what in told["figures"] if what not in self.figures]
        self.held = self.held and passed
        self.long = self.long and told["long"]


def update(page: Path, results: list[Result]) -> None:
    """Puts the results in place of older ones of the same rows, and writes page and JSON."""
    store = page.with_suffix(".json")
    known = {result.name: result for result in load(store)}
    known.update((result.name, result) for result in results)
    ordered = sorted(known.values(), key=lambda result: (list(THEMES).index(result.theme), result.name))
    store.write_text(json.dumps([asdict(result) for result in ordered], indent=1, ensure_ascii=False) + "\n")
    page.write_text(render(ordered))


def load(store: Path) -> list[Result]:
    return [Result(**doc) for doc in json.loads(store.read_text())] if store.exists() else []


def render(results: list[Result]) -> str:
    """The whole page."""
    parts = [INTRODUCTION.format(command=COMMAND)]
    for theme, title in THEMES.items():
        rows = [result for result in results if result.theme == theme]
        if rows:
            parts.append(f"## {title}\n\n| row | injected | expected | tried | lost |\n|---|---|---|---:|---|\n")
            parts[-1] += "".join(f"{_line(result)}\n" for result in rows)
    return "\n".join(parts)


def _line(result: Result) -> str:
    lost = "; ".join(result.lost) if result.held else "**the row did not hold**"
    figures = "".join(f" ({figure})" for figure in result.figures)
    cells = [
        result.name,
        result.injected,
        result.expected,
        f"{result.tried:,}" + ("" if result.long else " (short form)"),
        (lost or "nothing") + figures,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    (DOCS / "reliability.md").write_text(render(load(DOCS / "reliability.json")))
