"""Writes the section of `docs/orchestrator.md` on what is watched, from the declarations of figures and detectors.
It adds no facts of its own."""

from __future__ import annotations

import inspect

from lumina.orchestrator import conflicts, policy
from lumina.orchestrator.detectors import all_detectors
from lumina.orchestrator.figures import MEANINGS

BEGIN, END = "<!-- what it watches: generated -->", "<!-- end of what it watches -->"

_INTRODUCTION = """\
## What it watches

Every step is shown to the orchestrator; every `check_interval` steps it computes these figures from the run's own
records (medians and median absolute deviations, so that single steps do not matter) and asks its detectors. The newest
ones are in the store as `signals`. Figures that depend on the clock (memory, throughput) are in no checkpoint.
"""
_DETECTORS = """\
### Detectors

Each names its evidence (a sentence, the numbers, the window, the threshold) and a confidence. The confidence is
adjusted by how earlier proposals ended before it is compared with `intervention_threshold`.
"""


def watching_markdown() -> str:
    """The section between its markers."""
    lines = [BEGIN, "", _INTRODUCTION, "| Figure | Meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in MEANINGS.items()]
    lines += ["", _DETECTORS]
    for module in dict.fromkeys(inspect.getmodule(type(detector)) for detector in all_detectors()):
        assert module is not None
        lines += [
            f"**`{module.__name__.rpartition('.')[2]}`**",
            "",
            "```text",
            (module.__doc__ or "").strip(),
            "```",
            "",
        ]
    lines += ["### Decisions", ""]
    for owner in (policy.Policy, policy.Policy.course, conflicts):
        lines += ["```text", inspect.cleandoc(owner.__doc__ or ""), "```", ""]
    return "\n".join([*lines, END]) + "\n"


def insert(page: str) -> str:
    """The page with the section in its place, or at its end."""
    section = watching_markdown()
    if BEGIN not in page:
        return page.rstrip("\n") + "\n\n" + section
    before, rest = page.split(BEGIN, 1)
    return before + section.rstrip("\n") + rest.split(END, 1)[1]


if __name__ == "__main__":
    from pathlib import Path

    path = Path(__file__).parents[2] / "docs" / "orchestrator.md"
    path.write_text(insert(path.read_text(encoding="utf-8")), encoding="utf-8")
