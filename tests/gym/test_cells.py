"""Live cells: the real trainer on the smallest model, with each kind of fault, in seconds."""

from __future__ import annotations

from typing import Any

import pytest

from lumina.gym import course
from lumina.gym.cell import run_cell
from lumina.gym.methods import METHODS, ZClip
from lumina.gym.plan import Cell
from lumina.gym.scenario import Fault

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "model.max_position_embeddings": 32,
    "num_experts": 4,
    "batch_size": 4,
    "corpus_documents": 60,
    "eval_interval": 10,
    "eval_sequences": 4,
    "check_interval": 10,
}


def trained(fault: Fault | None = None, method: str = "none", steps: int = 12, **settings: Any) -> dict[str, Any]:
    found = run_cell(Cell("test", {**SMALL, **settings}, steps, fault, method, 1))
    assert found["status"] == "finished"
    return found


def test_a_cell_is_the_same_run_every_time():
    fault = Fault("noise", 5, 1.0, 3)
    first, second = trained(fault, "auto"), trained(fault, "auto")
    del first["seconds"], second["seconds"]
    assert first == second


def test_a_fault_leaves_the_steps_before_it_alone():
    whole, broken = trained(method="clip", steps=20), trained(Fault("learning_rate", 15, 100.0), "clip", 20)
    assert whole["val_losses"][0] == broken["val_losses"][0]
    assert whole["val_losses"][1] != broken["val_losses"][1]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("learning_rate", 5, 30.0),
        Fault("gradient", 5, 1e5),
        Fault("nan", 5, steps=2),
        Fault("noise", 5, 1.0, 4),
        Fault("router_bias", 5, 8.0),
        Fault("capacity_factor", 5, 0.05),
    ],
    ids=lambda fault: fault.kind,
)
def test_each_fault_changes_what_is_learned(fault):
    assert trained(fault)["final_val_loss"] != trained()["final_val_loss"]


def test_a_lower_share_of_tokens_changes_what_is_learned():
    depth = {"use_mod": True, "mod_capacity_factor": 0.5}
    assert (
        trained(Fault("mod_capacity_factor", 5, 0.05), **depth)["final_val_loss"] != trained(**depth)["final_val_loss"]
    )


def test_a_slow_loader_costs_time_and_no_learning():
    slow, usual = trained(Fault("slow_loader", 3, 0.05)), trained()
    assert slow["final_val_loss"] == usual["final_val_loss"]
    assert slow["seconds"] >= 10 * 0.05


def test_a_nan_batch_is_seen_by_the_health_check():
    codes = {issue["code"] for issue in trained(Fault("nan", 5, steps=2), "auto", 20)["issues"]}
    assert "non_finite" in codes


def test_a_run_that_breaks_down_is_a_result_and_scored_by_what_it_leaves(monkeypatch):
    from lumina.engine.torch_engine import TorchEngine

    real = TorchEngine.train_step

    def breaks(self, step, *args):
        if step == 8:
            raise RuntimeError("the disk is gone")
        return real(self, step, *args)

    monkeypatch.setattr(TorchEngine, "train_step", breaks)
    found = run_cell(Cell("test", SMALL, 12, None, "none", 1))
    assert found["status"] == "failed: RuntimeError: the disk is gone"
    assert found["final_val_loss"] is not None


def test_nothing_is_clipped_where_nothing_is_done_and_much_where_a_batch_is_poisoned():
    fault = Fault("gradient", 5, 1e5)
    healthy = trained(method="clip", steps=40)["final_val_loss"]
    harm = {name: trained(fault, name, 40)["final_val_loss"] - healthy for name in ("none", "clip", "zclip")}
    assert harm["none"] > 3 * max(harm["clip"], harm["zclip"])


def test_the_rate_follows_a_validation_loss_that_does_not_improve():
    found = trained(Fault("learning_rate", 5, 1e-9), "plateau", 60)
    assert found["acts"]
    assert {entry["method"] for entry in found["applied"]} == {"emergency_lr_reduction"}
    assert found["applied"][0]["after"]["lr_scale"] == pytest.approx(0.1)


def test_zclip_scales_an_outlier_to_less_the_farther_out_it_is():
    clip = ZClip()
    norms = [1.0, 1.2] * 13
    assert [clip.limit(norm) for norm in norms] == norms
    mean, deviation = clip._mean, clip._variance**0.5
    z = (2.0 - mean) / (deviation + clip.EPSILON)
    assert z > 2.5
    assert clip.limit(2.0) == pytest.approx(mean + 2.5**2 * deviation / z)
    assert mean < clip.limit(1000.0) < mean + 2.5 * clip._variance**0.5


def test_finished_cells_are_kept_and_only_the_rest_is_trained(tmp_path, monkeypatch):
    wanted = [Cell("test", SMALL, 5, None, method, 1) for method in ("none", "clip", "auto")]
    told: list[str] = []
    shelf = course.Shelf(tmp_path)
    first = course.run(wanted[:2], shelf, jobs=1, tell=lambda progress: told.append(progress.newest))
    again = course.run(wanted, shelf, jobs=1, tell=lambda progress: told.append(progress.newest))
    assert again[wanted[0].key] == first[wanted[0].key] | {"code": again[wanted[0].key]["code"]}
    assert len(told) == 3
    course.run(wanted, shelf, jobs=1, fresh=True, tell=lambda progress: told.append(progress.newest))
    assert len(told) == 6


def test_a_run_that_broke_down_is_tried_again(tmp_path):
    shelf, cell = course.Shelf(tmp_path), Cell("test", SMALL, 3, None, "clip", 1)
    shelf.put(cell, {"status": "failed: OSError: no space left on device"})
    assert shelf.get(cell) is None


def test_what_the_orchestrator_did_is_trained_again_once_it_is_another_one(tmp_path):
    auto, clip = (Cell("test", SMALL, 3, None, method, 1) for method in ("auto", "clip"))
    shelf = course.Shelf(tmp_path)
    shelf.put(auto, {"status": "finished"})
    shelf.put(clip, {"status": "finished"})
    shelf._code = "another"
    assert shelf.get(auto) is None
    assert shelf.get(clip) is not None


def test_every_method_trains_a_healthy_run_to_its_end():
    assert {name: trained(method=name)["attempted_steps"] for name in METHODS} == dict.fromkeys(METHODS, 12)


def test_a_run_that_gets_short_of_memory_goes_on_in_smaller_parts():
    found = trained(Fault("oom", 5, 2), steps=12)
    (split,) = [done for done in found["applied"] if done["cause"] == "oom_split"]
    assert split["step"] == 5
    assert found["final_val_loss"] == pytest.approx(trained()["final_val_loss"], rel=0.05)
