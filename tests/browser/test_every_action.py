"""Every intervention of the catalogue, filled in and sent through the dashboard's form, on one live run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import until

from lumina import views
from lumina.client import Run
from lumina.interventions.catalogue import ACTIONS

from .conftest import Server, start
from .test_dashboard import open_run

pytestmark = pytest.mark.browser

FILLED: dict[str, dict[str, str]] = {
    "adjust_routing_temperature": {"temperature": "1.2"},
    "adjust_capacity_factor": {"factor": "1.5"},
    "adjust_load_balancing_weight": {"weight": "0.02"},
    "enable_expert_dropout": {"dropout_prob": "0.05"},
    "adjust_mod_capacity": {"capacity_factor": "0.6"},
    "adjust_mod_schedule": {"warmup_steps": "5", "anneal_steps": "10", "target": "0.7"},
    "add_expert": {"layer_idx": "1"},
    "prune_expert": {"layer_idx": "0", "expert_idx": "2"},
    "adjust_batch_size": {"new_batch_size": "1"},
    "adjust_difficulty_sampling": {"strength": "0.1"},
    "adjust_weight_decay": {"weight_decay": "0.05"},
    "adjust_gradient_clip": {"max_norm": "0.8"},
    "adjust_learning_rate": {"factor": "0.9"},
    "emergency_lr_reduction": {"reduction_factor": "10"},
    "skip_data_range": {"sequences": "8"},
    "adjust_training_length": {"total_steps": "90000"},
    "checkpoint": {},
    "set_autonomy": {"level": "1"},
    "rollback_steps": {"num_steps": "1"},
    "pause": {},
    "early_stop": {},
}


def test_every_action_through_the_form(open_page: Callable[..., Any], dashboard: Server, runs: Path) -> None:
    assert set(FILLED) == set(ACTIONS)
    run = start(runs, "every", **{"data.difficulty_sampling": 0.3})
    page = open_run(open_page, dashboard, run)
    page.click("#lm-manual >> text=Trigger an intervention by hand")
    for method, args in FILLED.items():
        page.click("#lm-method input")
        page.locator("#lm-method [role=option]").filter(has_text=method).first.click()
        for name, value in args.items():
            page.locator(f"#lm-arg-{method}-{name}").locator("input, textarea").first.fill(value)
        page.click(f"#lm-trigger-{method}")
        receipt = until(lambda method=method: newest(run, method), 60)
        assert receipt["state"] == "verified", receipt
        assert receipt["author"]["via"] == "dashboard"
        if method not in ("pause", "early_stop"):
            at = run.status()["step"]
            until(lambda at=at: run.status()["step"] > at + 1, 60)
        elif method == "pause":
            until(lambda: run.status()["state"] == "paused")
            run.unpause().wait(check=True)
    assert run.wait(60) == "stopped"
    until(lambda: "early_stop" in page.inner_text(".lm-receipts"))


def newest(run: Run, method: str) -> dict[str, Any] | None:
    """What became of the last one that was sent, once it was answered."""
    found = [receipt for receipt in views.receipts(run.paths, 50) if receipt.get("method") == method]
    return found[0] if found and found[0]["state"] != "queued" else None
