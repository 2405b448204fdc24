"""A run that is made shorter or longer while it trains: the rate follows smoothly, and it stays exact."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "interventions"))
import itertools
import shutil

from small_trainer import applied, bits, figures, hparams, killed, small_trainer, undo
from test_replay import replayed

import lumina
from lumina.config import load_config
from lumina.orchestrator import Orchestrator, RunFacts
from lumina.store.layout import RunPaths
from lumina.store.reader import StoreReader

SAVING: dict[str, Any] = {"save_every_n_batches": 4, "save_total_limit": 50, "warmup_steps": 4}


def rates(paths: RunPaths) -> list[float]:
    return [float(rate) for rate in figures(paths)["learning_rate"] if rate is not None]


def test_a_shortened_run_ends_at_the_lowest_rate_and_never_jumps(tmp_path: Path) -> None:
    with small_trainer(tmp_path, steps=40, **SAVING) as trainer:
        trainer.train(until=10)
        trainer.adjust_training_length(22)
        assert hparams(trainer)["total_steps"] == 22
        assert trainer.train() == "finished"
        lowest = trainer._session.config.training.learning_rate * trainer._session.config.training.min_lr_ratio
    paths = trainer._session.paths
    found = rates(paths)
    assert len(found) == 22
    assert found[-1] == pytest.approx(lowest, rel=1e-6)
    falls = [before - after for before, after in itertools.pairwise(found[4:])]  # after the warm-up
    assert all(fall > 0 for fall in falls)
    peak = max(found)
    assert max(falls) < 0.15 * peak, "the schedule is stretched, not cut off"
    status = lumina.Run(paths).status()
    assert (status["state"], status["step"], status["total_steps"]) == ("finished", 22, 22)


def test_a_lengthened_run_falls_slower(tmp_path: Path) -> None:
    with small_trainer(tmp_path, steps=16, **SAVING) as trainer:
        trainer.train(until=8)
        trainer.adjust_training_length(30)
        trainer.train()
    found = rates(trainer._session.paths)
    assert len(found) == 30
    assert found[7] > found[8] > found[15] > found[-1]
    plain = trainer._session.plan
    assert found[19] == pytest.approx(plain.learning_rate(12), rel=0.2), "halfway through what was left"


def test_a_length_on_a_resume_beats_what_was_changed_before(tmp_path: Path) -> None:
    with small_trainer(tmp_path, steps=40, **SAVING) as trainer:
        trainer.train(until=6)
        trainer.adjust_training_length(10)
        assert trainer.train() == "finished"
    paths = trainer._session.paths
    again = lumina.Trainer.open(paths, resume="latest", steps=40)
    assert again.session.total_steps == 40
    again.train(until=11)  # no checkpoint of this stretch yet
    third = lumina.Trainer.open(killed(again), resume="latest")
    assert third.session.total_steps == 40
    with third:
        third.train(until=13)
        third.adjust_training_length(15)
        assert third.train() == "finished"
    assert lumina.Run(paths).status()["step"] == 15
    assert replayed(paths)["verdict"] == "equal"


@pytest.mark.parametrize("kills", [(9,), (11, 15), (10, 10, 17)])
def test_it_is_exact_across_kills_and_replays(tmp_path: Path, kills: tuple[int, ...]) -> None:
    def go_on(trainer: lumina.Trainer, until: int) -> None:
        for step in range(trainer.step, until + 1):
            trainer.train(until=step)
            done = [entry.step for entry in trainer._session.journal.entries if entry.type == "applied"]
            if step in LENGTHS and step not in done and step < until:
                trainer.adjust_training_length(LENGTHS[step])

    LENGTHS = {6: 30, 10: 18, 14: 26}
    straight = small_trainer(tmp_path, "straight", steps=20, **SAVING)
    go_on(straight, 20)
    wanted = bits(straight)
    told = figures(killed(straight))
    trainer = small_trainer(tmp_path, "cut", steps=20, **SAVING)
    for step in kills:
        go_on(trainer, step)
        trainer = lumina.Trainer.open(killed(trainer), resume="latest")
    go_on(trainer, 20)
    assert bits(trainer) == wanted
    with trainer:
        pass
    assert figures(trainer._session.paths) == told
    assert replayed(trainer._session.paths)["verdict"] == "equal"


def test_what_lies_behind_is_refused_and_an_undo_gives_the_old_length_back(tmp_path: Path) -> None:
    with small_trainer(tmp_path, steps=30, **SAVING) as trainer:
        trainer.train(until=6)
        with pytest.raises(lumina.Refusal, match="total_steps = 6, and the run is at step 6; allowed: 7 or more"):
            trainer.adjust_training_length(6)
        assert not applied(trainer)
        trainer.adjust_training_length(50)
        trainer.train(until=8)
        undo(trainer)
        assert trainer.session.total_steps == 30
        trainer.adjust_training_length(60)
        trainer.train(until=31)
        with pytest.raises(lumina.Refusal, match="was to end after step 30, and it is at 31"):
            undo(trainer)
        trainer.rollback_steps(24)
        assert (trainer.step, trainer.session.total_steps) == (4, 30)
        assert trainer.session.orchestrator.facts.total_steps == 30


def test_a_length_that_is_changed_at_the_last_step_still_counts(tmp_path: Path) -> None:
    with small_trainer(tmp_path, "longer", steps=10, **SAVING) as trainer:
        trainer.train(until=9)
        trainer._loop.step()
        lumina.Run(trainer._session.paths).intervene("adjust_training_length", total_steps=14)
        assert trainer.train() == "finished"
        assert trainer.step == 14


def test_a_resume_repeats_a_change_that_was_made_at_the_last_step(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, steps=10, **SAVING)
    trainer.train(until=9)
    trainer._loop.step()
    trainer.adjust_training_length(14)
    trainer.train(until=11)
    again = lumina.Trainer.open(killed(trainer), resume="8")
    assert again.step == 8
    assert again.train() == "finished"
    assert again.step == 10, "a resume from a step leaves later decisions behind"
    again.close()
    other = small_trainer(tmp_path, "other", steps=10, **{**SAVING, "save_every_n_batches": 7})
    other.train(until=9)
    other._loop.step()
    other.adjust_training_length(13)
    other.train(until=11)
    paths = killed(other)
    for saved in paths.checkpoints.glob("checkpoint_step_1?"):  # such as the best: there was a validation at the end
        shutil.rmtree(saved)
    with lumina.Trainer.open(paths, resume="latest") as resumed:
        assert resumed.step == 7
        assert resumed.train() == "finished"
        assert resumed.step == 13


def test_steps_on_a_resume_beat_a_change_that_has_to_be_repeated(tmp_path: Path) -> None:
    changes = {**SAVING, "save_every_n_batches": 5}
    trainer = small_trainer(tmp_path, steps=20, **changes)
    trainer.train(until=7)
    trainer.adjust_training_length(9)
    trainer.train(until=8)
    resumed = lumina.Trainer.open(killed(trainer), resume="latest", steps=12)
    assert resumed.step == 5
    with resumed:
        assert resumed.train() == "finished"
    assert resumed.step == 12
    assert replayed(resumed._session.paths)["verdict"] == "equal"


def test_an_undone_change_does_not_keep_a_run_from_a_new_length(tmp_path: Path) -> None:
    changes = {**SAVING, "save_every_n_batches": 5}
    trainer = small_trainer(tmp_path, steps=20, **changes)
    trainer.train(until=3)
    trainer.adjust_training_length(18)
    trainer.train(until=7)
    pending = lumina.Run(trainer._session.paths).undo(str(applied(trainer)[-1].id))
    trainer._steering.at_boundary()
    assert pending.wait(1)["state"] == "verified"
    trainer.train(until=8)
    paths = killed(trainer)
    for steps in (12, None):  # a plain resume after it finds the same
        resumed = lumina.Trainer.open(paths, resume="latest", steps=steps)
        resumed.train(until=9)
        assert resumed.session.total_steps == 12
        paths = killed(resumed)


def test_a_length_given_at_the_step_of_a_change_replays(tmp_path: Path) -> None:
    with small_trainer(tmp_path, steps=20, **SAVING) as trainer:
        trainer.train(until=6)
        trainer.adjust_training_length(30)
    with lumina.Trainer.open(trainer._session.paths, resume="latest", steps=12) as resumed:
        assert resumed.step == 6
        resumed.train()
    assert replayed(resumed._session.paths)["verdict"] == "equal"


def test_a_lost_database_learns_the_length_from_the_journal(tmp_path: Path) -> None:
    with small_trainer(tmp_path, steps=30, **SAVING) as trainer:
        trainer.train(until=6)
        trainer.adjust_training_length(24)
        trainer.train(until=8)
    paths = trainer._session.paths
    database = sorted(paths.root.glob(f"{paths.database.name}*"))
    assert database
    for path in database:
        path.unlink()
    lumina.Trainer.open(paths, resume="latest").close()
    assert StoreReader(paths).meta()["total_steps"] == 24


def watch(loss: Any, steps: int, *, total: int, automatic: bool = True, **settings: Any) -> list[Any]:
    """Proposals to an orchestrator that is shown a loss."""
    config = load_config("debug", {"warmup_steps": 20, "check_interval": 50, **settings})
    from lumina.accounting import count_parameters, token_budget

    budget = token_budget(config, count_parameters(config))
    facts = RunFacts((), (), 8, 2, 10**6, 10**6, 6e6, budget, total, tokens_per_epoch=50 * 1024.0, automatic=automatic)
    watching, found = Orchestrator(config, facts), []
    live = {"total_steps": float(total), "difficulty_sampling": config.data.difficulty_sampling}
    for step in range(1, steps + 1):
        series = {"loss": loss(step), "grad_norm": 1.0, "tokens": step * 1024.0, "learning_rate": 1e-3}
        watching.observe(step, series, {})
        if step % 50 == 0:
            found += watching.check(step, live, []).proposals
    return found


def quick(step: int) -> float:
    return float(2.0 + 3.0 * (step / 10) ** -2.0)


def slow(step: int) -> float:
    return float(6.0 * step**-0.2)


def test_epochs_adapt_to_the_curve_where_the_run_asked_for_it() -> None:
    found = watch(quick, 900, total=2000, adaptive_epochs=True)
    shorter = [proposal for proposal in found if proposal.method == "adjust_training_length"]
    assert shorter
    assert shorter[0].args["total_steps"] < 1800
    assert "comes within 0.5% of its end" in shorter[0].evidence["summary"]
    assert not [p for p in watch(quick, 900, total=2000) if p.method == "adjust_training_length"]


def test_at_the_end_nothing_more_is_asked_for_than_the_curve_speaks_for() -> None:
    found = watch(quick, 1000, total=1000, adaptive_epochs=True, intervention_threshold=0.0)
    assert all(proposal.args["total_steps"] < 1000 for proposal in found)


def test_only_a_length_that_the_budget_chose_is_lengthened() -> None:
    wide = {"adaptive_epochs": True, "intervention_threshold": 0.0}
    longer = [p for p in watch(slow, 600, total=1000, **wide) if p.method == "adjust_training_length"]
    assert longer
    assert longer[0].args["total_steps"] == pytest.approx(2000, rel=0.01)
    assert not watch(slow, 600, total=1000, automatic=False, **wide)


def test_the_curriculum_follows_the_phase_where_the_run_asked_for_it() -> None:
    asked = {"adaptive_curriculum": True, "difficulty_sampling": 0.4}
    found = [p for p in watch(quick, 100, total=2000, **asked) if p.method == "adjust_difficulty_sampling"]
    assert found
    assert found[0].args["strength"] < 0.2
    assert "phase of" in found[0].evidence["summary"]
    assert not watch(quick, 100, total=2000, difficulty_sampling=0.4)


def test_difficulty_sampling_changes_the_next_batches_and_is_exact(tmp_path: Path) -> None:
    changes: dict[str, Any] = {**SAVING, "difficulty_sampling": 0.5}

    trainer = small_trainer(tmp_path, "sampled", **changes)
    trainer.train(until=6)
    trainer.intervene("adjust_difficulty_sampling", strength=0.0)
    assert hparams(trainer)["difficulty_sampling"] == 0.0
    trainer.train(until=9)
    wanted = bits(trainer)
    again = lumina.Trainer.open(killed(trainer), resume="latest")
    again.train(until=9)
    assert bits(again) == wanted
    assert again.session.loader.history is not None
    assert again.session.loader.history.strength == 0.0
    again.close()
    with (
        small_trainer(tmp_path, "plain", **SAVING) as plain,
        pytest.raises(lumina.Refusal, match=r"keeps no losses .* data.difficulty_sampling above 0"),
    ):
        plain.intervene("adjust_difficulty_sampling", strength=0.5)
