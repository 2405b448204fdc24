"""What is timed: one optimizer step of Lumina, of a plain Hugging Face model, or a matrix product, each in a process
of its own. It knows nothing of the others; `step.py` says who takes turns with whom.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

FOLDER = tempfile.TemporaryDirectory(prefix="lumina-bench-")  # gone when this process ends
Step = Callable[[int], dict[str, float]]  # step number -> {"loss": ...}


def main() -> None:
    """Serves steps on request: a line in, a line of JSON out."""
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    step = KINDS[spec["kind"]](spec)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for number, _ in enumerate(sys.stdin, start=1):
        started, worked = time.perf_counter(), time.process_time()
        result = step(number)
        result["seconds"] = time.perf_counter() - started
        result["cpu_seconds"] = time.process_time() - worked
        result["peak_bytes"] = 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(result), file=answers, flush=True)
    FOLDER.cleanup()
    os._exit(0)  # a trainer that nobody closed has threads that wait for its end


def batch(spec: dict[str, Any], number: int) -> np.ndarray[Any, Any]:
    """Tokens [sequences, length + 1], the same for every subject."""
    shape = (spec["sequences"], spec["length"] + 1)
    return np.random.default_rng(number).integers(0, spec["vocab"], shape)


def engine(spec: dict[str, Any]) -> Step:
    """Lumina's engine on random tokens."""
    from lumina.config import load_config
    from lumina.engine.api import MicroBatch
    from lumina.engine.torch_engine import TorchEngine
    from lumina.hardware import choose_precision, detect

    hardware = detect()
    config = load_config("debug", {**spec["config"], "num_threads": spec["threads"]})
    made = TorchEngine(config, spec["vocab"], hardware, choose_precision(spec["precision"], hardware))
    made.telemetry = spec.get("telemetry", True)

    def step(number: int) -> dict[str, float]:
        tokens = batch(spec, number)
        return {"loss": made.train_step(number, [MicroBatch(tokens[:, :-1], tokens[:, 1:])], 3e-4).loss}

    return step


def trainer(spec: dict[str, Any]) -> Step:
    """Lumina's whole trainer on the built-in corpus: loading, statistics, series, store, orchestrator."""
    import lumina

    run = lumina.Trainer("debug", name="bench", steps=10**6, directory=FOLDER.name, eval_interval=10**6,
                         save_every_n_batches=10**6, num_threads=spec["threads"], **spec["config"])  # fmt: skip

    def step(number: int) -> dict[str, float]:
        run.train(until=number)
        return {"loss": float(run.get_current_metrics()["loss"])}

    return step


def engine_of_trainer(spec: dict[str, Any]) -> Step:
    """The same model, data and schedule as `trainer`, and nothing but the step: no statistics, no store."""
    import lumina
    from lumina.engine.api import MicroBatch

    run = lumina.Trainer("debug", name="bench", steps=10**6, directory=FOLDER.name, num_threads=spec["threads"],
                         **spec["config"])  # fmt: skip
    session = run._session
    session.engine.telemetry = False  # type: ignore[attr-defined]
    size = session.config.training.batch_size

    def step(number: int) -> dict[str, float]:
        found = session.loader.batch((number - 1) * size, size)
        rate = session.plan.learning_rate(number)
        return {
            "loss": session.engine.train_step(
                number, [MicroBatch(found.tokens, found.labels, found.documents)], rate
            ).loss
        }

    return step


def mixtral(spec: dict[str, Any]) -> Step:
    """Hugging Face's Mixtral with its auxiliary loss, gradient clipping and AdamW."""
    from transformers import MixtralConfig, MixtralForCausalLM

    shape = spec["config"]
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=spec["vocab"],
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_heads"],
        num_key_value_heads=shape["num_kv_heads"],
        num_local_experts=shape["num_experts"],
        num_experts_per_tok=shape["moe_top_k"],
        max_position_embeddings=spec["length"],
        router_aux_loss_coef=0.01,
        output_router_logits=True,
        use_cache=False,
    )
    model = MixtralForCausalLM(config)
    if spec.get("experts"):
        model.set_experts_implementation(spec["experts"])
    # Hugging Face shifts the labels itself: one token fewer is predicted than in Lumina's batch.
    return _peer(spec, model, lambda tokens: model(tokens[:, :-1], labels=tokens[:, :-1]).loss)


def litgpt(spec: dict[str, Any]) -> Step:
    """litgpt's mixture of experts, as its own pretraining trains it; it has no auxiliary loss."""
    from litgpt import GPT
    from litgpt import Config as Shape
    from litgpt.utils import chunked_cross_entropy

    shape = spec["config"]
    torch.manual_seed(0)
    config = Shape(
        block_size=spec["length"],
        padded_vocab_size=spec["vocab"],
        n_layer=shape["num_layers"],
        n_embd=shape["hidden_size"],
        n_head=shape["num_heads"],
        n_query_groups=shape["num_kv_heads"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMoE",
        intermediate_size=shape["intermediate_size"],
        n_expert=shape["num_experts"],
        n_expert_per_token=shape["moe_top_k"],
    )
    model = GPT(config)
    return _peer(spec, model, lambda tokens: chunked_cross_entropy(model(tokens[:, :-1]), tokens[:, 1:], chunk_size=0))


def _peer(spec: dict[str, Any], model: torch.nn.Module, loss_of: Callable[[torch.Tensor], torch.Tensor]) -> Step:
    """A plain training loop around another library's model."""
    model.train()
    adam = {"fused": True} if spec.get("fused") else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.01, **adam)

    def step(number: int) -> dict[str, float]:
        tokens = torch.from_numpy(batch(spec, number))
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=spec["precision"] == "mixed_bf16"):
            loss = loss_of(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return {"loss": loss.item()}

    return step


def gemm(spec: dict[str, Any]) -> Step:
    """A large product by the faster of PyTorch's two libraries, for the FLOP/s that the machine gives right now."""
    from lumina.model.matmul import product

    size = 2048
    dtype = torch.bfloat16 if spec["precision"] == "mixed_bf16" else torch.float32
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)

    def step(number: int) -> dict[str, float]:
        started = time.perf_counter()
        product(a, b)
        return {"flops": 2.0 * size**3 / (time.perf_counter() - started)}

    return step


KINDS: dict[str, Callable[[dict[str, Any]], Step]] = {
    "engine": engine,
    "trainer": trainer,
    "engine_of_trainer": engine_of_trainer,
    "mixtral": mixtral,
    "litgpt": litgpt,
    "gemm": gemm,
}

if __name__ == "__main__":
    main()
