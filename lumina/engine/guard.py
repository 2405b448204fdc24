"""The guard against both routers of a layer collapsing at once: it decides which layers take every token.
It sees two figures per layer and knows no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DECAY = 0.9  # of the running means, per step
COLLAPSED, RECOVERED = 0.3, 0.5


class CollapseGuard:
    """Opens a layer while its experts and its depth have collapsed together.

    The experts of a layer have collapsed when the running mean of their load entropy (0 to 1) is below 0.3, its depth
    when the running mean of its gate is: the layer then adds little, for tokens that one or two experts see. Either
    router alone can recover, since the other still feeds it. An open layer closes when either figure is above 0.5.
    """

    def __init__(self) -> None:
        self.opened: frozenset[int] = frozenset()
        self._means: dict[int, tuple[float, float]] = {}

    def observe(self, load_entropy: Mapping[int, float], gate: Mapping[int, float]) -> frozenset[int]:
        """Takes in a step's figures of the layers that have both routers; returns the layers to hold open."""
        opened = set(self.opened)
        for layer in load_entropy.keys() & gate.keys():
            now = (load_entropy[layer], gate[layer])
            before = self._means.get(layer, now)
            mean = tuple(DECAY * old + (1.0 - DECAY) * new for old, new in zip(before, now, strict=True))
            self._means[layer] = (mean[0], mean[1])
            if max(mean) < COLLAPSED:
                opened.add(layer)
            elif max(mean) > RECOVERED:
                opened.discard(layer)
        self.opened = frozenset(opened)
        return self.opened

    def state(self) -> dict[str, Any]:
        """Plain JSON."""
        means = {str(layer): list(mean) for layer, mean in sorted(self._means.items())}
        return {"opened": sorted(self.opened), "means": means}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.opened = frozenset(state["opened"])
        self._means = {int(layer): (mean[0], mean[1]) for layer, mean in state["means"].items()}
