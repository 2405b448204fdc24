"""Keeps what a benchmark measured: as JSON, and as a section of a page that is written anew from it.
It knows neither what was measured nor how."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True)
class Section:
    """One benchmark's part of `page` between two comments that name its script; `table` makes Markdown of an entry."""

    script: str
    about: str
    stored: Path
    table: Callable[[str, dict[str, Any]], str]
    page: Path = DOCS / "performance.md"

    def keep(self, name: str, entry: dict[str, Any]) -> None:
        """Stores an entry and writes the section anew from all that are stored."""
        begin, end = f"<!-- {self.script} -->", f"<!-- end of {self.script} -->"
        document = json.loads(self.stored.read_text(encoding="utf-8")) if self.stored.exists() else {}
        document[name] = entry
        self.stored.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        section = "\n".join([begin, self.about, *(self.table(*item) for item in document.items()), end]) + "\n"
        old = self.page.read_text(encoding="utf-8") if self.page.exists() else "# Performance\n\n"
        if begin in old:
            before, rest = old.split(begin, 1)
            old, section = before, section + rest.split(end, 1)[1].lstrip("\n")
        self.page.write_text(old + section, encoding="utf-8")
