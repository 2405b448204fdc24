from __future__ import annotations

import json
from importlib import resources

import pytest
from traces import HPARAMS, collapsed, feed, make

from lumina.orchestrator import calibration
from lumina.orchestrator.calibration import Record, adjust, reliability
from lumina.orchestrator.types import Finding

PERSON, ORCHESTRATOR = {"name": "ada"}, {"name": "orchestrator"}


def found(confidence: float = 0.9, cause: str = "plateau") -> Finding:
    return Finding(cause, confidence, "warning", {"summary": "flat"}, "reduce", {})


def ended(*verdicts: str, cause: str = "plateau", confidence: float = 0.95) -> Record:
    """A journal in which proposals of one detector ended like this."""
    record = Record()
    for number, verdict in enumerate(verdicts):
        proposal, receipt = f"p{number}", f"r{number}"
        record.fold("proposal", proposal, {"cause": cause, "confidence": confidence, "evidence": {}})
        if verdict in ("rejected", "expired", "withdrawn"):
            author = PERSON if verdict == "rejected" else ORCHESTRATOR
            record.fold("decision", receipt, {"proposal": proposal, "decision": verdict, "author": author})
            continue
        record.fold("applied", receipt, {"kind": "approve", "proposal": proposal, "author": PERSON})
        record.fold("effect", receipt, {"state": "pending"})
        if verdict == "undone":
            record.fold("applied", "u", {"kind": "undo", "undoes": receipt, "author": PERSON})
        record.fold("effect", receipt, {"state": "inconclusive" if verdict == "undone" else verdict})
    return record


def confidence_after(*verdicts: str) -> float:
    return adjust([found()], ended(*verdicts))[0].confidence


def test_without_outcomes_a_confidence_stays_what_it_is():
    assert adjust([found()], Record()) == [found()]
    assert confidence_after("inconclusive", "expired", "withdrawn") == 0.9


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("hurt",) * 3, 9 / 13),
        (("rejected",) * 3, 9 / 13),
        (("undone",), 9 / 11),
        (("helped",) * 10, 19 / 20),
        (("neutral", "helped", "hurt"), 10.5 / 13),
    ],
)
def test_outcomes_move_a_confidence_as_the_formula_says(verdicts, expected):
    assert confidence_after(*verdicts) == pytest.approx(expected)


def test_the_evidence_tells_what_the_detector_said_itself():
    (finding,) = adjust([found()], ended("hurt", "hurt"))
    assert finding.evidence["calibration"] == {"raw": 0.9, "outcomes": 2, "worth": 0.0}
    assert finding.evidence["summary"] == "flat"


def test_other_detectors_and_other_bins_are_left_alone():
    record = ended("hurt", "hurt", "hurt")
    assert adjust([found(cause="spike")], record)[0].confidence == 0.9
    assert adjust([found(confidence=0.8)], record)[0].confidence == 0.8


def test_outcomes_are_counted_in_the_bin_of_what_the_detector_said_not_of_what_was_made_of_it():
    record = Record()
    evidence = {"calibration": {"raw": 0.95, "outcomes": 3, "worth": 0.0}}
    record.fold("proposal", "p", {"cause": "plateau", "confidence": 0.72, "evidence": evidence})
    record.fold("decision", "d", {"proposal": "p", "decision": "rejected", "author": PERSON})
    assert adjust([found(0.95)], record)[0].confidence < 0.95


def test_a_detector_whose_proposals_hurt_is_heard_no_more():
    trusted, distrusted = make(intervention_threshold=0.9), make(intervention_threshold=0.9)
    feed(trusted, collapsed(0, 40))
    feed(distrusted, collapsed(0, 40))
    record = ended("hurt", "hurt", cause="router_collapse", confidence=0.97)
    assert trusted.check(40, HPARAMS, [], [], ended("helped", cause="router_collapse")).proposals
    assert not distrusted.check(40, HPARAMS, [], [], record).proposals


def test_the_diagram_has_every_bin_with_what_was_told_and_what_came_of_it(monkeypatch):
    monkeypatch.setattr(calibration, "shipped_prior", dict)  # whose detectors have rows of their own
    rows = reliability([ended("helped", "hurt", "neutral"), ended("helped", cause="spike", confidence=0.8)])
    every = [(row.low, row.high, row.count) for row in rows if row.detector == "all"]
    assert every == [(0.0, 0.5, 0), (0.5, 0.75, 0), (0.75, 0.9, 1), (0.9, 1.0, 3)]
    (plateau,) = [row for row in rows if row.detector == "plateau"]
    assert (plateau.confidence, plateau.share) == (pytest.approx(0.95), 0.5)
    assert [row.detector for row in rows if row.detector != "all"] == ["plateau", "spike"]


def test_the_shipped_prior_says_where_it_comes_from_and_can_be_read():
    document = json.loads(resources.files("lumina.orchestrator").joinpath("prior.json").read_text("utf-8"))
    assert document["provenance"]
    assert all(share.worth <= share.count for share in calibration.shipped_prior().values())


def test_a_prior_counts_like_outcomes_of_the_run(monkeypatch):
    prior = {("plateau", 3): calibration.Share(10, 2.0)}
    monkeypatch.setattr(calibration, "shipped_prior", lambda: prior)
    assert adjust([found()], Record())[0].confidence == pytest.approx((9 + 2) / 20)
    (row,) = [row for row in reliability([]) if row.detector == "plateau"]
    assert (row.prior_count, row.prior_share, row.share) == (10, 0.2, None)
