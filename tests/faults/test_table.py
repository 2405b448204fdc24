"""docs/reliability.md lists every row, and says what the long form saw."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from faults import table
from faults.matrix import Row

HERE = Path(__file__).parent


def declared() -> Iterator[tuple[str, Row]]:
    """(theme, row) of every test that declares one."""
    for path in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(f"faults.{path.stem}")
        for value in vars(module).values():
            for mark in getattr(value, "pytestmark", []):
                if mark.name == "row":
                    yield path.stem.removeprefix("test_"), Row(*mark.args)


def test_every_row_is_in_the_table_and_every_line_of_the_table_is_a_row() -> None:
    listed = {(result.theme, Row(result.name, result.injected, result.expected)) for result in results()}
    assert listed == set(declared()), "make faults writes the table anew"


def test_the_page_is_what_the_results_say() -> None:
    assert (table.DOCS / "reliability.md").read_text() == table.render(results())


def test_every_row_was_tried_and_held() -> None:
    for result in results():
        assert result.tried > 0, result.name
        assert result.held, result.name


def results() -> list[table.Result]:
    return table.load(table.DOCS / "reliability.json")
