"""The view in a real JupyterLab: it moves and takes clicks while a cell is busy, and outlives its kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from conftest import quickstart
from lab import Lab, LabPage, jupyter_lab, lab_page
from playwright.sync_api import expect
from small import until

import lumina
from lumina.client import Run
from lumina.interventions.catalogue import ACTIONS
from lumina.store import inbox
from lumina.store.inbox import Command
from lumina.store.layout import new_id

pytestmark = pytest.mark.notebook
COLLAPSE = {"router_init_bias": 6.0, "load_balancing_weight": 0.0, "proposal_expiry_steps": 50_000}
# One proposal to look at, whatever else a collapsed router brings about.
ONE_QUESTION = {"autonomy_per_method": [f"{name}=observe" for name in ACTIONS if name != "adjust_routing_temperature"]}
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, browser_path: str) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    quickstart(folder / "work", 100_000, **COLLAPSE, **ONE_QUESTION)
    with jupyter_lab(folder / "work", folder / "private") as lab:
        yield lab


@pytest.fixture(scope="module")
def view(lab: Lab, browser_path: str) -> Iterator[LabPage]:
    """The notebook, up to the view of a run that trains; the kernel is busy waiting for the run's end."""
    expect.set_options(timeout=30_000)
    with lab_page(browser_path) as view:
        view.page.set_default_timeout(60_000)
        view.open(lab, "quickstart.ipynb")
        for cell in ("import lumina", "steps = 100000", "lumina.start", "Dashboard(run)"):
            view.run_cell(cell)
        view.widget.wait_for()
        view.run_cell("run.wait()")
        yield view


@pytest.fixture(scope="module")
def run(view: LabPage, lab: Lab) -> Iterator[Run]:
    [folder] = (lab.folder / "experiments").iterdir()
    run = lumina.attach(folder)
    yield run
    run.stop().wait()
    run.wait(60)


def test_it_moves_while_another_cell_is_busy(view: LabPage, run: Run) -> None:
    first = until(view.step)
    until(lambda: view.step() > first)
    assert view.is_busy("run.wait()")


def test_pause_and_resume_while_another_cell_is_busy(view: LabPage, run: Run) -> None:
    view.widget.get_by_role("button", name="Pause").click()
    expect(view.widget.get_by_role("status")).to_have_text("paused")
    assert run.status()["state"] == "paused"
    view.widget.get_by_role("button", name="Resume").click()
    expect(view.widget.get_by_role("status")).to_have_text("running")
    assert run.status()["state"] == "running"
    assert view.is_busy("run.wait()")


def test_every_button_of_a_proposal_lies_within_its_card(view: LabPage) -> None:
    card = view.widget.get_by_role("region", name="Nothing to approve")
    card.get_by_role("button", name="Edit").wait_for(timeout=90_000)
    within = card.bounding_box()
    assert within is not None
    for name in ("Approve", "Edit", "Rehearse", "Reject"):
        box = card.get_by_role("button", name=name).bounding_box()
        assert box is not None
        assert box["x"] + box["width"] < within["x"] + within["width"], name


def test_a_proposal_is_rehearsed_once_at_a_time(view: LabPage, run: Run) -> None:
    card = view.widget.get_by_role("region", name="Nothing to approve")
    rehearsal = view.widget.get_by_role("region", name="Rehearsal")
    card.get_by_role("button", name="Rehearse").click()
    expect(rehearsal).to_contain_text("of 100 steps")
    expect(card.get_by_role("button", name="Rehearse")).to_be_disabled()
    expect(rehearsal).to_contain_text("finished", timeout=90_000)
    expect(rehearsal.locator(".lw-verdict")).to_contain_text("over 50 steps")
    expect(rehearsal.locator(".lw-legend")).to_have_text("withoutwith")
    first, last = (rehearsal.locator("svg[role=img] text").nth(at).bounding_box() for at in (-2, -1))
    assert first is not None
    assert last is not None
    assert first["x"] + first["width"] < last["x"]
    expect(card.get_by_role("button", name="Rehearse")).to_be_enabled()


def test_an_edited_proposal_is_approved_and_its_receipt_shown(view: LabPage, run: Run) -> None:
    card = view.widget.get_by_role("region", name="Nothing to approve")
    card.get_by_role("button", name="Edit").click(timeout=90_000)
    [proposal] = run.proposals()
    expect(card).to_contain_text(proposal["evidence"]["summary"])
    card.get_by_label("temperature").fill("2.5")
    card.get_by_role("button", name="Approve").click()
    receipt = view.widget.get_by_role("region", name="Receipts").get_by_role("listitem").first
    expect(receipt).to_contain_text("adjust_routing_temperature temperature 2.5 verified")
    expect(receipt).to_contain_text("routing_temperature 1 → 2.5")
    until(lambda: run.status()["hparams"]["routing_temperature"] == 2.5)
    expect(view.widget.locator(".lw-mark")).to_have_count(1)
    expect(card).to_contain_text("When the orchestrator wants to change something, it asks here.")


def test_a_value_out_of_range_is_refused_in_words(view: LabPage, run: Run) -> None:
    view.widget.get_by_text("Trigger an intervention by hand").click()
    view.widget.locator(".lw-hand").get_by_label("temperature").fill("99")
    view.widget.locator(".lw-hand").get_by_role("button", name="Apply").click()
    receipts = view.widget.get_by_role("region", name="Receipts")
    expect(receipts).to_contain_text("temperature = 99 is outside 0.1 to 5")
    assert run.status()["hparams"]["routing_temperature"] == 2.5


def test_an_intervention_by_hand_is_applied(view: LabPage, run: Run) -> None:
    view.widget.locator(".lw-hand").get_by_label("temperature").fill("1.25")
    view.widget.locator(".lw-hand").get_by_role("button", name="Apply").click()
    expect(view.widget.get_by_role("region", name="Receipts")).to_contain_text("routing_temperature 2.5 → 1.25")
    until(lambda: run.status()["hparams"]["routing_temperature"] == 1.25)


def test_what_was_rehearsed_by_hand_is_applied_once_and_taken_back(view: LabPage, run: Run) -> None:
    by_hand, rehearsal = view.widget.locator(".lw-hand"), view.widget.get_by_role("region", name="Rehearsal")
    by_hand.get_by_label("temperature").fill("1.4")
    by_hand.get_by_role("button", name="Rehearse").click()
    expect(rehearsal).to_contain_text("temperature 1.4")
    expect(rehearsal).to_contain_text("finished", timeout=90_000)
    rehearsal.get_by_role("button", name="Apply").click()
    expect(rehearsal).to_contain_text("Applied at step")
    expect(rehearsal.get_by_role("button", name="Apply")).to_have_count(0)
    receipts = view.widget.get_by_role("region", name="Receipts").get_by_role("listitem")
    expect(receipts.first).to_contain_text("routing_temperature 1.25 → 1.4")
    receipts.first.get_by_role("button", name="Undo").click()
    expect(receipts.first).to_contain_text("undo adjust_routing_temperature verified")
    until(lambda: run.status()["hparams"]["routing_temperature"] == 1.25)
    expect(view.widget.locator(".lw-mark title").last).to_contain_text("undo adjust_routing_temperature at step")


def test_what_cannot_be_rehearsed_offers_no_button(view: LabPage) -> None:
    by_hand = view.widget.locator(".lw-hand")
    by_hand.get_by_label("intervention").select_option("pause")
    expect(by_hand.get_by_role("button", name="Rehearse")).to_be_hidden()
    by_hand.get_by_label("intervention").select_option("adjust_routing_temperature")
    expect(by_hand.get_by_role("button", name="Rehearse")).to_be_visible()


def test_stored_text_is_text(view: LabPage, run: Run) -> None:
    inbox.send(run.paths, Command(new_id(), "checkpoint", author={"name": MARKUP, "via": "api"}))
    expect(view.widget.get_by_role("region", name="Events")).to_contain_text(MARKUP)
    assert view.widget.locator("img").count() == 0


def test_zoom_survives_updates(view: LabPage, run: Run) -> None:
    chart = view.widget.locator(".lw-loss svg[role=img]")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    first_tick = chart.locator("text[text-anchor=middle]").first

    def left() -> int:
        """The first step that the axis names."""
        return int(first_tick.text_content() or "")

    before = left()
    mouse, middle = view.page.mouse, box["y"] + 100
    mouse.move(box["x"] + 0.6 * box["width"], middle)
    mouse.down()
    mouse.move(box["x"] + 0.8 * box["width"], middle, steps=4)
    mouse.up()
    zoomed = left()
    assert zoomed > before
    step = view.step()
    until(lambda: view.step() > step)
    assert left() == zoomed
    chart.dblclick()
    assert left() < zoomed


def test_no_word_of_the_chart_is_cut(view: LabPage) -> None:
    """Not even where the curve ends at the step that the axis names last."""
    chart = view.widget.locator(".lw-loss svg[role=img]")
    ticks = chart.locator("text[text-anchor=middle]", has_text=re.compile(r"^\d{4,}$"))
    until(lambda: ticks.count() > 0, 180)  # a step of four digits
    box, tick = chart.bounding_box(), ticks.first.bounding_box()
    assert box is not None
    assert tick is not None
    mouse, middle = view.page.mouse, box["y"] + 100
    mouse.move(tick["x"] - 120, middle)
    mouse.down()
    mouse.move(tick["x"] + tick["width"] / 2 + 1, middle, steps=4)
    mouse.up()
    edges = [edge for text in chart.locator("text").all() if (edge := text.bounding_box())]
    assert max(edge["x"] + edge["width"] for edge in edges) <= box["x"] + box["width"] + 1
    chart.dblclick()


def test_colours_follow_the_theme(view: LabPage) -> None:
    shown = {}
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        before = brightness(view)
        view.command("apputils:change-theme", theme=theme)
        until(lambda: abs(brightness(view) - before) > 100)  # noqa: B023
        shown[theme] = brightness(view)
    assert shown["JupyterLab Dark"] < 60
    assert shown["JupyterLab Light"] > 200


def brightness(view: LabPage) -> float:
    colour = view.widget.evaluate("(element) => getComputedStyle(element).backgroundColor")
    return sum(int(part) for part in colour[4:-1].split(",")) / 3


def test_nothing_went_wrong_and_nothing_left_the_machine(view: LabPage) -> None:
    assert view.errors == []
    assert view.beyond_this_machine == []


def test_a_restarted_kernel_is_told_and_the_run_found_again(view: LabPage, run: Run) -> None:
    view.restart_kernel()
    notice = view.widget.get_by_role("alert")
    expect(notice).to_contain_text("No word from the kernel")
    expect(notice).to_contain_text(f'Dashboard(lumina.attach("{run.name}"))')
    expect(view.widget.get_by_role("button", name="Pause")).to_be_disabled()
    assert run.status()["state"] == "running"
    view.run_cell("import lumina")
    view.run_cell("lumina.attach(newest)")
    view.run_cell("Dashboard(run)")
    expect(view.widget.get_by_role("status")).to_have_text("running")
    first = until(view.step)
    until(lambda: view.step() > first)


def test_a_saved_notebook_shows_the_last_state_without_a_kernel(view: LabPage, run: Run, lab: Lab) -> None:
    view.command("docmanager:save")
    for kernel in lab.api("kernels"):
        lab.api(f"kernels/{kernel['id']}", "DELETE")
    view.page.goto("about:blank")
    view.open(lab, "quickstart.ipynb")
    expect(view.widget.get_by_role("alert")).to_contain_text("This is the last state that was saved")
    expect(view.widget).to_contain_text(run.name)
    assert view.step() > 0
    assert view.widget.locator(".lw-loss path").count() > 0
