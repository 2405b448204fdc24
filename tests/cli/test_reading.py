"""What the command line shows of runs, presets and the machine: tables for people, one JSON document for programs."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from factories import Recording, finished_run, loss_at, new_run

from lumina import views
from lumina._cli.watch import question
from lumina.accounting import count_parameters
from lumina.config import list_presets, load_config
from lumina.hardware import detect


def test_presets_are_shown_with_counted_parameters(lumina: Any) -> None:
    listed = lumina("presets", "--json").document
    assert [row["name"] for row in listed] == list_presets()
    assert listed[0]["active"] == count_parameters(load_config("debug")).active
    table = lumina("presets").out.splitlines()
    assert table[0].split() == [
        *("PRESET", "ACTIVE", "TOTAL", "MEMORY", "HIDDEN", "LAYERS", "HEADS", "KV", "EXPERTS", "TOP-K", "MOD"),
        "HARDWARE",
    ]
    assert [line.split()[0] for line in table[1:]] == list_presets()
    assert table[1].split()[1:3] == ["503K", "2.66M"]


def test_a_plan_counts_what_a_configuration_takes(lumina: Any) -> None:
    document = lumina("plan", "debug", "--json").document
    counts = count_parameters(load_config("debug"))
    assert (document["preset"], document["data"]) == ("debug", None)
    assert document["parameters"]["total"] == counts.total
    assert document["parameters"]["active"] == counts.active
    assert document["tokens_per_step"] == 8 * 256
    assert document["budget"]["tokens_optimal"] == 20 * counts.total
    assert document["budget"]["steps"] == -(-20 * counts.total // 2048)
    parts = document["memory_bytes"]["fp32"]
    assert parts["total"] == sum(parts[name] for name in ("weights", "gradients", "optimizer", "activations"))


def test_a_plan_follows_what_is_set_and_the_size_of_the_data(lumina: Any) -> None:
    small = lumina("plan", "debug", "--json").document
    large = lumina("plan", "debug", "--set", "moe.num_experts=16", "--tokens", "1_000_000", "--json").document
    assert large["parameters"]["feed_forward"] == 2 * small["parameters"]["feed_forward"]
    assert large["data"]["tokens"] == 1_000_000
    assert large["data"]["coverage"] == pytest.approx(1_000_000 / large["budget"]["tokens_optimal"])
    shown = lumina("plan", "debug", "--tokens", "1_000_000").out
    assert "parameters, active    502,912 (503K; used by one token)" in shown
    assert "epochs" in shown


def test_the_interventions_are_listed_with_their_ranges(lumina: Any) -> None:
    listed = {method["method"]: method for method in lumina("interventions", "--json").document}
    assert listed["adjust_routing_temperature"]["args"][0]["le"] == 5.0
    shown = lumina("interventions").out
    assert "    temperature (0.1 to 5): 1.0 is neutral; typical 0.5 to 2.0" in shown
    assert max(len(line) for line in shown.splitlines()) <= 140


def test_the_doctor_says_what_this_machine_is_and_what_would_be_chosen(lumina: Any) -> None:
    facts = lumina("doctor", "--json").document
    assert facts["device"] == str(detect())
    assert facts["precision"] in ("fp32", "fp16", "mixed_fp16", "mixed_bf16")
    assert facts["threads"] >= 1
    assert facts["working directory writable"] is True
    shown = lumina("doctor").out
    assert "precision" in shown
    assert not {"True", "[", "]"} & set(shown.replace("[", " [ ").split())


def test_runs_of_a_folder_are_listed(lumina: Any, runs: Path) -> None:
    assert lumina("runs", "--json").document == []
    assert lumina("runs").out.startswith("no run under ")
    finished_run(runs, "first")
    new_run(runs, "second")
    assert [(run["name"], run["state"]) for run in lumina("runs", "--json").document] == [
        ("first", "finished"),
        ("second", "created"),
    ]
    table = lumina("runs").out.splitlines()
    assert table[1].split() == ["first", "finished", "40", "40", f"{loss_at(40):.5g}"]
    assert table[2].split() == ["second", "created", "-", "-", "-"]


def test_the_status_of_a_run_is_its_view_model(lumina: Any, live: Recording) -> None:
    document = lumina("status", "first", "--json").document
    expected = views.status(live.paths)
    assert {**document, "heartbeat_age_s": 0} == {**expected, "heartbeat_age_s": 0}
    shown = dict(line.split(maxsplit=1) for line in lumina("status", "first").out.splitlines())
    assert (shown["name"], shown["state"], shown["step"]) == ("first", "running", "20")
    assert shown["loss"] == f"{loss_at(20):.5g}"
    assert (shown["throughput"], shown["tokens"]) == ("4,000 tokens/s", "41K")


def test_a_run_can_be_named_by_its_path(lumina: Any, live: Recording) -> None:
    assert lumina("status", live.paths.root, "--json").document["name"] == "first"


@pytest.mark.parametrize("command", ["status", "watch", "metrics", "proposals", "pause", "stop", "resume"])
def test_a_run_that_is_not_there_is_named_with_those_that_are(lumina: Any, runs: Path, command: str) -> None:
    finished_run(runs, "first")
    answer = lumina(command, "frist")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"lumina: error: no run 'frist' under {runs} (there are: first) (not_found)\n"


def test_a_damaged_store_is_one_line_and_not_a_traceback(lumina: Any, runs: Path) -> None:
    finished_run(runs).database.write_bytes(b"no database" * 500)
    answer = lumina("status", "first")
    assert (answer.code, answer.out) == (1, "")
    assert "file is not a database; the next resume rebuilds it from journal.jsonl (corrupt)" in answer.err


def test_a_damaged_journal_is_one_line_that_names_its_line(lumina: Any, runs: Path) -> None:
    paths = finished_run(runs)
    damaged = paths.journal.read_bytes().splitlines(keepends=True)
    damaged[1] = b"{}\n"
    paths.journal.write_bytes(b"".join(damaged))
    answer = lumina("resume", "first", "--steps", "60", "--background")
    assert answer.code == 1
    assert "journal.jsonl:2: the line is damaged" in answer.err


def test_metrics_are_the_points_of_the_current_line(lumina: Any, runs: Path) -> None:
    finished_run(runs)
    series = lumina("metrics", "first", "--json", "--series", "loss,val_loss").document["series"]
    assert set(series) == {"loss", "val_loss"}
    assert series["loss"] == {"step": list(range(1, 41)), "value": [loss_at(step) for step in range(1, 41)]}
    rows = list(csv.DictReader(io.StringIO(lumina("metrics", "first", "--series", "loss,val_loss").out)))
    assert [float(row["loss"]) for row in rows] == [loss_at(step) for step in range(1, 41)]
    assert rows[8]["val_loss"] == ""
    assert "throughput" in lumina("metrics", "first").out.splitlines()[0]


def test_a_series_that_a_run_does_not_have_is_named(lumina: Any, runs: Path) -> None:
    finished_run(runs)
    answer = lumina("metrics", "first", "--series", "loss,throughputt")
    assert (answer.code, answer.out) == (2, "")
    assert "has no series 'throughputt'; did you mean throughput?" in answer.err
    assert "there are: loss, val_loss, throughput" in lumina("metrics", "first", "--series", "xyzzy", "--json").err


def test_a_watched_proposal_says_how_to_answer_it(live: Recording) -> None:
    proposal = live.propose(1.4)
    assert live.writer.flush()
    (shown,) = views.queue(live.paths)["open"]
    asked, why, how = question("first", shown).splitlines()
    assert (
        asked == f"proposal {proposal[:8]}: adjust_routing_temperature temperature=1.4, confidence 0.86, until step 220"
    )
    assert why.strip() == "routing entropy fell to 0.21"
    assert f"lumina approve first {proposal[:8]}" in how
    undo = {
        **shown,
        "method": "undo",
        "args": {"receipt": proposal},
        "evidence": {"numbers": {"method": "prune_expert"}, "summary": ""},
    }
    assert question("first", undo).startswith(f"proposal {proposal[:8]}: undo prune_expert, confidence")


def test_metrics_of_all_segments_keep_what_was_abandoned(lumina: Any, runs: Path) -> None:
    first = Recording(new_run(runs))
    first.train(20)
    first.close()
    second = Recording(first.paths, cause="rewind", fork_step=10)
    second.train(12)
    second.finish()
    words = ("metrics", "first", "--series", "loss")
    assert lumina(*words, "--json").document["series"]["loss"]["step"] == list(range(1, 13))
    every = lumina(*words, "--all-segments", "--json").document["series"]["loss"]
    assert every["segment"] == [first.segment] * 20 + [second.segment] * 2
    assert len(lumina(*words, "--all-segments").out.splitlines()) == 23


def test_a_value_that_is_not_finite_is_null_in_json(lumina: Any, runs: Path) -> None:
    recording = Recording(new_run(runs))
    recording.writer.points(recording.segment, 1, {"loss": float("nan")})
    recording.finish()
    assert lumina("metrics", "first", "--json").document["series"]["loss"] == {"step": [1], "value": [None]}
    assert lumina("status", "first", "--json").document["loss"] is None


def test_watching_a_run_that_has_ended_shows_its_last_line(lumina: Any, runs: Path) -> None:
    finished_run(runs)
    answer = lumina("watch", "first")
    assert answer.code == 0
    assert answer.out.startswith(f"first finished  step 40/40  loss {loss_at(40):.4f}")


def test_watching_a_crashed_run_says_how_to_go_on(lumina: Any, runs: Path) -> None:
    recording = Recording(new_run(runs))
    recording.train(3)
    recording.close()
    answer = lumina("watch", "first")
    assert answer.code == 1
    assert answer.err == "lumina: error: first crashed: the trainer is gone; lumina resume continues it\n"


def test_text_from_a_run_cannot_command_the_terminal(lumina: Any, live: Recording) -> None:
    doc = {"method": "x\x1b[31m", "args": {}, "evidence": {"summary": "red\x1b[0m"}, "confidence": 0.5}
    live.commit("proposal", "a" * 32, {**doc, "step": 1, "expires_step": 2, "state": "open"})
    live.writer.meta("device", {"name": "evil\x1b]0;title\x07"})
    assert live.writer.flush()
    for command in ("proposals", "status"):
        answer = lumina(command, "first")
        assert answer.code == 0
        assert "\x1b" not in answer.out, command


def test_queries_answer_from_the_store(lumina: Any, tmp_path: Path) -> None:
    finished_run(tmp_path, steps=40)
    asked = ("query", "first", "--dir", str(tmp_path), "--json")
    experts = lumina(*asked, "get_expert_statistics").document
    assert set(experts) == {
        *("per_expert_utilization", "routing_entropy", "load_balance_loss", "tokens_dropped", "per_layer")
    }
    assert experts["routing_entropy"] == 0.9
    assert experts["per_layer"]["0"]["routing_entropy"] == 0.9
    assert [sum(row) for row in experts["per_expert_utilization"]] == [1.0, 1.0]
    depth = lumina(*asked, "get_mod_statistics").document
    assert (depth["average_depth"], depth["per_layer_usage"]) == (1.0, [0.5, 0.5])
    metrics = lumina(*asked, "get_current_metrics").document
    assert (metrics["loss"], metrics["step"]) == (loss_at(40), 40)
    refused = lumina("query", "first", "add_expert", "--dir", str(tmp_path))
    assert refused.code == 2
    assert "queries: get_current_metrics, get_expert_statistics, get_mod_statistics" in refused.err
