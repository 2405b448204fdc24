from __future__ import annotations

from pathlib import Path
from typing import Any

TINY = """\
about: The rate is far too high.
expects: [divergence]
steps: 12
settings: {hidden_size: 16, intermediate_size: 16, num_experts: 4, batch_size: 2, corpus_documents: 60}
fault: {kind: learning_rate, at: 5, value: 30}
"""


def test_the_scenarios_are_listed(lumina: Any) -> None:
    names = [scenario["name"] for scenario in lumina("gym", "--list", "--json").document]
    assert {"lr_jump", "oom", "healthy_base"} <= set(names)
    assert "lr_jump" in lumina("gym", "--list", "--scenario", "lr_jump").out


def test_a_scenario_of_ones_own_is_scored(lumina: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TINY)
    words = ["gym", "--scenarios-dir", str(tmp_path), "--seeds", "11,12", "--methods", "none,clip", "--jobs", "1"]
    found = lumina(*words, "--out", str(tmp_path / "out"), "--json").document
    assert [row["method"] for row in found["rows"]] == ["none", "clip"]
    assert all(row["missing"] == 0 and not row["failed"] for row in found["rows"])
    assert len(list((tmp_path / "out" / "cells").glob("*.json"))) == 2 + 2 + 4


def test_what_is_asked_wrongly_is_said(lumina: Any, tmp_path: Path) -> None:
    assert "methods: none" in asked_wrongly(lumina("gym", "--methods", "autp"))
    assert "--seeds 'x'" in asked_wrongly(lumina("gym", "--seeds", "x"))
    assert f"no scenario, a file NAME.yaml, in this folder ({tmp_path})" in asked_wrongly(
        lumina("gym", "--scenarios-dir", str(tmp_path), "--list")
    )
    assert "did you mean lr_jump" in asked_wrongly(lumina("gym", "--scenario", "lr_jmp"))


def asked_wrongly(answer: Any) -> str:
    assert answer.code == 2
    assert answer.out == ""
    return str(answer.err)
