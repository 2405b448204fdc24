"""The dashboard as a person uses it, in a real browser on a live run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import until

import lumina
from lumina.client import Run
from lumina.interventions.catalogue import ACTIONS

from .conftest import COLLAPSE, Server, start

pytestmark = pytest.mark.browser

RANGE = "document.querySelector('#lm-loss-chart').layout.xaxis.range.map(Number)"


def step_of(page: Any) -> int:
    text = page.inner_text(".lm-progress")
    return int(text.split("step ")[1].split(" ")[0].replace(",", ""))


def open_run(open_page: Callable[..., Any], server: Server, run: Run) -> Any:
    page = open_page(f"{server.url}&run={run.name}")  # the token is in the URL already
    page.wait_for_selector("#lm-loss-chart .main-svg")
    return page


def receipt_text(page: Any, state: str) -> str:
    return str(page.locator(f".lm-receipts li[data-state={state}]").first.inner_text())


def test_a_live_run_shows_itself(open_page: Callable[..., Any], dashboard: Server, collapsed: Run) -> None:
    page = open_run(open_page, dashboard, collapsed)
    assert page.inner_text(".lm-state") == "running"
    assert page.input_value("#lm-run input") == "collapsed"
    assert "token=" not in page.url
    before = step_of(page)
    until(lambda: step_of(page) > before)
    for chart in ("loss", "experts", "depth", "entropy"):
        page.wait_for_selector(f"#lm-{chart}-chart .main-svg")
    loads = page.evaluate("document.querySelector('#lm-experts-chart').data[0].z")
    assert [len(row) for row in loads] == [8, 8]
    assert all(abs(sum(row) - 8) < 0.1 for row in loads), "shares of all experts are one whole"
    figures = page.inner_text(".lm-kpis")
    for label in ("Train loss", "Throughput", "Grad norm", "Learning rate", "Routing entropy", "Mean depth"):
        assert label in figures
    assert "Optimal" in page.inner_text(".lm-budget")
    assert "Run started" in page.inner_text(".lm-events")


def test_a_zoom_survives_updates(open_page: Callable[..., Any], dashboard: Server, collapsed: Run) -> None:
    page = open_run(open_page, dashboard, collapsed)
    until(lambda: step_of(page) > 20)
    box = page.locator("#lm-loss-chart .nsewdrag").first.bounding_box()
    whole = page.evaluate(RANGE)
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=8)
    page.mouse.up()
    zoomed = until(lambda: page.evaluate(RANGE) if page.evaluate(RANGE) != whole else None)
    points = "document.querySelector('#lm-loss-chart').data[0].x.length"
    count = page.evaluate(points)
    until(lambda: page.evaluate(points) > count + 5)
    assert page.evaluate(RANGE) == zoomed


def test_a_proposal_is_edited_approved_and_marked(
    open_page: Callable[..., Any], dashboard: Server, collapsed: Run
) -> None:
    page = open_run(open_page, dashboard, collapsed)
    page.wait_for_selector(".lm-asks", timeout=90_000)
    card = page.inner_text(".lm-asks")
    assert "adjust_routing_temperature" in card
    assert "has collapsed" in card
    assert "Confidence" in card
    entropy = float(page.inner_text("#lm-kpi-entropy dd span"))

    page.click(".lm-asks button[data-action=edit]")
    page.fill("#lm-edit-temperature", "9")
    page.click(".lm-asks button[data-action=apply]")
    assert "outside 0.1 to 5" in page.inner_text(".lm-error")
    page.fill("#lm-edit-temperature", "3")
    page.click(".lm-asks button[data-action=apply]")

    page.wait_for_selector(".lm-receipts li[data-state=verified]")
    assert "routing_temperature 1 → 3" in receipt_text(page, "verified")
    assert collapsed.proposals("approved")[0]["decided"]["args"] == {"temperature": 3.0}
    marks = "document.querySelector('#lm-loss-chart').layout.shapes.length"
    until(lambda: page.evaluate(marks) == 1)
    assert "applied at step" in page.inner_text(".lm-events")
    until(lambda: float(page.inner_text("#lm-kpi-entropy dd span")) > entropy + 0.2)


def test_pause_checkpoint_and_resume_answer(open_page: Callable[..., Any], dashboard: Server, collapsed: Run) -> None:
    page = open_run(open_page, dashboard, collapsed)
    page.click("#lm-pause")
    page.wait_for_selector(".lm-state[data-state=paused]")
    at = collapsed.status()["step"]
    page.click("#lm-checkpoint")
    until(lambda: f"checkpoint_step_{at} saved" in page.inner_text(".lm-events"))
    assert collapsed.status()["step"] == at, "a paused run takes no step"
    page.click("#lm-unpause")
    page.wait_for_selector(".lm-state[data-state=running]")
    until(lambda: step_of(page) > at)


def test_an_intervention_by_hand_and_its_refusal(
    open_page: Callable[..., Any], dashboard: Server, collapsed: Run
) -> None:
    page = open_run(open_page, dashboard, collapsed)
    page.click("#lm-manual >> text=Trigger an intervention by hand")
    page.click("#lm-method input")
    offered = page.locator("#lm-method [role=option]").all_inner_texts()
    assert [text.strip("✓ \n") for text in offered] == list(ACTIONS)
    page.click("#lm-method [role=option]:has-text('emergency_lr_reduction')")
    factor = page.locator("#lm-arg-emergency_lr_reduction-reduction_factor").locator("input, textarea")
    factor.fill("0.5")
    page.click("#lm-trigger-emergency_lr_reduction")
    page.wait_for_selector(".lm-receipts li[data-state=refused]")
    assert "reduction_factor = 0.5 is outside" in receipt_text(page, "refused")
    factor.fill("10")
    page.click("#lm-trigger-emergency_lr_reduction")
    until(lambda: "emergency_lr_reduction" in receipt_text(page, "verified"))
    slow = collapsed.status()["step"]
    until(lambda: collapsed.status()["step"] > slow + 2)
    newest = collapsed.metrics(["learning_rate"]).tail(1)["learning_rate"][0]
    assert newest < 2e-4
    page.locator(".lm-receipts li:has-text('emergency_lr_reduction') button").first.click()
    until(lambda: "undo emergency_lr_reduction" in page.inner_text(".lm-receipts"))
    until(lambda: "lr_scale 0.1 → 1" in page.inner_text(".lm-receipts"))


def test_what_an_intervention_did_is_told_in_its_receipt_and_at_its_mark(
    open_page: Callable[..., Any], dashboard: Server, collapsed: Run
) -> None:
    page = open_run(open_page, dashboard, collapsed)
    page.wait_for_selector(".lm-effect:not([data-effect=pending])")
    told = page.locator(".lm-effect:not([data-effect=pending])").first.inner_text()
    assert "against its trend" in told or "another intervention" in told
    notes = "document.querySelector('#lm-loss-chart').layout.annotations.map((note) => note.text)"
    verdicts = until(lambda: page.evaluate(notes))
    assert set(verdicts) <= {"helped", "neutral", "hurt", "inconclusive"}


def test_the_budget_tells_where_the_loss_should_end_and_health_its_areas(
    open_page: Callable[..., Any], dashboard: Server, collapsed: Run
) -> None:
    page = open_run(open_page, dashboard, collapsed)
    until(lambda: " to " in page.inner_text(".lm-budget dl"))
    assert page.locator(".lm-course").get_attribute("data-action") in ("continue", "adjust", "stop")

    def told() -> bool:
        """Every area in which nothing is, by name, and every issue in its words."""
        health, report = collapsed.status()["health"], page.locator(".lm-report").first.inner_text()
        quiet = [name for name, area in health["areas"].items() if area["status"] == "healthy"]
        words = [*quiet, *(issue["message"] for issue in health["issues"])]
        return {"gradients", "memory", "throughput"} <= set(health["areas"]) and all(word in report for word in words)

    until(told)


def test_the_trainer_outlives_the_dashboard(
    open_page: Callable[..., Any], serve: Callable[..., Server], runs: Path, collapsed: Run
) -> None:
    first = serve()
    until(lambda: collapsed.status()["state"] == "running")
    first.kill()
    before = collapsed.status()["step"]
    until(lambda: lumina.attach("collapsed", runs).status()["step"] > before + 3)
    page = open_run(open_page, serve(), collapsed)
    assert page.inner_text(".lm-state") == "running"


def test_a_page_says_when_its_server_is_gone(open_page: Callable[..., Any], dashboard: Server, collapsed: Run) -> None:
    page = open_run(open_page, dashboard, collapsed)
    # Not by a dead server: the browser would report each failed request, and this page has to be silent.
    page.evaluate("() => { window.__fetch = window.fetch; window.fetch = () => Promise.reject(new Error('gone')); }")
    page.wait_for_selector(".lm-state[data-state=lost]")
    assert "does not answer" in page.inner_text(".lm-notice")
    page.evaluate("() => { window.fetch = window.__fetch; }")
    page.wait_for_selector(".lm-state[data-state=running]")


def test_stored_text_is_never_markup(
    open_page: Callable[..., Any], dashboard: Server, runs: Path, chromium: str
) -> None:
    run = start(runs, "hostile", **COLLAPSE)
    until(lambda: run.proposals(), 90)
    evil = "<img src=x onerror=window.__hit=1><script>window.__hit=1</script>"
    run.reject(run.proposals()[0]["id"], why=evil).wait(check=True)
    page = open_run(open_page, dashboard, run)
    until(lambda: evil in page.inner_text(".lm-events"))
    assert page.evaluate("window.__hit") is None
    page.click("#lm-stop")
    page.wait_for_selector(".lm-state[data-state=stopped]")
    assert "lumina resume hostile" in page.inner_text(".lm-notice")


def test_an_empty_folder_says_how_to_start(
    open_page: Callable[..., Any], serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(tmp_path)
    page = open_page(server.url)
    page.wait_for_selector(".lm-hero")
    assert "lumina train debug" in page.inner_text(".lm-hero")
    run = start(tmp_path, "newcomer")
    page.wait_for_selector("#lm-loss-chart .main-svg", timeout=90_000)
    assert page.input_value("#lm-run input") == "newcomer"
    run.stop().wait()
    run.wait(60)
