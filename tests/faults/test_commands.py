"""Commands sent twice, too late, against each other, malformed, by the thousand: applied whole and once, or not."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import shutil
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small import until

from faults.lab import STEPS, Injection, Lab, Life, Outcome, applied, assert_same, intervene, log_of, outcome
from faults.matrix import SEED, Tally, often, row
from lumina.client import Run
from lumina.interventions import ACTIONS
from lumina.interventions.api import Arg
from lumina.store import inbox
from lumina.store.errors import Refusal
from lumina.store.inbox import Command
from lumina.store.journal import Entry, read_entries
from lumina.store.layout import RunPaths, new_id

SLOW = ("slow_steps", {"seconds": 0.03})
PREPARED: dict[str, Any] = {"training.max_steps": 10, "save_every_n_batches": 2, "data.difficulty_sampling": 0.5}
LONGER = 12  # steps: what a change of the run's length asks for
COLLAPSE: dict[str, Any] = {
    "training.max_steps": 50,
    "save_every_n_batches": 1000,
    "moe.router_init_bias": 6.0,
    "moe.load_balancing_weight": 0.0,
    "proposal_expiry_steps": 10,
}


def answers(paths: RunPaths, id: str) -> list[Entry]:
    """Every line of the journal that answers a command."""
    found = []
    for entry in read_entries(paths):
        receipt = (entry.doc.get("receipt") or {}) if entry.type == "segment" else entry.doc
        if entry.type in ("applied", "refused", "segment") and receipt.get("id") == id:
            found.append(entry)
    return found


def receipt(paths: RunPaths, id: str) -> dict[str, Any]:
    found = inbox.receipt_of(paths, id)
    assert found is not None, log_of(paths)
    return found


# Killed while a command is applied


def example(argument: Arg) -> float:
    """A value that an intervention takes, from its declaration alone; a run can only end after where it is."""
    if argument.name == "total_steps":
        return LONGER
    if argument.default is not None:
        return argument.default
    low = argument.ge if argument.ge is not None else (argument.gt or 0.0)
    if argument.type == "int":
        return int(low)
    high = min(low + 2.0, argument.le if argument.le is not None else math.inf)
    return low + (high - low) * 0.3


@pytest.fixture(scope="module")
def prepared(lab: Lab) -> RunPaths:
    """A run that was killed in step 8: its resume continues at step 6, where it finds a command."""
    paths = lab.create(**PREPARED)
    assert lab.live(paths, ("kill_in_step", {"step": 8, "call": 5})).code == -9
    return paths


def with_command(lab: Lab, prepared: RunPaths, command: Command) -> RunPaths:
    """A copy of that run with the command in its inbox."""
    paths = RunPaths(lab.new_folder())
    shutil.copytree(prepared.root, paths.root)
    inbox.send(paths, command)
    return paths


def lives(lab: Lab, paths: RunPaths, *inject: Injection) -> Life:
    """A whole life; where the intervention paused the run, somebody lets it go on."""
    life = lab.start(paths, *inject)
    until(lambda: not running(life) or Run(paths).status()["state"] == "paused", 240)
    if running(life):
        inbox.send(paths, Command(new_id(), "unpause"))
    life.wait()
    return life


def to_the_end(lab: Lab, paths: RunPaths) -> Outcome:
    """Resumed until it is finished: a run that the intervention stopped goes on by one more resume."""
    for _ in range(2):
        assert lives(lab, paths).code == 0, log_of(paths)
        if outcome(paths).state == "finished":
            break
    return outcome(paths)


@row(
    "kill -9 in the middle of applying each intervention",
    injected="SIGKILL at a seeded call while the command is answered, for every action of the catalogue",
    expected="whole or absent, never half; after the resume applied once, one receipt, the bits of an undisturbed run",
)
@pytest.mark.parametrize("method", sorted(ACTIONS))
def test_killed_while_applying(lab: Lab, tally: Tally, prepared: RunPaths, method: str) -> None:
    command = intervene(method, **{each.name: example(each) for each in ACTIONS[method].declaration.args})
    undisturbed = with_command(lab, prepared, command)
    life = lives(lab, undisturbed, ("kill_in_answer", {"call": None}))
    assert life.code == 0, log_of(undisturbed)
    assert receipt(undisturbed, command.id)["state"] == "verified", receipt(undisturbed, command.id)
    calls = life.hits[0]["calls"]
    expected = outcome(undisturbed)
    if expected.state != "finished":
        expected = to_the_end(lab, undisturbed)
    chance = random.Random(f"{SEED} {method}")
    for call in sorted(chance.sample(range(1, calls + 1), min(calls, often(1, 12)))):
        paths = with_command(lab, prepared, command)
        life = lives(lab, paths, ("kill_in_answer", {"call": call}))
        assert life.code == -9
        assert len(life.hits) == 1
        assert len(answers(paths, command.id)) in (0, 1)
        tally.tried()
        assert_same(to_the_end(lab, paths), expected)
        assert len(answers(paths, command.id)) == 1
        assert receipt(paths, command.id)["state"] == "verified"
        assert not list(paths.inbox.glob("*.json"))


# Killed between a decision and what it does

PROPOSED = [
    ["adjust_routing_temperature", {"temperature": 1.5}, []],
    ["prune_expert", {"layer_idx": 0, "expert_idx": 1}, [["add_expert", {"layer_idx": 1}]]],
]
SHORT: dict[str, Any] = {"check_interval": 4, "autonomy": "auto"}
ALONE: dict[str, tuple[dict[str, Any], list[Injection]]] = {
    "a collapsed router": (
        {**COLLAPSE, "training.max_steps": 34, "save_every_n_batches": 5, "autonomy": "auto"},
        [],
    ),
    "no finite loss": (
        {**SHORT, "training.max_steps": 22},
        [("spoil_loss", {"step": 11, "steps": 11, "factor": math.nan})],
    ),
    "a person approves two acts": (
        {**SHORT, "autonomy": "ask"},
        [
            ("propose_at_check", {"step": 8, "proposals": PROPOSED[1:]}),
            ("send_at_step", {"step": 10, "kind": "approve"}),
        ],
    ),
    "two findings": (SHORT, [("propose_at_check", {"step": 8, "proposals": PROPOSED})]),
}


DECIDING = ["proposal", "decision", "applied", "segment", "effect"]


def decisions(paths: RunPaths) -> list[tuple[Any, ...]]:
    """Everything that was proposed, decided or made, in order, and after which step."""
    found: list[tuple[Any, ...]] = []
    about: dict[str | None, str] = {}
    for entry in read_entries(paths):
        doc = entry.doc.get("receipt") or entry.doc
        if entry.type == "proposal":
            about[entry.id] = f"{doc['method']} {doc['args']} for {doc['cause']}"
            found.append((entry.step, about[entry.id]))
        elif entry.type == "decision":
            found.append((entry.step, about[doc["proposal"]], doc["decision"], doc["why"]))
        elif entry.type == "applied" or entry.doc.get("receipt"):
            found.append((entry.step, about[doc["proposal"]], doc["method"], doc["before"], doc["after"]))
    return found


def places(paths: RunPaths) -> list[int]:
    """Which of the lines that decide something are behind the first proposal."""
    types = [entry.type for entry in read_entries(paths) if entry.type in DECIDING]
    return list(range(types.index("proposal") + 1, len(types) + 1))


@row(
    "kill -9 between a decision and its acts",
    injected="SIGKILL behind each line that a decision of the orchestrator makes, in a run that acts alone: one act, "
    "a rewind and another act, two proposals at once with a checkpoint between their acts; and of an approval of two",
    expected="the resume carries out what was decided, once and after the same step; same bits, series and decisions",
)
@pytest.mark.parametrize("found", sorted(ALONE))
def test_killed_between_a_decision_and_its_acts(lab: Lab, tally: Tally, found: str) -> None:
    changes, inject = ALONE[found]
    paths = lab.create(**changes)
    assert lab.live(paths, *inject).code == 0, log_of(paths)
    expected, decided, numbers = outcome(paths), decisions(paths), places(paths)
    assert applied(paths)
    chance = random.Random(f"{SEED} {found}")
    chosen = {numbers[0], *chance.sample(numbers, min(len(numbers), often(2, 100)))}
    for number in sorted(chosen):
        paths = lab.create(**changes)
        life = lab.live(paths, *inject, ("kill_after_line", {"number": number, "types": DECIDING}))
        assert life.code == -9
        tally.tried()
        assert lab.live(paths, *inject).code == 0, log_of(paths)
        assert decisions(paths) == decided, number
        assert_same(outcome(paths), expected)


# Once, in order, in time


@row(
    "one command sent 100 times",
    injected="the same command, 100 times, before, while and after it is answered",
    expected="applied once, one receipt",
)
def test_sent_a_hundred_times(lab: Lab, tally: Tally) -> None:
    command = intervene("emergency_lr_reduction", reduction_factor=2.0)
    paths = lab.create(**{"training.max_steps": 60})
    life = lab.start(paths, SLOW)
    sent = 0
    while sent < 100:
        try:
            inbox.send(paths, command)
            until_taken(paths, command, life)
        except FileExistsError:
            pass
        sent += 1
    tally.tried(sent)
    assert life.wait() == 0
    assert len(answers(paths, command.id)) == 1
    assert receipt(paths, command.id)["after"]["lr_scale"] == 0.5
    assert lab.start(paths, resume="latest", steps=70).wait() == 0
    assert len(answers(paths, command.id)) == 1


def until_taken(paths: RunPaths, command: Command, life: Life) -> None:
    """Until the trainer has removed the file, every third time; otherwise the next one meets it still there."""
    if command.sent_at and random.random() < 0.34:
        until(lambda: not (paths.inbox / f"{command.id}.json").exists() or not running(life), 30)


def running(life: Life) -> bool:
    """Whether it has not ended; what has ended stays a zombie until it is waited for."""
    try:
        return Path(f"/proc/{life.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@row(
    "two commands against each other",
    injected="pairs of commands that each expect the same old value, in the inbox at once",
    expected="the first of each pair is applied, the second refused and told what the value is now",
)
def test_conflicting_commands(lab: Lab, tally: Tally) -> None:
    pairs, commands = often(5, 20), []
    for number in range(pairs):
        old = 1.0 if number == 0 else round(1.0 + 0.1 * number, 2)
        for offset in (0.1, 0.15):
            expects = {"values": {"routing_temperature": old}}
            args = {"temperature": round(old + offset, 2)}
            at = 1e9 + len(commands)
            author = {"name": "ada", "via": "api"}
            commands.append(
                Command(new_id(), "intervene", "adjust_routing_temperature", args, None, author, expects, sent_at=at)
            )
    paths = lab.create(*commands)
    assert lab.live(paths).code == 0, log_of(paths)
    for first, second in zip(commands[::2], commands[1::2], strict=True):
        assert receipt(paths, first.id)["state"] == "verified"
        told = receipt(paths, second.id)
        assert (told["state"], told["code"]) == ("refused", "stale")
        assert f"it is {first.args['temperature']} now" in told["reason"]
        tally.tried()
    answered = [entry.id for entry in read_entries(paths) if entry.type in ("applied", "refused")]
    assert answered == [command.id for command in commands], "the order of intake"


@row(
    "a command to a finished run",
    injected="a command through the client, and a file in the inbox, after the run has ended; then a resume",
    expected="refused at once by the client; the file is refused by the next resume, not applied",
)
def test_a_command_to_a_finished_run(lab: Lab, tally: Tally) -> None:
    paths = lab.create()
    assert lab.live(paths).code == 0
    with pytest.raises(Refusal) as refused:
        Run(paths).intervene("adjust_routing_temperature", temperature=2.0)
    assert refused.value.code == "not_running"
    late = intervene("adjust_routing_temperature", temperature=2.0)
    inbox.send(paths, late)
    tally.tried(2)
    assert lab.start(paths, resume="latest", steps=STEPS + 4).wait() == 0
    assert receipt(paths, late.id)["code"] == "not_running"
    assert not applied(paths)
    assert Run(paths).status()["hparams"]["routing_temperature"] == 1.0


@row(
    "an approval after the proposal's expiry",
    injected="an approval in the steps between expiry and the next check, and one after that",
    expected="both refused as expired; nothing is applied",
)
def test_an_approval_after_expiry(lab: Lab, tally: Tally) -> None:
    paths = lab.create(**COLLAPSE)
    proposed = at_first_proposal(lab)
    expires = proposed + 10
    late = [("send_at_step", {"step": step, "kind": "approve"}) for step in (expires + 1, expires + 6)]
    life = lab.live(paths, *late)
    assert life.code == 0, log_of(paths)
    assert [hit["state"] for hit in life.hits] == ["open", "expired"], "one before the check that notices, one after"
    for hit in life.hits:
        told = receipt(paths, hit["id"])
        assert (told["state"], told["code"]) == ("expired", "expired")
        tally.tried()
    assert not applied(paths)


@row(
    "an approval after its state has changed",
    injected="the value that a proposal is about changed by hand, then the proposal approved before the next check",
    expected="refused, with what changed it and when; the value by hand stands",
)
def test_an_approval_of_another_state(lab: Lab, tally: Tally) -> None:
    proposed = at_first_proposal(lab)
    for _ in range(often(1, 4)):
        paths = lab.create(**COLLAPSE)
        hand = {"step": proposed + 1, "kind": "intervene", "method": "adjust_routing_temperature",
                "args": {"temperature": 3.0}}  # fmt: skip
        life = lab.live(paths, ("send_at_step", hand), ("send_at_step", {"step": proposed + 2, "kind": "approve"}))
        assert life.code == 0, log_of(paths)
        by_hand, approval = life.hits
        assert approval["state"] == "open", "not withdrawn yet"
        assert receipt(paths, by_hand["id"])["state"] == "verified"
        told = receipt(paths, approval["id"])
        assert (told["state"], told["code"]) == ("refused", "stale")
        assert "adjust_routing_temperature" in told["reason"]
        tally.tried()
        assert len(applied(paths)) == 1


_first: dict[int, int] = {}


def at_first_proposal(lab: Lab) -> int:
    """The step at which the collapsing router is first proposed to be helped; the same in every such run."""
    if id(lab) not in _first:
        paths = lab.create(**COLLAPSE)
        assert lab.live(paths).code == 0, log_of(paths)
        _first[id(lab)] = next(entry.step for entry in read_entries(paths) if entry.type == "proposal")
    return _first[id(lab)]


# What is no command


def malformed(chance: random.Random) -> tuple[str, bytes]:
    """A file name and content that no client writes."""
    whole = json.loads(intervene("adjust_routing_temperature", temperature=2.0).to_json())
    kind = chance.randrange(7)
    if kind == 0:
        return f"{whole['id']}.json", json.dumps(whole).encode()[: chance.randrange(1, 120)]
    if kind == 1:
        return f"{whole['id']}.json", chance.randbytes(chance.randrange(0, 500))
    if kind == 2:
        field = chance.choice(sorted(whole))
        wrong: Any = chance.choice([["x"], {"y": []}, -1.5, True, "\x00", 10**30])
        if field == "args" and isinstance(wrong, dict):
            wrong = "z"
        return f"{whole['id']}.json", json.dumps({**whole, "v": 3, field: wrong}).encode()
    if kind == 3:
        return f"{new_id()}.json", json.dumps(whole).encode()
    if kind == 4:
        return f"{whole['id']}.json", json.dumps({**whole, "args": {"temperature": "9" * 70_000}}).encode()
    if kind == 5:
        return "".join(chance.choice("abc ;$'\"*?\\") for _ in range(12)), json.dumps(whole).encode()
    return f"{whole['id']}.json", b"[" * 20_000


@row(
    "malformed commands",
    injected="seeded garbage: cut short, noise, wrong types and versions, wrong names, too long, nested 20,000 deep",
    expected="each in quarantine with its reason; the run ends in the same bits",
)
def test_malformed_commands(lab: Lab, tally: Tally) -> None:
    chance, count = random.Random(SEED), often(100, 500)
    changes = {"training.max_steps": often(40, 120)}
    paths = lab.create(**changes)
    for _ in range(count):
        name, content = malformed(chance)
        (paths.inbox / name).write_bytes(content)
    files = sum(entry.is_file() for entry in paths.inbox.iterdir())
    life = lab.start(paths, SLOW)
    assert life.wait() == 0, log_of(paths)
    reasons = list(paths.quarantine.glob("*.reason.json"))
    assert len(reasons) == files
    assert all(json.loads(path.read_bytes())["reason"] for path in reasons)
    tally.tried(files)
    assert_same(outcome(paths), lab.undisturbed(**changes))


@row(
    "what is no file in the inbox",
    injected="symbolic links (to config.yaml, to nothing, to /dev/zero), a FIFO, a folder, a socket",
    expected="quarantined, never followed; the targets are untouched; the run ends in the same bits",
)
def test_no_file_in_the_inbox(lab: Lab, tally: Tally) -> None:
    paths = lab.create()
    before = paths.config.read_bytes()
    for target in (paths.config, Path("/nowhere"), Path("/dev/zero")):
        (paths.inbox / f"{new_id()}.json").symlink_to(target)
    os.mkfifo(paths.inbox / f"{new_id()}.json")
    (paths.inbox / f"{new_id()}.json").mkdir()
    os.mknod(paths.inbox / f"{new_id()}.json", 0o140644)
    assert lab.live(paths).code == 0, log_of(paths)
    assert len(list(paths.quarantine.glob("*.reason.json"))) == 6
    tally.tried(6)
    assert paths.config.read_bytes() == before
    assert_same(outcome(paths), lab.undisturbed())


@row(
    "a full inbox",
    injected="10,000 files at once: commands that cannot be, and garbage",
    expected="steps go on between them, a boundary takes in a bounded part; the run ends in the same bits",
)
def test_a_full_inbox(lab: Lab, tally: Tally) -> None:
    changes = {"training.max_steps": often(30, 200)}
    paths = lab.create(**changes)
    for number in range(10_000):
        command = intervene("adjust_routing_temperature", temperature=-1.0)
        content = command.to_json() if number % 2 else b"{"
        (paths.inbox / f"{command.id}.json").write_bytes(content)
    life = lab.live(paths, ("watch_inbox", {}))
    assert life.code == 0, log_of(paths)
    tally.tried()
    waiting, times = [hit["waiting"] for hit in life.hits], [hit["at"] for hit in life.hits]
    taken = [before - after for before, after in itertools.pairwise(waiting)]
    assert waiting[1] > 5000, "one boundary took in most of them"
    assert max(taken) < 5000
    assert min(taken[:10]) > 0, "a boundary took in nothing"
    longest = max(after - before for before, after in itertools.pairwise(times))
    tally.figure(f"median of {statistics.median(taken):.0f} files a boundary, longest step {longest:.2f} s with them")
    assert_same(outcome(paths), lab.undisturbed(**changes))
    states = Counter(entry.doc["state"] for entry in read_entries(paths) if entry.type == "refused")
    assert set(states) == {"refused"}
