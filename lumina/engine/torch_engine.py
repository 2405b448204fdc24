"""The engine for one device: a plain PyTorch model, fused AdamW, and figures with one host transfer per step.

It knows no run, no schedule and no journal; the learning rate is handed to it.
"""

# E experts
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lumina.checkpoint import CanonicalState
from lumina.config import Config
from lumina.engine.api import (
    VALIDATION,
    EngineDescription,
    EvalStats,
    LayerExperts,
    MicroBatch,
    OutOfMemory,
    StepStats,
    TornUpdate,
)
from lumina.engine.guard import CollapseGuard
from lumina.engine.kernels import Graphs, choose_kernels, compile_layers, refuse_what_cannot_be_compiled
from lumina.engine.numerics import (
    Multiplication,
    Weights,
    autocast,
    be_deterministic,
    exported,
    scaler_of,
    weights_for_inference,
)
from lumina.engine.optimizer import AdamW
from lumina.engine.statistics import StepFigures, StepValues
from lumina.hardware import Hardware, PrecisionChoice, choose_inference_precision, is_out_of_memory
from lumina.model import ModelOutput, Transformer
from lumina.model.documents import Documents
from lumina.model.mod import DepthRouter
from lumina.model.moe import STACKED, STACKED_BUFFERS, MoE
from lumina.model.transfer import sent

MOE_KNOBS = ("routing_temperature", "capacity_factor", "load_balancing_weight", "expert_dropout")
MOD_KNOBS = ("mod_capacity_factor", "mod_routing_temperature", "mod_warmup_steps", "mod_anneal_steps")
MOMENTS = ("exp_avg", "exp_avg_sq")
SEED_STRIDE = 1_000_003

Stats = TypeVar("Stats", StepStats, EvalStats)


class TorchEngine:
    """`Engine` on one CPU or GPU. On a CPU every step is a pure function of state, batch, rate and thread count."""

    def __init__(self, config: Config, vocab_size: int, hardware: Hardware, precision: PrecisionChoice) -> None:
        self.telemetry = True  # statistics of the layers; off only to measure what they cost
        self.config, self.vocab_size, self.precision = config, vocab_size, precision
        self._inference = choose_inference_precision(config.precision.inference_precision, precision, hardware)
        self._hardware, self.device = hardware, torch.device(hardware.device)
        refuse_what_cannot_be_compiled(config, hardware)
        if self.device.type == "cpu":
            be_deterministic(compiled=config.optimization.compile)
        self._clip = config.training.gradient_clip_val
        self._weight_decay = config.training.weight_decay
        self._guard, self._graphs = CollapseGuard(), Graphs(config)
        self._phase = ""  # of the step that is being computed
        self._scaler = scaler_of(precision, config.precision)
        torch.manual_seed(config.training.seed)
        self._build({}, draw=True)

    def _build(self, slots: dict[int, int], draw: bool = False) -> None:
        training = self.config.training
        with self.device if self.device.type == "cuda" else nullcontext():  # there at once, and drawn there
            self.model = Transformer(self.config, self.vocab_size, slots).to(self.device)
        if draw:
            self.model.reset()
        self.weights = Weights(self.model, self.precision)
        self._choose_products()
        self._pruned: list[tuple[int, int]] = []
        compile_layers(self.model, self.config)
        decayed = [weight for weight in self.weights.by_name.values() if weight.ndim >= 2]
        plain = [weight for weight in self.weights.by_name.values() if weight.ndim < 2]
        self.optimizer = AdamW(
            [{"params": decayed, "weight_decay": self._weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=training.learning_rate,
            betas=(training.adam_beta1, training.adam_beta2),
            eps=training.adam_eps,
            fused=True,
        )

    def _choose_products(self) -> None:
        self._products = Multiplication(self.model, self.config.precision, self.precision, self._inference)
        choose_kernels(self.model, self.config, self._hardware, self.precision, self._products.is_plain)

    # Steps

    def train_step(self, step: int, microbatches: Sequence[MicroBatch], learning_rate: float) -> StepStats:
        """Forward, backward, clip and update; the gradient is the mean over all labels of all micro-batches.

        It happens wholly or not at all: when memory runs out, the gradients are dropped and nothing has changed.
        """
        return self._in_memory(lambda: self._train_step(step, microbatches, learning_rate))

    def _in_memory(self, work: Callable[[], Stats]) -> Stats:
        """What `work` returns. Raises `OutOfMemory` where it does not fit; what it took is free again then."""
        try:
            return work()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            message = str(error).partition("\n")[0] or type(error).__name__
        # Not inside the handler, whose traceback keeps the activations alive.
        self.optimizer.zero_grad(set_to_none=True)
        self.model.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemory(self._phase, message)

    def _train_step(self, step: int, microbatches: Sequence[MicroBatch], learning_rate: float) -> StepStats:
        self._phase = "the optimizer's step"
        self._make_room()
        torch.manual_seed(self.config.training.seed * SEED_STRIDE + step)
        self.model.train()
        self.model.knobs.step = step
        self.set_hparams(learning_rate=learning_rate)
        self.optimizer.zero_grad(set_to_none=True)
        self._graphs.keep_gradients(self.weights.by_name.values())
        labels = sum(int((batch.labels != -100).sum()) for batch in microbatches)
        figures = StepFigures(self.model, self.telemetry)
        for batch in microbatches:
            self._phase = "forward"
            output = self._forward(batch)
            auxiliary = output.auxiliary / len(microbatches)
            total = output.loss_sum / max(1, labels) + auxiliary
            self._phase = "backward"
            self._backward(total if self._scaler is None else total * self._scaler.scale)
            figures.add(output, total)
        self._phase = "the optimizer's step"
        weights = list(self.weights.by_name.values())
        if self._scaler is not None:
            self._scaler.unscale(weights)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        values = figures.collect(nn.utils.get_total_norm(gradients))
        skipped = not (math.isfinite(values.grad_norm) and math.isfinite(values.total_loss))
        if self._scaler is not None:
            values.series["precision.loss_scale"] = self._scaler.scale
        if not skipped:
            self._update(values, figures)
        if self._scaler is not None:
            self._scaler.update(overflow=skipped)
        return StepStats(
            step=step,
            loss=values.loss_sum / max(1, labels),
            total_loss=values.total_loss,
            accuracy=values.correct / max(1, labels),
            grad_norm=values.grad_norm,
            learning_rate=learning_rate,
            tokens=sum(batch.real_tokens for batch in microbatches),
            skipped=skipped,
            series=values.series,
            arrays=values.arrays,
            sequence_losses=values.sequence_losses,
        )

    def _forward(self, batch: MicroBatch) -> ModelOutput:
        self._graphs.begin()
        with autocast(self.precision, self.device):
            output: ModelOutput = self.model(*self._tensors(batch))
        return output

    def _backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        self.weights.gather_gradients()

    def _update(self, values: StepValues, figures: StepFigures) -> None:
        """The optimizer's step and what follows from it; pruned experts are frozen, which zero gradients alone do not
        achieve. No memory is taken after the first number changed: the fused update works in place."""
        held = [(row, row.clone()) for row in self._pruned_rows()]
        counters = [self.optimizer.state[group["params"][0]]["step"] for group in self.optimizer.param_groups]
        before = [counter.clone() for counter in counters]
        try:
            self.optimizer.step_clipped(values.grad_norm, self._clip)
            for row, kept in held:
                row.copy_(kept)
            self.weights.publish()
            self._follow(values, figures)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error) and any(map(torch.ne, counters, before)):
                raise TornUpdate(f"memory ran out in the middle of an update: {error}") from error
            raise

    def _make_room(self) -> None:
        """The moments of parameters that have none yet, as the optimizer itself would make them one by one.

        Before the first activations are there: in the gaps between those, they would keep a heap from being reused.
        """
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if not self.optimizer.state[parameter]:
                    self.optimizer.state[parameter] = {
                        "step": torch.zeros((), dtype=torch.float32, device=self.device),
                        **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
                    }

    def _pruned_rows(self) -> Iterator[Tensor]:
        for layer, expert in self._pruned:
            for name in STACKED:
                weight = self.weights.by_name.get(f"layers.{layer}.moe.{name}")
                if weight is not None:
                    state = self.optimizer.state.get(weight, {})
                    yield weight.data[expert]
                    yield from (state[moment][expert] for moment in MOMENTS if moment in state)

    def eval_step(self, batch: MicroBatch) -> EvalStats:
        """Loss sums with causal sampling, and with MoD's top-k choice beside it; nothing is changed.

        Raises `OutOfMemory`, too.
        """
        self._phase = VALIDATION
        return self._in_memory(lambda: self._eval_step(batch))

    @torch.no_grad()
    def _eval_step(self, batch: MicroBatch) -> EvalStats:
        self.model.eval()
        sums = []
        for by_topk in (False, True) if self.config.mod_layers else (False,):
            for module in self.model.modules():
                if isinstance(module, DepthRouter):
                    module.by_topk = by_topk
            with (
                weights_for_inference(self.model, self.precision, self._inference),
                self._products.for_inference(),
                autocast(self._inference, self.device),
            ):
                self._graphs.begin()
                output = self.model(*self._tensors(batch))
            sums.append((float(output.loss_sum), int(output.correct), int(output.tokens)))
        return EvalStats(sums[0][0], sums[-1][0], sums[0][1], sums[0][2])

    def _tensors(self, batch: MicroBatch) -> tuple[Tensor, Tensor, Documents | None]:
        documents = None if batch.documents is None else Documents.from_host(batch.documents, self.device)
        return self._on_device(batch.tokens), self._on_device(batch.labels), documents

    def _on_device(self, array: NDArray[np.integer[Any]]) -> Tensor:
        return sent(torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)), self.device)

    def _follow(self, values: StepValues, figures: StepFigures) -> None:
        """What the next steps depend on beside the weights: running loads, choice biases, and the collapse guard."""
        load = values.arrays.get("expert_load")
        if load is None:
            return
        load_LE = sent(torch.from_numpy(load), self.device)
        for row, (_, moe) in enumerate(self._moe_layers()):
            moe.follow(load_LE[row, : moe.router.shape[0]])
        if self.config.mod.mod_collapse_guard and self.config.mod.mod_routing_type == "learned":
            entropy = {i: values.series[f"moe.load_entropy.layer{i}"] for i, _ in self._moe_layers()}
            self.model.knobs.opened = self._guard.observe(entropy, figures.layer_gates())

    def _moe_layers(self) -> list[tuple[int, MoE]]:
        return [(index, layer.moe) for index, layer in enumerate(self.model.layers) if isinstance(layer.moe, MoE)]

    # Live values

    def set_hparams(self, **values: float | None) -> None:
        """Changes live values. Raises `KeyError` for a name that `get_hparams` does not have."""
        for name, value in values.items():
            if name in MOE_KNOBS + MOD_KNOBS:
                setattr(self.model.knobs, name, value)
            elif value is None:
                raise KeyError(f"{name} = None")
            elif name == "learning_rate":
                for group in self.optimizer.param_groups:
                    group["lr"] = value
            elif name == "weight_decay":
                self._weight_decay = value
                self.optimizer.param_groups[0]["weight_decay"] = value
            elif name == "gradient_clip_val":
                self._clip = value
            else:
                raise KeyError(name)

    def get_hparams(self) -> dict[str, float | None]:
        """Live values, read from the model and the optimizer; None where the model has no such thing."""
        knobs, config = self.model.knobs, self.config
        moe, mod = bool(config.moe_layers), bool(config.mod_layers)
        found: dict[str, float | None] = {
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "weight_decay": self.optimizer.param_groups[0]["weight_decay"],
            "gradient_clip_val": self._clip,
        }
        found.update({name: getattr(knobs, name) if moe else None for name in MOE_KNOBS})
        found.update({name: getattr(knobs, name) if mod else None for name in MOD_KNOBS})
        if config.moe.bias_balancing:
            found["load_balancing_weight"] = None
        return found

    # State

    def export_state(self) -> CanonicalState:
        """A copy of everything that later steps depend on."""
        live = self.live_state()
        copies = ({key: exported(t) for key, t in table.items()} for table in (live.params, live.exp_avg,
                  live.exp_avg_sq, live.buffers))  # fmt: skip
        params, exp_avg, exp_avg_sq, buffers = copies
        return CanonicalState(params, exp_avg, exp_avg_sq, live.adam_step, buffers, live.meta)

    def live_state(self) -> CanonicalState:
        """Everything that later steps depend on, in the tensors that the next step changes."""
        params = {name: weight.detach() for name, weight in self.weights.by_name.items()}
        slots: dict[str, dict[str, Tensor]] = {moment: {} for moment in MOMENTS}
        steps: dict[str, float] = {}
        for name, weight in self.weights.by_name.items():
            state = self.optimizer.state.get(weight, {})
            for moment, table in slots.items():
                table[name] = state[moment] if moment in state else torch.zeros(()).expand(weight.shape)
            steps[name] = float(state["step"]) if "step" in state else 0.0
        buffers = self._stored_buffers()
        meta = {"hparams": self.get_hparams(), "step": self.model.knobs.step, "guard": self._guard.state()}
        if self._scaler is not None:
            meta["scaler"] = self._scaler.state()
        return CanonicalState(params, slots["exp_avg"], slots["exp_avg_sq"], steps, buffers, meta)

    def restore_state(self, state: CanonicalState) -> None:
        """Takes over a state, whatever number of experts it has."""
        self.rebuild(state)

    def rebuild(self, state: CanonicalState) -> None:
        """Builds model and optimizer anew in the shapes of `state` and fills them from it."""
        slots = {
            int(name.split(".")[1]): len(tensor)
            for name, tensor in state.params.items()
            if name.endswith(".moe.router")
        }
        self._build(slots)
        with torch.no_grad():
            for name, weight in self.weights.by_name.items():
                weight.copy_(state.params[name])
                if state.adam_step[name] > 0:
                    self.optimizer.state[weight] = {
                        "step": torch.tensor(state.adam_step[name], dtype=torch.float32, device=self.device),
                        "exp_avg": state.exp_avg[name].to(self.device, weight.dtype, copy=True),
                        "exp_avg_sq": state.exp_avg_sq[name].to(self.device, weight.dtype, copy=True),
                    }
            self.weights.publish()
            for name, buffer in self._stored_buffers().items():
                buffer.copy_(state.buffers[name])
        self._pruned = [(layer, expert) for layer, moe in self._moe_layers() for expert in _indices(moe.is_pruned())]
        self.model.knobs.step = int(state.meta["step"])
        self.set_hparams(**{k: v for k, v in state.meta["hparams"].items() if v is not None})
        if state.meta["hparams"].get("capacity_factor") is None:
            self.model.knobs.capacity_factor = None
        self._guard.restore(state.meta.get("guard", CollapseGuard().state()))
        self.model.knobs.opened = self._guard.opened
        if self._scaler is not None and "scaler" in state.meta:
            self._scaler.restore(state.meta["scaler"])

    def _stored_buffers(self) -> dict[str, Tensor]:
        return {name: b for name, b in self.model.named_buffers() if name.endswith(STACKED_BUFFERS)}

    def describe(self) -> EngineDescription:
        """The live model's shape; an expert counts as ramping until its ramp is over."""
        step, ramp = self.model.knobs.step, self.config.moe.expert_ramp_steps
        experts = {}
        for index, moe in self._moe_layers():
            born_E, pruned_E = moe.get_buffer("born_E"), moe.is_pruned()
            ramping = int(((born_E >= 0) & ~pruned_E & (step - born_E < ramp)).sum())
            busiest = int(moe.get_buffer("load_ema_E").masked_fill(pruned_E, -1.0).argmax())
            pruned = tuple(_indices(pruned_E))
            experts[index] = LayerExperts(len(born_E) - ramping - len(pruned), ramping, busiest, pruned)
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return EngineDescription(
            self.config.model.num_layers, self.config.mod_layers, self.config.moe.moe_top_k, parameters, experts
        )

    def close(self) -> None:
        """Gives the model's memory back."""
        self.optimizer.state.clear()


def _indices(mask_E: Tensor) -> list[int]:
    return [index for index, wanted in enumerate(mask_E.tolist()) if wanted]
