"""The catalogue of interventions as forms and tables need it."""

from __future__ import annotations

from typing import Any

from lumina import interventions
from lumina.children import can_be_rehearsed


def catalogue() -> list[dict[str, Any]]:
    """Every method with its arguments, ranges and availability, and whether it can be rehearsed; actions first."""
    return [
        {**declaration.to_json(), "rehearsable": can_be_rehearsed(method)}
        for method, declaration in interventions.catalogue().items()
    ]
