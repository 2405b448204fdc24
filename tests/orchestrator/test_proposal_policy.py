from __future__ import annotations

from traces import HPARAMS, collapsed, feed, healthy, make, run

COOLDOWN = 100  # five checks of 20 steps


def first_proposal(orchestrator):
    feed(orchestrator, collapsed(0, 40))
    (proposal,) = orchestrator.check(40, HPARAMS, []).proposals
    return proposal.to_json()


def checks(orchestrator, steps, open_proposals, hparams=HPARAMS):
    results = {}
    for step in steps:
        orchestrator.observe(*step)
        if step[0] % 20 == 0:
            results[step[0]] = orchestrator.check(step[0], hparams, open_proposals)
    return results


def test_one_cause_has_one_open_proposal():
    orchestrator = make()
    open_one = first_proposal(orchestrator)
    later = checks(orchestrator, collapsed(0, 150, start=41), [open_one])
    assert not any(result.proposals or result.withdrawn or result.expired for result in later.values())


def test_an_unanswered_proposal_expires():
    orchestrator = make(proposal_expiry_steps=60)
    open_one = first_proposal(orchestrator)
    assert open_one["expires_step"] == 100
    later = checks(orchestrator, collapsed(0, 70, start=41), [open_one])
    assert {step: result.expired for step, result in later.items()} == {60: (), 80: (), 100: (open_one["id"],)}


def test_a_proposal_is_withdrawn_when_its_cause_is_gone():
    orchestrator = make()
    open_one = first_proposal(orchestrator)
    later = checks(orchestrator, ((s + 40, *rest) for s, *rest in healthy(0, 60)), [open_one])
    withdrawn = [pair for result in later.values() for pair in result.withdrawn]
    assert withdrawn[0] == (open_one["id"], "its cause is gone")


def test_a_proposal_is_withdrawn_when_somebody_changed_the_value_by_hand():
    orchestrator = make()
    open_one = first_proposal(orchestrator)
    later = checks(orchestrator, collapsed(0, 20, start=41), [open_one], {**HPARAMS, "routing_temperature": 1.5})
    ((id, why),) = later[60].withdrawn
    assert id == open_one["id"]
    assert why == "routing_temperature was changed from 1 to 1.5 meanwhile"


def test_an_answer_is_given_time_before_the_same_cause_is_proposed_again():
    orchestrator = make()
    first_proposal(orchestrator)
    later = checks(orchestrator, collapsed(0, 200, start=41), [])  # rejected before step 60
    assert [step for step, result in later.items() if result.proposals] == [60 + COOLDOWN]


def test_a_change_by_hand_rests_the_cause_as_well():
    orchestrator = make(intervention_threshold=1.0)  # nothing is ever sure enough; the cause is seen all the same
    feed(orchestrator, collapsed(0, 40))
    orchestrator.check(40, HPARAMS, [])
    warmer = {**HPARAMS, "routing_temperature": 1.5}
    checks(orchestrator, collapsed(0, 20, start=41), [], warmer)
    assert orchestrator.state()["policy"]["answered"] == {"router_collapse": 60}


def test_a_confidence_below_the_threshold_makes_no_proposal():
    assert not any(result.proposals for result in run(make(intervention_threshold=1.0), collapsed(0, 100)))


def test_adaptive_training_switched_off_proposes_nothing_but_watches_health():
    results = run(make(use_adaptive_training=False), collapsed(0, 100))
    assert not any(result.proposals for result in results)
    assert results[-1].health.status == "warning"


def test_a_repeated_run_makes_the_same_proposal_under_the_same_id():
    assert first_proposal(make()) == first_proposal(make())
