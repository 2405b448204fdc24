from __future__ import annotations

from typing import Any

from lumina.gym.prior import prior_of


def cell(seed: int, *proposals: tuple[str, float, str | None], method: str = "auto") -> dict[str, Any]:
    told = [{"cause": cause, "raw": raw, "effect": effect} for cause, raw, effect in proposals]
    return {"cell": {"method": method, "seed": seed}, "proposals": told}


def test_the_prior_counts_verdicts_of_tuning_seeds_by_detector_and_confidence():
    found = prior_of(
        [
            cell(1, ("divergence", 0.95, "helped"), ("divergence", 0.92, "neutral"), ("plateau", 0.8, "hurt")),
            cell(2, ("divergence", 0.8, "helped"), ("divergence", 0.95, "inconclusive"), ("plateau", 0.8, None)),
            cell(11, ("divergence", 0.95, "hurt")),
            cell(1, ("divergence", 0.95, "hurt"), method="clip"),
        ],
        (1, 2),
        "lumina gym",
    )
    assert found["detectors"] == {
        "divergence": [{"from": 0.75, "count": 1, "worth": 1.0}, {"from": 0.9, "count": 2, "worth": 1.5}],
        "plateau": [{"from": 0.75, "count": 1, "worth": 0.0}],
    }
    assert "2 runs" in found["provenance"]


def test_calibration_reads_what_the_gym_writes(tmp_path, monkeypatch):
    import json

    from lumina.orchestrator import calibration

    (tmp_path / "prior.json").write_text(json.dumps(prior_of([cell(1, ("plateau", 0.8, "hurt"))], (1,), "x")))
    monkeypatch.setattr(calibration.resources, "files", lambda _: tmp_path)
    calibration.shipped_prior.cache_clear()
    assert calibration.shipped_prior() == {("plateau", 2): calibration.Share(1, 0.0)}
    monkeypatch.undo()
    calibration.shipped_prior.cache_clear()
