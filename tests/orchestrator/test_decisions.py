"""What is proposed when several things are wrong, and what may be done without a person."""

from __future__ import annotations

from typing import Any

import pytest
from traces import make

from lumina.interventions import ACTIONS
from lumina.orchestrator import Attempt, Finding
from lumina.orchestrator.conflicts import CHANGES, STRUCTURAL, conflict
from lumina.orchestrator.types import Act, Proposal

HOUR = 1000


def finding(cause: str, method: str, confidence: float = 0.9, **rest: Any) -> Finding:
    return Finding(cause, confidence, rest.pop("severity", "warning"), {"summary": cause}, method, **rest)


def proposed(*findings: Finding, held: tuple[dict[str, Any], ...] = (), past: tuple[Attempt, ...] = (),
             **settings: Any) -> list[str]:  # fmt: skip
    policy = make(**settings)._policy
    policy.review(HOUR, findings, {}, held)
    return [proposal.cause for proposal in policy.propose(HOUR, findings, held, past)]


def test_every_action_of_the_catalogue_has_its_place_among_the_conflicts():
    assert set(CHANGES) == set(ACTIONS)
    assert {method for method, action in ACTIONS.items() if action.declaration.structural} == STRUCTURAL


def test_of_two_that_change_the_same_value_the_surer_comes_first():
    slow = finding("stalled", "adjust_learning_rate", 0.8)
    fast = finding("divergence", "emergency_lr_reduction", 0.95)
    assert proposed(slow, fast) == ["divergence"]


def test_what_does_not_conflict_is_proposed_together():
    assert proposed(finding("a", "adjust_capacity_factor", 0.8), finding("b", "adjust_mod_capacity")) == ["b", "a"]
    assert not conflict(["checkpoint"], ["rollback_steps"])


def test_going_back_conflicts_with_everything_and_an_emergency_comes_first():
    back = finding("divergence", "rollback_steps", 0.76, severity="critical", emergency=True)
    assert proposed(finding("router_collapse", "adjust_routing_temperature", 0.99), back) == ["divergence"]


def test_nothing_is_proposed_beside_an_open_proposal_that_it_conflicts_with():
    held = {"id": "0" * 32, "cause": "router_collapse", "expires_step": 5000, "method": "adjust_routing_temperature"}
    collapse = finding("router_collapse", "adjust_routing_temperature")
    assert proposed(collapse, finding("expert_imbalance", "adjust_load_balancing_weight"), held=(held,)) == []
    assert proposed(collapse, finding("divergence", "rollback_steps", emergency=True), held=(held,)) == ["divergence"]


def test_without_architecture_adaptation_no_expert_comes_or_goes():
    found = (finding("a", "add_expert"), finding("b", "prune_expert", then=(Act("add_expert", {"layer_idx": 0}),)))
    assert proposed(*found, enable_architecture_adaptation=False) == []


def test_an_emergency_rests_for_ten_steps_but_not_when_the_run_went_back():
    spike = finding("divergence", "rollback_steps", emergency=True)
    for ago, rewound, expected in ((3, False, []), (10, False, ["divergence"]), (3, True, ["divergence"])):
        past = (Attempt("divergence", HOUR - ago, "rollback_steps", True, rewound),)
        assert proposed(spike, past=past) == expected


def test_an_emergency_is_given_up_after_four_attempts():
    again = tuple(Attempt("divergence", HOUR - 1, "rollback_steps", True, True) for _ in range(4))
    spike = finding("divergence", "rollback_steps", emergency=True)
    assert proposed(spike, past=again[:3]) == ["divergence"]
    assert proposed(spike, past=again) == []


def course(autonomy: str, method: str = "adjust_mod_capacity", *, urgent: bool = False,
           past: tuple[Attempt, ...] = (), **settings: Any) -> str:  # fmt: skip
    proposal = Proposal("0" * 32, HOUR, method, {}, "x", {}, 0.9, HOUR + 100, emergency=urgent)
    return make(**settings).course(HOUR, proposal, autonomy, past)


@pytest.mark.parametrize(("autonomy", "routine", "emergency"),
                         [("observe", "log", "log"), ("ask", "ask", "act"), ("auto", "act", "act")])  # fmt: skip
def test_autonomy_says_what_becomes_of_a_proposal(autonomy, routine, emergency):
    assert course(autonomy) == routine
    assert course(autonomy, urgent=True) == emergency
    assert course("ask", urgent=True, enable_emergency_recovery=False) == "ask"


def test_a_method_may_have_an_autonomy_of_its_own():
    own = {"autonomy_per_method": ["adjust_mod_capacity=auto", "add_expert=observe"]}
    assert course("ask", **own) == "act"
    assert course("auto", "add_expert", **own) == "log"
    assert course("ask", "prune_expert", **own) == "ask"


def test_a_budget_limits_what_is_done_alone():
    alone = tuple(Attempt("x", HOUR - age, "m", True, False) for age in (10, 20, 999, 1000))
    person = tuple(Attempt("x", HOUR - 1, "m", False, False) for _ in range(20))
    assert course("auto", past=alone + person, intervention_budget=4) == "act"
    assert course("auto", past=alone + person, intervention_budget=3) == "ask"
    assert course("auto", past=alone, intervention_budget=3, budget_window=500) == "act"
    assert course("auto", urgent=True, past=alone, intervention_budget=0) == "act"


def test_a_value_that_nobody_decided_does_not_rest_its_cause():
    drops = finding("tokens_dropped", "adjust_capacity_factor", watches=("capacity_factor",))
    for decided, expected in (({"capacity_factor": 0.1}, []), ({"capacity_factor": 1.25}, ["tokens_dropped"])):
        policy = make()._policy
        policy.review(HOUR - 20, [drops], {"capacity_factor": 1.25}, [], {})
        policy.review(HOUR, [drops], {"capacity_factor": 0.1}, [], decided)
        assert [proposal.cause for proposal in policy.propose(HOUR, [drops])] == expected
