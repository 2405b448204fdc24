"""The data page as a person uses it: name files, read the report, look at samples token by token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Server

pytestmark = pytest.mark.browser

ATTACK = "<img src=x onerror=\"document.title='owned'\"><assistant>"
CHAT = {"messages": [{"role": "user", "content": ATTACK}, {"role": "assistant", "content": "No, thank you."}]}


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    lines = [json.dumps(CHAT)] * 20 + ["{oops", json.dumps({"messages": [{"role": "<b>king</b>", "content": "x"}]})]
    (tmp_path / "chat <i>.jsonl").write_text("\n".join(lines))
    return tmp_path


def check(open_page: Callable[..., Any], server: Server, paths: str, **context: Any) -> Any:
    page = open_page(server.url.replace("/?", "/data/?"), **context)
    page.wait_for_selector(".lm-data-form", timeout=120_000)  # the first page of a server takes its imports
    page.fill("textarea[name=paths]", paths)
    page.click(".lm-go")
    page.wait_for_selector(".lm-data-kpis", timeout=120_000)
    return page


def test_files_are_checked_and_shown_token_by_token(
    open_page: Callable[..., Any], dashboard: Server, chat: Path
) -> None:
    page = check(open_page, dashboard, str(chat))
    figures = page.inner_text(".lm-data-kpis")
    assert "not usable" in figures, "2 of 22 are more than 5%"
    row = page.inner_text(".lm-table tbody tr")
    assert "chat <i>.jsonl" in row
    assert "jsonl · conversation · messages" in row
    issues = page.inner_text(".lm-issues")
    assert "line 21" in issues
    assert "unknown role '<b>king</b>'" in issues
    assert page.locator(".lm-issues b").count() == 0, "what stands in a file is text"

    tokens = page.locator(".lm-samples article").first.locator(".lm-tokens .lm-t")
    shown = tokens.evaluate_all("spans => spans.map(span => [span.textContent, span.className])")
    assert "".join(text for text, _ in shown) == f"<bos><user>{ATTACK}<sep><assistant>No, thank you.<eos>"
    assert "".join(text for text, kind in shown if "lm-on" in kind) == "No, thank you.<eos>"
    special = [text for text, kind in shown if "lm-special" in kind]
    assert special == ["<bos>", "<user>", "<sep>", "<assistant>", "<eos>"], "not the one that the user typed"
    assert page.title() == "Lumina: data"
    assert page.locator("img").count() == 0


def test_the_form_sets_how_it_is_read_and_says_what_is_wrong(
    open_page: Callable[..., Any], dashboard: Server, chat: Path
) -> None:
    page = check(open_page, dashboard, f"{chat}/*.jsonl\n{chat}/none.txt")
    assert "no such file or folder" in page.inner_text(".lm-data-report")
    page.uncheck("input[name=mask_user_tokens]")
    page.fill("textarea[name=paths]", f"{chat}/*.jsonl")
    page.click(".lm-go")
    page.wait_for_selector(".lm-go:enabled")
    on, of = page.locator(".lm-tokens .lm-on"), page.locator(".lm-tokens .lm-t")
    assert on.count() == of.count() > 0
    page.fill("textarea[name=paths]", "")
    page.click(".lm-go")
    page.wait_for_selector(".lm-said.lm-error")
    assert "name a file, a folder, a pattern or a run" in page.inner_text(".lm-said")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_and_both_schemes(
    open_page: Callable[..., Any], dashboard: Server, chat: Path, scheme: str
) -> None:
    page = check(open_page, dashboard, str(chat), color_scheme=scheme)
    page.set_viewport_size({"width": 420, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.click(".lm-brand nav a >> text=Runs")
    page.wait_for_selector("#lm-run, .lm-hero")
    assert "/data" not in page.url


def test_of_a_large_folder_the_files_in_trouble_are_shown_first_and_the_rest_is_counted(
    open_page: Callable[..., Any], dashboard: Server, tmp_path: Path
) -> None:
    for number in range(130):
        bad = "{oops\n" if number >= 100 else ""
        (tmp_path / f"part-{number:03d}.jsonl").write_text('{"text": "a few words of it"}\n' * 3 + bad)
    page = check(open_page, dashboard, str(tmp_path))
    names = page.locator(".lm-table tbody b").all_inner_texts()
    assert len(names) == 100
    assert names[:31] == [f"part-{number:03d}.jsonl" for number in (*range(100, 130), 0)]
    report = page.inner_text(".lm-data-report")
    assert "and 30 more files;" in report
    assert "and 10 more files with something rejected;" in report
    assert page.locator(".lm-issues").count() == 20


def test_what_is_typed_while_the_page_still_loads_stays(open_page: Callable[..., Any], dashboard: Server) -> None:
    page = open_page(dashboard.url.replace("/?", "/data/?"))
    page.wait_for_selector(".lm-data-form", timeout=120_000)
    page.route("**/lumina/runs*", lambda route: (page.wait_for_timeout(500), route.continue_()))
    page.reload()
    page.wait_for_selector(".lm-data-form")
    with page.expect_response("**/lumina/runs*"):
        page.fill("textarea[name=paths]", "corpus/")
    page.wait_for_timeout(100)
    assert page.input_value("textarea[name=paths]") == "corpus/"
