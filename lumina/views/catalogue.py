"""The catalogue of interventions as forms and tables need it."""

from __future__ import annotations

from typing import Any

from lumina import interventions


def catalogue() -> list[dict[str, Any]]:
    """Every method with its arguments, ranges and availability, actions first."""
    return [declaration.to_json() for declaration in interventions.catalogue().values()]
