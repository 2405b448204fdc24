from __future__ import annotations

import json

import numpy as np
import pytest
from test_cells import SMALL

from lumina.gym import traces
from lumina.gym.plan import Cell
from lumina.gym.scenario import Fault


@pytest.fixture(scope="module")
def trace() -> traces.Trace:
    return traces.record(Cell("test", SMALL, 50, Fault("nan", 35, steps=2), "clip", 1))


def test_a_trace_read_back_is_the_trace_that_was_saved_and_small(trace, tmp_path):
    path = tmp_path / "one.npz"
    traces.save(trace, path)
    first = path.read_bytes()
    again = traces.load(path)
    traces.save(again, path)
    assert path.read_bytes() == first
    assert len(first) < 40_000
    assert again.facts == trace.facts
    assert json.dumps(again.about) == json.dumps(trace.about)
    for kept, read in zip(trace.steps(), again.steps(), strict=True):
        assert kept[1].keys() == read[1].keys()
        np.testing.assert_allclose(list(kept[1].values()), list(read[1].values()), rtol=1e-4)


def test_an_orchestrator_that_is_shown_a_trace_sees_what_happened_in_the_run(trace, tmp_path):
    traces.save(trace, tmp_path / "one.npz")
    heard = traces.replay(traces.load(tmp_path / "one.npz"))
    assert [said.step for said in heard if said.cause == "non_finite"] == [40]


def test_a_trace_of_another_format_is_refused(trace, tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "FORMAT", 99)
    traces.save(trace, tmp_path / "one.npz")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format 99"):
        traces.load(tmp_path / "one.npz")
