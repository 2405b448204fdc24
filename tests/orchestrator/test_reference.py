from __future__ import annotations

from pathlib import Path

from lumina.orchestrator.reference import BEGIN, END, insert, watching_markdown

PAGE = Path(__file__).parents[2] / "docs" / "orchestrator.md"


def test_the_page_says_what_the_code_watches():
    page = PAGE.read_text(encoding="utf-8")
    assert page[page.index(BEGIN) : page.index(END)] == watching_markdown().rpartition(END)[0], (
        "write it again: python -m lumina.orchestrator.reference"
    )


def test_other_sections_stay_as_they_are():
    page = "# Title\n\n## Before\n\ntext\n"
    once = insert(page)
    assert once.startswith(page)
    more = once + "\n## After\n\nmore\n"
    assert insert(more) == more
    assert insert(once) == once
