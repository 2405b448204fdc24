"""Interventions on the number of experts. They know `Controls`, never a weight."""

from __future__ import annotations

from lumina.interventions.api import Controls, Intervention, Risk, Values, arg, intervention
from lumina.store.errors import Refusal

COUNTED = frozenset({"num_experts", "pruned_experts"})


@intervention("add_expert", risk=Risk.CAREFUL, affects="experts", structural=True)
class AddExpert(Intervention):
    """Adds an expert to one layer: a noisy copy of its busiest expert that takes over tokens over a short ramp.

    The loss of the step at which it is applied does not change: the copy is masked until the next step. The capacity
    factor grows with the number of experts, so that none of them loses room for it.
    """

    layer_idx: int = arg(ge=0, help="layer that gets the expert, counted from 0", unit="layer")

    def check(self, controls: Controls) -> None:
        controls.experts(self.layer_idx)

    def resolve(self, controls: Controls) -> Values:
        return {"source_expert": controls.experts(self.layer_idx).busiest}

    def apply(self, controls: Controls, resolved: Values) -> None:
        before = controls.experts(self.layer_idx).total
        controls.add_expert(self.layer_idx, resolved["source_expert"])
        factor = controls.find("capacity_factor")
        if factor is not None:
            controls.set("capacity_factor", rebalanced(factor, before, before + 1))

    def read_back(self, controls: Controls) -> Values:
        return {
            "num_experts": controls.experts(self.layer_idx).total,
            "capacity_factor": controls.find("capacity_factor"),
        }

    def verify(self, before: Values, after: Values) -> bool:
        experts, factor = before["num_experts"], before["capacity_factor"]
        wanted = None if factor is None else rebalanced(factor, experts, experts + 1)
        return bool(after == {"num_experts": experts + 1, "capacity_factor": wanted})

    def undo(self, controls: Controls, before: Values) -> None:
        found = controls.experts(self.layer_idx)
        if found.pruned:
            raise Refusal(
                "unsupported", f"layer {self.layer_idx} has lost experts, so the added one is not told; a rewind can"
            )
        controls.prune_expert(self.layer_idx, found.slots - 1)
        if before["capacity_factor"] is not None:
            controls.set("capacity_factor", before["capacity_factor"])

    def touches(self, after: Values) -> frozenset[str]:
        return frozenset(after) - COUNTED | {_count_of(self.layer_idx)}


@intervention("prune_expert", risk=Risk.CAREFUL, affects="experts", structural=True)
class PruneExpert(Intervention):
    """Takes an expert out of one layer: no token goes to it any more, and those left share its load and capacity.

    Its weights are frozen and stay in every checkpoint, so that undo brings it back. As many experts as a token needs
    always stay. The other experts keep their numbers. The capacity factor stays: it is shared out among fewer, so
    that each of them has the room for its part of what the lost one took.
    """

    layer_idx: int = arg(ge=0, help="layer that loses the expert, counted from 0", unit="layer")
    expert_idx: int = arg(ge=0, help="the expert, counted from 0", unit="expert")

    def check(self, controls: Controls) -> None:
        found, where = controls.experts(self.layer_idx), f"layer {self.layer_idx}"
        if self.expert_idx >= found.slots:
            raise Refusal("out_of_range", f"{where} has experts 0 to {found.slots - 1}, no expert {self.expert_idx}")
        if self.expert_idx in found.pruned:
            raise Refusal("bad_argument", f"{where} has lost expert {self.expert_idx} already")
        if found.total <= found.top_k:
            raise Refusal("unsupported", f"{where} has {found.total} experts left, and each token needs {found.top_k}")

    def apply(self, controls: Controls, resolved: Values) -> None:
        controls.prune_expert(self.layer_idx, self.expert_idx)

    def read_back(self, controls: Controls) -> Values:
        found = controls.experts(self.layer_idx)
        return {
            "num_experts": found.total,
            "pruned_experts": list(found.pruned),
            "capacity_factor": controls.find("capacity_factor"),
        }

    def verify(self, before: Values, after: Values) -> bool:
        gone = sorted([*before["pruned_experts"], self.expert_idx])
        factor = before["capacity_factor"]
        if factor is not None:
            factor = rebalanced(factor, before["num_experts"], before["num_experts"] - 1)
        return bool(
            after == {"num_experts": before["num_experts"] - 1, "pruned_experts": gone, "capacity_factor": factor}
        )

    def undo(self, controls: Controls, before: Values) -> None:
        controls.restore_expert(self.layer_idx, self.expert_idx)

    def touches(self, after: Values) -> frozenset[str]:
        return self.undo_sets(after) | {_count_of(self.layer_idx)}

    def undo_sets(self, after: Values) -> frozenset[str]:
        # Experts keep their numbers, so that others may come and go before this one is brought back.
        return frozenset({f"expert {self.expert_idx} of layer {self.layer_idx}"})

    def same(self, first: Values, second: Values) -> bool:
        return (self.expert_idx in first["pruned_experts"]) == (self.expert_idx in second["pruned_experts"])


def rebalanced(factor: float, before: int, after: int) -> float:
    """The capacity factor after the number of experts of a layer changed.

    An expert takes factor x k x tokens / experts tokens. With more experts the factor grows in proportion: no expert
    loses room. With fewer it stays: all of them together keep theirs.
    """
    return factor * max(after / before, 1.0)


def _count_of(layer: int) -> str:
    return f"the experts of layer {layer}"
