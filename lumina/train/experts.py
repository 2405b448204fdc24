"""Which expert is which in a run that goes another way: where one was not added, the later ones have other numbers.

Plain bookkeeping on journalled interventions; it must not know a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lumina.store.errors import Refusal


class ExpertNumbers:
    """For each layer, the number in this run of every expert of the other one; None for one that is not here."""

    def __init__(self, layers: Sequence[int], experts: int) -> None:
        self._here: dict[int, list[int | None]] = {layer: list(range(experts)) for layer in layers}

    def renumbered(self, doc: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of an intervention with the expert's number in this run. Raises `Refusal` (superseded)."""
        args = dict(doc["args"])
        if "layer_idx" in args and "expert_idx" in args:
            here = self._number(args["layer_idx"], args["expert_idx"])
            if here is None:
                raise Refusal("superseded", f"expert {args['expert_idx']} of layer {args['layer_idx']} was not added")
            args["expert_idx"] = here
        return args

    def resolved(self, doc: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was chosen when the intervention was applied; None where that expert is not here: to be chosen anew."""
        resolved = dict(doc.get("resolved") or {})
        if "source_expert" in resolved:
            here = self._number(doc["args"]["layer_idx"], resolved["source_expert"])
            if here is None:
                return None
            resolved["source_expert"] = here
        return resolved

    def done(self, doc: Mapping[str, Any]) -> None:
        """The intervention was applied here, too."""
        self._added(doc, here=True)

    def missed(self, doc: Mapping[str, Any]) -> None:
        """The intervention was applied there, and not here."""
        self._added(doc, here=False)

    def _added(self, doc: Mapping[str, Any], *, here: bool) -> None:
        if doc["method"] == "add_expert" and doc["kind"] != "undo":
            numbers = self._here[doc["args"]["layer_idx"]]
            numbers.append(sum(number is not None for number in numbers) if here else None)

    def _number(self, layer: int, expert: int) -> int | None:
        numbers = self._here.get(layer, [])
        return numbers[expert] if expert < len(numbers) else None
