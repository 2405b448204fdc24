"""Compiling changes nothing but speed, and where it cannot work it is refused with the reason."""

from __future__ import annotations

import functools

import pytest
import torch
from small import SHAPE
from small_models import VOCAB, batch, engine

from lumina.config import load_config
from lumina.engine.torch_engine import TorchEngine
from lumina.hardware import Hardware, choose_precision, compile_problem
from lumina.store.errors import Refusal

CPU = Hardware("cpu", "Example CPU", None, False, 2, 2**34)
MPS = Hardware("mps", "Apple arm64", None, False, 8, 2**34)


@pytest.mark.filterwarnings("ignore")  # torch's own compiler warns about its own code
@pytest.mark.parametrize("family", [{"use_moe": False, "use_mod": False}, {"num_shared_experts": 1}])
def test_a_compiled_model_trains_and_validates_the_same(
    monkeypatch: pytest.MonkeyPatch, family: dict[str, object]
) -> None:
    # The whole path but the code generator, whose C++ compiler takes half a minute.
    compiled: list[str] = []
    real = functools.partial(torch.compile, backend="aot_eager")

    def noted(function):
        compiled.append(function.__name__)
        return real(function)

    monkeypatch.setattr(torch, "compile", noted)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)
    monkeypatch.setattr("lumina.engine.torch_engine.compile_problem", lambda hardware: None)
    plain, fast = engine(**family), engine(**family, compile=True)
    assert compiled == ["_attend", "_feed_dense"] * 2
    for step in range(1, 4):
        a, b = (one.train_step(step, [batch(step)], 1e-3) for one in (plain, fast))
        assert b.loss == pytest.approx(a.loss, rel=1e-5)
        assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-4)
    assert fast.eval_step(batch(9)).loss_sum == pytest.approx(plain.eval_step(batch(9)).loss_sum, rel=1e-4)
    assert list(fast.export_state().params) == list(plain.export_state().params), "checkpoints do not tell"
    fast.restore_state(plain.export_state())
    assert len(compiled) == 8, "a rebuilt model is compiled again"


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    config = load_config("debug", {**SHAPE, "compile": True})
    with pytest.raises(Refusal, match="needs a C\\+\\+ compiler on a CPU, and there is no g\\+\\+") as refused:
        TorchEngine(config, VOCAB, CPU, choose_precision("fp32", CPU))
    assert refused.value.code == "unsupported"


def test_apple_gpus_are_refused_and_a_named_compiler_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compile_problem(MPS) == "torch.compile is not supported on Apple's MPS"
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "my-c++" else None)
    monkeypatch.setenv("CXX", "my-c++")
    assert compile_problem(CPU) is None
    monkeypatch.setenv("CXX", "other")
    assert "there is no other" in (compile_problem(CPU) or "")
