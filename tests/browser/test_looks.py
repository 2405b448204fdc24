"""What meets the eye: nothing lies on something else, a curve runs through its points, an ended run asks nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import RUN, until

import lumina

from .conftest import Server

pytestmark = pytest.mark.browser

SERIES = "import('/lumina/static/series.js')"


@pytest.fixture(scope="module")
def ended(runs: Path) -> str:
    """A run that ended with a question that nobody answered, and with two verdicts near each other."""
    with lumina.Trainer("debug", name="ended", steps=140, directory=runs, **RUN) as trainer:
        trainer.train(until=60)
        trainer.adjust_routing_temperature(1.2)
        trainer.train(until=70)
        trainer.adjust_routing_temperature(1.0)
        trainer.train(until=140)
        about = {"method": "adjust_routing_temperature", "args": {"temperature": 2.0}, "cause": "router_collapse"}
        doc = {**about, "evidence": {"summary": "asked"}, "confidence": 0.9, "state": "open", "course": "ask"}
        trainer._session.commit("proposal", "a" * 32, {**doc, "id": "a" * 32, "step": 140, "expires_step": 900})
    return "ended"


def shown(open_page: Callable[..., Any], server: Server, run: str, width: int = 1400) -> Any:
    page = open_page(f"{server.url}&run={run}")
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_selector("#lm-loss-chart .main-svg")
    return page


def test_an_ended_run_asks_nothing_and_has_no_time_left(
    open_page: Callable[..., Any], dashboard: Server, ended: str
) -> None:
    page = shown(open_page, dashboard, ended)
    assert "nothing waits for a decision" in page.inner_text(".lm-panel-approval")
    assert page.locator(".lm-asks").count() == 0
    assert page.inner_text(".lm-notice .lm-command").endswith("--steps 280"), (
        "the new total, so beyond the step reached"
    )
    left = page.locator(".lm-budget dt", has_text="Left").locator("xpath=following-sibling::dd[1]")
    assert left.inner_text() == "–"


@pytest.mark.parametrize("width", [390, 800, 1000, 1400])
def test_nothing_in_the_header_lies_on_something_else(
    open_page: Callable[..., Any], dashboard: Server, ended: str, width: int
) -> None:
    page = shown(open_page, dashboard, ended, width)
    parts = page.locator("#lm-brand, #lm-run, .lm-pill, #lm-pause, #lm-checkpoint, #lm-stop")
    boxes = [box for box in (part.bounding_box() for part in parts.all()) if box]
    assert len(boxes) >= 7
    for i, one in enumerate(boxes):
        assert one["x"] + one["width"] <= width
        for other in boxes[i + 1 :]:
            beside = one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
            beneath = one["y"] + one["height"] <= other["y"] or other["y"] + other["height"] <= one["y"]
            assert beside or beneath, (one, other)


@pytest.mark.parametrize(("width", "first"), [(800, "side"), (1000, "main")])
def test_in_one_column_decisions_come_before_charts(
    open_page: Callable[..., Any], dashboard: Server, ended: str, width: int, first: str
) -> None:
    page = shown(open_page, dashboard, ended, width)
    side, loss = (page.locator(place).bounding_box() for place in ("#lm-side", "#lm-loss-chart"))
    assert (side["y"] < loss["y"] and side["x"] < loss["x"]) == (first == "side")


@pytest.mark.parametrize("width", [390, 1400])
def test_verdicts_near_each_other_can_be_read(
    open_page: Callable[..., Any], dashboard: Server, ended: str, width: int
) -> None:
    page = shown(open_page, dashboard, ended, width)
    words = page.locator("#lm-loss-chart .annotation-text")
    first, second = until(lambda: [box for word in words.all() if (box := word.bounding_box())][:2])
    assert first["y"] + first["height"] <= second["y"] or first["x"] + first["width"] <= second["x"]


def test_a_smooth_curve_follows_a_loss_that_falls_fast(
    open_page: Callable[..., Any], dashboard: Server, ended: str
) -> None:
    """Without noise there is nothing to smooth: not a tenth beside the points, from the 50th of 6,000 steps on."""
    page = shown(open_page, dashboard, ended)
    off = page.evaluate(f"""async () => {{
        const {{ smooth, horizonOf }} = await {SERIES};
        const step = Array.from({{ length: 6000 }}, (_, i) => i + 1);
        const loss = {{ step, value: step.map((at) => 2.5 + 4 * at ** -0.5) }};
        return Math.max(...smooth(loss, horizonOf(loss)).slice(50).map((mean, i) => mean / loss.value[i + 50] - 1));
    }}""")
    assert 0 < off < 0.1


def test_what_came_after_the_thinned_part_is_thinned_alike(
    open_page: Callable[..., Any], dashboard: Server, ended: str
) -> None:
    page = shown(open_page, dashboard, ended)
    step, value = page.evaluate(f"""async () => {{
        const {{ evenly }} = await {SERIES};
        const found = evenly({{ step: [4, 8, 12, 16, 17, 18, 19, 20, 21], value: [1, 2, 3, 4, 1, 2, null, 3, 9] }});
        const same = evenly({{ step: [1, 2, 3, 4], value: [1, 2, 3, 4] }});
        if (same.step.length !== 4) throw new Error("nothing to thin");
        return [found.step, found.value];
    }}""")
    assert step == [4, 8, 12, 19, 21]
    assert value == [1, 2, 3, pytest.approx(7 / 3), 6]
