"""Compiling changes nothing but speed, and where it cannot work it is refused with the reason."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from small import SHAPE
from small_models import VOCAB, batch, engine
from torch._dynamo.backends.common import aot_autograd

from lumina.checkpoint import state_hash
from lumina.config import ConfigError, load_config
from lumina.engine.kernels import refuse_what_cannot_be_compiled
from lumina.engine.torch_engine import TorchEngine
from lumina.hardware import Hardware, check_demands, choose_precision, compile_problem
from lumina.model import Transformer
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
    monkeypatch.setattr("lumina.engine.kernels.compile_problem", lambda hardware: None)
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


@pytest.mark.filterwarnings("ignore")
def test_what_is_compiled_multiplies_by_pytorchs_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's compiler takes oneDNN's product of float32 only where the weights are constants, and fails else."""
    monkeypatch.setattr("lumina.model.matmul._onednn_is_faster", lambda: True)
    products: set[str] = set()

    def noted(graph: torch.fx.GraphModule, _: object) -> object:
        products.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    torch.compiler.reset()
    config = load_config("debug", {**SHAPE, "use_moe": False, "use_mod": False})
    built = Transformer(config, VOCAB).train()
    feed = torch.compile(built.layers[0]._feed_dense, backend=aot_autograd(fw_compiler=noted))
    feed(torch.randn(2, 8, config.model.hidden_size)).sum().backward()
    assert "aten.mm.default" in products
    assert not [name for name in products if "mkldnn" in name]


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


# CUDA graphs


class Recorded:
    """What is compiled in which mode, and when a forward pass begins."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.modes: list[tuple[str, str | None]] = []
        self.begun = 0
        patch.setattr(torch, "compile", self.compile)
        patch.setattr(torch.nn.Module, "compile", lambda module, **options: self.compile(type(module), **options))
        patch.setattr(torch.compiler, "cudagraph_mark_step_begin", self.begin)
        for problem in ("compile_problem", "graphs_problem"):
            patch.setattr(f"lumina.engine.kernels.{problem}", lambda hardware: None)

    def compile(self, function: Any, mode: str | None = None) -> Any:
        self.modes.append((function.__name__, mode))
        return function

    def begin(self) -> None:
        self.begun += 1


PLAIN = {"compile": True, "cuda_graphs": True, "document_boundaries": False}
GRAPH = "reduce-overhead"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"use_moe": False, "use_mod": False}, [("_attend", GRAPH), ("_feed_dense", GRAPH)] * 2),
        (
            {"use_moe": False, "use_mod": False, "document_boundaries": True},
            [("_attend", None), ("_feed_dense", GRAPH)] * 2,
        ),
        (
            {"num_shared_experts": 1, "mod_start_layer": 1},
            [(name, mode) for mode in (GRAPH, None) for name in ("_attend", "_feed_dense", "SwiGLU")],
        ),
    ],
    ids=["dense", "documents", "depth in the second layer"],
)
def test_what_keeps_its_shapes_is_recorded(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], wanted: list[tuple[str, str | None]]
) -> None:
    recorded = Recorded(monkeypatch)
    engine(**{**PLAIN, **changes})
    assert recorded.modes == wanted


def test_graphs_begin_with_every_micro_batch_and_never_own_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)
    plain = engine(use_mod=False, document_boundaries=False)
    fast = engine(use_mod=False, **PLAIN)
    owned: list[int] = []
    backward = fast._backward
    monkeypatch.setattr(
        fast,
        "_backward",
        lambda loss: (owned.append(sum(p.grad is None for p in fast.model.parameters())), backward(loss)),
    )
    for step in (1, 2):
        given = [batch(step), batch(step + 10)]
        assert fast.train_step(step, given, 1e-3).loss == plain.train_step(step, given, 1e-3).loss
    fast.eval_step(batch(3))
    assert owned == [0] * 4
    assert recorded.begun == 2 * 2 + 1
    assert state_hash(fast.export_state()) == state_hash(plain.export_state())


def test_graphs_are_refused_by_name_where_they_cannot_be() -> None:
    for changes, why in (
        ({"compile": False}, "records what optimization.compile = true compiles"),
        ({"gradient_checkpointing": True}, "cannot record what optimization.gradient_checkpointing computes again"),
        ({"use_mod": True, "mod_start_layer": 0}, "each has MoD"),
        ({"use_mod": False, "document_boundaries": True}, r"use data\.document_boundaries = false"),
    ):
        with pytest.raises(ConfigError, match=why):
            load_config("debug", {**SHAPE, "use_mod": False, **PLAIN, **changes})
    config = load_config("debug", {**SHAPE, "use_mod": False, **PLAIN})
    with pytest.raises(Refusal, match=r"optimization\.cuda_graphs = true: cpu has no CUDA graphs; use false"):
        check_demands(config, CPU)
    with pytest.raises(Refusal, match=r"cpu has no CUDA graphs") as refused:
        refuse_what_cannot_be_compiled(config, CPU)
    assert refused.value.code == "unsupported"
