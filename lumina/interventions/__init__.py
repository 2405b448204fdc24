"""Interventions: what a person or the orchestrator may change in a live run, declared once.

Nothing here imports torch; the trainer hands every action a `Controls` object.
"""

from lumina.interventions.api import Arg, Controls, Declaration, ExpertCounts, Intervention, Risk
from lumina.interventions.catalogue import ACTIONS, build, catalogue, validate_args

__all__ = [
    "ACTIONS",
    "Arg",
    "Controls",
    "Declaration",
    "ExpertCounts",
    "Intervention",
    "Risk",
    "build",
    "catalogue",
    "validate_args",
]
