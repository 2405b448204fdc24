"""What else is drawn beside a run: a rehearsal's two curves, the branch that a rewind left, a replay laid over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small import until

from lumina.client import Run
from lumina.store.lock import is_locked

from .conftest import COLLAPSE, Server, start

pytestmark = pytest.mark.browser

TRACES = "document.querySelector('#lm-loss-chart').data.map(({ name, x, y }) => ({ name, x: [...x], y: [...y] }))"
REHEARSED = (
    "document.querySelector('.lm-rehearsal .lm-chart').data.map(({ name, x, y }) => ({ name, x: [...x], y: [...y] }))"
)
NOTES = "document.querySelector('#lm-loss-chart').layout.annotations.map(({ x, text }) => ({ x, text }))"


@pytest.fixture(scope="module")
def steered(chromium: str, runs: Path) -> Iterator[Run]:
    """A run whose router collapses, with a checkpoint every ten steps to fork from and to go back to."""
    run = start(runs, "steered", **{**COLLAPSE, "save_every_n_batches": 10})
    yield run
    if is_locked(run.paths):
        run.stop().wait()
        run.wait(60)


def shown(open_page: Callable[..., Any], server: Server, run: Run) -> Any:
    page = open_page(f"{server.url}&run={run.name}")
    page.wait_for_selector("#lm-loss-chart .main-svg")
    return page


def trace(page: Any, words: str) -> dict[str, Any] | None:
    """The curve of the loss's chart whose name has these words in it."""
    return next((one for one in page.evaluate(TRACES) if words in (one["name"] or "")), None)


def test_a_proposal_is_rehearsed_from_its_card(open_page: Callable[..., Any], dashboard: Server, steered: Run) -> None:
    page = shown(open_page, dashboard, steered)
    page.wait_for_selector(".lm-asks", timeout=120_000)
    proposal = page.get_attribute(".lm-asks", "data-proposal")
    page.click(".lm-asks button[data-action=rehearse]")
    page.wait_for_selector(".lm-rehearsal:not([hidden])", timeout=90_000)
    assert page.is_disabled(".lm-asks button[data-action=rehearse]"), "one at a time"
    page.wait_for_selector(".lm-rehearsal .lm-verdict", timeout=240_000)
    until(lambda: "finished" in page.inner_text(".lm-rehearsal header"), 120)
    without, changed = page.evaluate(REHEARSED)
    assert (without["name"], changed["name"]) == ("without", "with")
    assert without["x"] == changed["x"], "the same steps"
    assert without["y"] != changed["y"]
    told = page.inner_text(".lm-rehearsal .lm-verdict")
    assert f"over {len(changed['x'])} steps" in told
    assert told in page.inner_text(".lm-asks .lm-rehearsed"), "and beside the question that it answers"
    assert [one["id"] for one in steered.proposals("open")] == [proposal], "trying it out has decided nothing"
    page.click(".lm-rehearsal button[data-action=discard_rehearsal]")
    page.wait_for_selector(".lm-rehearsal", state="hidden")


def test_the_branch_that_a_rewind_left_is_drawn(open_page: Callable[..., Any], dashboard: Server, steered: Run) -> None:
    page = shown(open_page, dashboard, steered)
    until(lambda: steered.status()["step"] >= 40, 90)
    steered.intervene("adjust_routing_temperature", temperature=2.0).wait(check=True)
    at = steered.status()["step"]
    until(lambda: steered.status()["step"] >= at + 15, 90)
    receipt = steered.intervene("rollback_steps", num_steps=12).wait(check=True)
    left, back = receipt["after"]["from_step"], receipt["after"]["step"]
    branch = until(lambda: trace(page, f"left at {left}, back to {back}"), 60)
    assert (min(branch["x"]), max(branch["x"])) == (back + 1, left)
    until(lambda: {"x": left, "text": f"left at step {left}"} in page.evaluate(NOTES))
    until(lambda: max(trace(page, "train")["x"]) > left, 90)  # type: ignore[index]
    again = trace(page, f"left at {left}")
    assert again is not None
    assert again["x"] == branch["x"], "it stays, and does not grow"


def test_a_replay_without_an_intervention_is_laid_over_the_loss(
    open_page: Callable[..., Any], dashboard: Server, steered: Run
) -> None:
    receipt = steered.intervene("emergency_lr_reduction", reduction_factor=10.0).wait(check=True)
    at = receipt["step"]
    until(lambda: steered.status()["step"] >= at + 25, 90)
    steered.stop().wait(check=True)
    steered.wait(60)
    child = steered.replay(without=receipt["id"])
    page = shown(open_page, dashboard, steered)
    page.wait_for_selector(".lm-compare:not([hidden])", timeout=60_000)
    label = f"without emergency_lr_reduction at {at}"
    until(lambda: label in page.locator(".lm-compare option").all_inner_texts())
    page.select_option(".lm-compare", label=label)
    until(lambda: not is_locked(child.paths), 240)
    last = steered.status()["step"]
    page.click(".lm-choice button[data-group=smooth][data-value='']")
    over = until(lambda: (one := trace(page, child.name)) and max(one["x"]) == last and one, 60)
    own = trace(page, "train")
    assert own is not None
    before = {step: value for step, value in zip(own["x"], own["y"], strict=True) if step <= at}
    same = {step: value for step, value in zip(over["x"], over["y"], strict=True) if step <= at}
    assert same == before, "until then it is the same run"
    assert over["y"][-1] != own["y"][-1]
    page.select_option(".lm-compare", value="")
    until(lambda: trace(page, child.name) is None)
