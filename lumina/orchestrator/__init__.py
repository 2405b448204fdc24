"""Watches the signals of a run and proposes interventions, with evidence and confidence; keeps health and progress.

It must not know the model, the engine or the store: it is shown figures, and what becomes of a proposal is decided
elsewhere. Its state is plain JSON and part of every checkpoint.
"""

from lumina.orchestrator.core import CheckResult, Orchestrator
from lumina.orchestrator.health import Health, Issue
from lumina.orchestrator.types import Attempt, Finding, Proposal, RunFacts

__all__ = ["Attempt", "CheckResult", "Finding", "Health", "Issue", "Orchestrator", "Proposal", "RunFacts"]
