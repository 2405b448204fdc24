"""The table for GPUs tells what failed in its row, and counts shares by what each row computes."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu")


def step(subject: str, rate: float, **more: Any) -> dict[str, Any]:
    return {"subject": subject, "tokens_per_second": rate, "seconds": 0.5, "peak_bytes": 6e10, "micro_batch": 8, **more}


def test_shares_follow_from_what_each_row_computes(gpu: ModuleType) -> None:
    product = {"subject": "product", "flops_per_second": 8e14}
    rows = gpu.completed(
        [product, step("Lumina", 50_000.0, flops_per_token=8e9), step("Mixtral", 25_000.0),
         step("half", 50_000.0, flops_per_token=4e9)], 1e15
    )  # fmt: skip
    assert [(row["mfu"], row["of_product_rate"]) for row in rows[1:]] == [(0.4, 0.5), (0.2, 0.25), (0.2, 0.25)]
    entry = {"machine": "a machine", "peak": 1e15, "tokens": 32768, "rows": rows}
    table = gpu.table("a card", entry)
    assert "| Mixtral | 25,000 | 500 | 20.0% | 25.0% | 60.0 | 8 |" in table
    assert "peak not known" in gpu.table("a card", {**entry, "peak": None, "rows": gpu.completed(rows[:1], None)})


def test_waits_that_grow_with_layers_are_told(gpu: ModuleType) -> None:
    row = {"subject": "waits", "layers": [4, 8], "waits": [{"cudaStreamSynchronize": 2}, {"cudaStreamSynchronize": 6}],
           "warned": [{}, {"moe.py:7": 4}], "grows": True}  # fmt: skip
    assert gpu.told(row).startswith("grows with layers (4 layers: cudaStreamSynchronize 2; 8 layers:")
    assert "does not grow" in gpu.told({**row, "grows": False})


def test_a_part_that_fails_or_is_not_reached_has_its_row(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: str, size: Any) -> dict[str, Any]:
        raise RuntimeError

    options, part = argparse.Namespace(device="cpu", size="tiny"), gpu.Part("a part", broken, limit=60.0)
    assert gpu.run(0, part, options, 10.0)["error"] == "not reached: time was up"
    monkeypatch.setattr(gpu, "__file__", str(BENCHMARKS / "no such file.py"))
    failed = gpu.run(0, part, options, 60.0)
    assert failed["error"].startswith("status 2: ")
    assert "no such file.py" in gpu.told(failed)
    slow = gpu.Part("a part", broken, limit=0.01)
    assert gpu.run(0, slow, options, 60.0)["error"].startswith("not done after")


def test_what_another_machine_measured_is_taken_into_the_page(gpu: ModuleType, tmp_path: Path) -> None:
    kept = gpu.Section("a script", "About it.\n", tmp_path / "kept.json", lambda name, entry: f"{name}: {entry['n']}",
                       tmp_path / "page.md")  # fmt: skip
    (tmp_path / "page.md").write_text("# Page\n\n## After\n", encoding="utf-8")
    kept.keep("one", {"n": 1})
    kept.keep("two", {"n": 2})
    kept.keep("one", {"n": 3})
    assert json.loads((tmp_path / "kept.json").read_text(encoding="utf-8")) == {"one": {"n": 3}, "two": {"n": 2}}
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page.startswith("# Page\n\n## After\n<!-- a script -->\nAbout it.\n")
    assert page.count("one: 3") == page.count("two: 2") == page.count("<!-- end of a script -->") == 1
