"""Commands reach the trainer once each; what is no command is put away with a reason and stops nobody."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from typing import Any

import pytest

from lumina.store import inbox
from lumina.store.errors import Refusal
from lumina.store.inbox import MAX_COMMAND_BYTES, MAX_PER_TAKE, Command, Inbox
from lumina.store.layout import RunPaths, new_id


def command(kind: str = "pause", **rest: Any) -> Command:
    return Command(new_id(), kind, **rest)


def put(paths: RunPaths, name: str, content: bytes | dict[str, Any]) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (paths.inbox / name).write_bytes(data)


def quarantined(paths: RunPaths) -> dict[str, str]:
    """Reason by file name."""
    notes = [json.loads(path.read_bytes()) for path in sorted(paths.quarantine.glob("*.reason.json"))]
    return {note["file"]: note["reason"] for note in notes}


def test_a_command_arrives_as_it_was_sent(paths: RunPaths) -> None:
    sent = command(
        "intervene",
        method="adjust_routing_temperature",
        args={"temperature": 1.5},
        author={"name": "ada", "via": "cli"},
        expects={"values": {"routing_temperature": 1.0}},
        expires_step=90,
    )
    inbox.send(paths, sent)
    assert Inbox(paths).take() == [sent]


def test_commands_come_in_the_order_in_which_they_were_sent(paths: RunPaths) -> None:
    sent = [command(sent_at=1000.0 + number) for number in range(5)]
    for each in reversed(sent):
        inbox.send(paths, each)
    assert Inbox(paths).take() == sent


def test_a_command_comes_again_until_it_is_answered_and_never_after(paths: RunPaths) -> None:
    sent = command()
    inbox.send(paths, sent)
    trainer = Inbox(paths)
    assert trainer.take() == trainer.take() == [sent]
    trainer.done(sent.id, {"id": sent.id, "state": "verified"})
    assert trainer.take() == []
    assert inbox.receipt_of(paths, sent.id) == {"id": sent.id, "state": "verified"}


def test_a_command_whose_receipt_exists_is_removed_unread(paths: RunPaths) -> None:
    """The trainer died between publishing the receipt and removing the command."""
    sent = command()
    inbox.send(paths, sent)
    (paths.done / f"{sent.id}.json").write_text("{}")
    assert Inbox(paths).take() == []
    assert list(paths.inbox.glob("*.json")) == []


def test_an_id_is_used_once(paths: RunPaths) -> None:
    sent = command()
    inbox.send(paths, sent)
    with pytest.raises(FileExistsError):
        inbox.send(paths, replace(sent, kind="stop"))
    assert Inbox(paths).take() == [sent]


@pytest.mark.parametrize("wrong", [{"id": "../../escape"}, {"kind": "explode"}, {"args": {"text": "x" * 70_000}}])
def test_what_the_trainer_would_not_take_is_refused_when_sent(paths: RunPaths, wrong: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        inbox.send(paths, replace(command(), **wrong))
    assert refused.value.code == "bad_argument"
    assert list(paths.inbox.glob("*.json")) == []


def test_a_withdrawn_command_is_not_taken(paths: RunPaths) -> None:
    sent = command()
    inbox.send(paths, sent)
    inbox.withdraw(paths, sent.id)
    assert Inbox(paths).take() == []


MALFORMED = [
    (b"{", "not JSON"),
    (b"", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[1, 2]", "not a JSON object"),
    ({"extra": 1}, "unknown field 'extra'"),
    ({"v": 2}, "field 'v' must be 1"),
    ({"v": True}, "field 'v' must be 1"),
    ({"id": "abc"}, "field 'id' must be 32 hexadecimal digits"),
    ({"kind": "explode"}, "field 'kind' must be one of approve, checkpoint, intervene"),
    ({"kind": ["pause"]}, "field 'kind' must be one of"),
    ({"method": 7}, "field 'method' must be text or null"),
    ({"args": []}, "field 'args' must be an object"),
    ({"proposal": "nearly"}, "field 'proposal' must be an id or null"),
    ({"author": "ada"}, "field 'author' must be an object"),
    ({"expects": 3}, "field 'expects' must be an object or null"),
    ({"expires_step": 1.5}, "field 'expires_step' must be a step or null"),
    ({"sent_at": "now"}, "field 'sent_at' must be a time in UTC seconds"),
    ({"sent_at": None}, "field 'sent_at' must be a time in UTC seconds"),
]


@pytest.mark.parametrize(("content", "reason"), MALFORMED, ids=str)
def test_a_malformed_command_is_put_away_with_its_reason(
    paths: RunPaths, content: bytes | dict[str, Any], reason: str
) -> None:
    sent = asdict(command())
    name = f"{sent['id']}.json"
    put(paths, name, content if isinstance(content, bytes) else {**sent, **content})
    trainer = Inbox(paths)
    assert trainer.take() == []
    assert reason in quarantined(paths)[name]
    assert reason in str(inbox.rejection_of(paths, sent["id"])), "whoever sent it is told"
    assert [file for file, _ in trainer.pop_quarantined()] == [name]
    assert trainer.pop_quarantined() == []
    assert trainer.take() == []


def test_a_file_that_is_not_named_after_its_id_is_put_away(paths: RunPaths) -> None:
    sent = command()
    for name in ("hello.json", f"{new_id()}.json", f"{sent.id}.txt"):
        put(paths, name, asdict(sent))
    assert Inbox(paths).take() == []
    assert len(quarantined(paths)) == 3
    assert set(quarantined(paths).values()) == {f"the file is not named after its id {sent.id}"}


def test_what_is_not_a_regular_file_is_put_away_unread(paths: RunPaths) -> None:
    secret = paths.root / "secret.json"
    sent = command()
    secret.write_bytes(sent.to_json())
    os.symlink(secret, paths.inbox / f"{sent.id}.json")
    os.mkfifo(paths.inbox / f"{new_id()}.json")
    (paths.inbox / f"{new_id()}.json").mkdir()
    assert Inbox(paths).take() == []
    assert len(quarantined(paths)) == 3
    assert set(quarantined(paths).values()) == {"not a regular file"}
    assert secret.read_bytes() == sent.to_json()


def test_an_oversized_file_is_put_away_unread(paths: RunPaths) -> None:
    name = f"{new_id()}.json"
    put(paths, name, b"x" * (MAX_COMMAND_BYTES + 1))
    assert Inbox(paths).take() == []
    assert quarantined(paths) == {name: f"{MAX_COMMAND_BYTES + 1} bytes; at most {MAX_COMMAND_BYTES} are read"}


def test_a_hostile_name_is_put_away_under_a_harmless_one(paths: RunPaths) -> None:
    put(paths, "\x1b[31m evil.json", b"{}")
    assert Inbox(paths).take() == []
    assert list(quarantined(paths)) == ["__31m_evil.json"]


def test_a_second_file_of_a_quarantined_name_does_not_replace_the_first(paths: RunPaths) -> None:
    trainer = Inbox(paths)
    for content in (b"first", b"second"):
        put(paths, "same.json", content)
        trainer.take()
    kept = {path.read_bytes() for path in paths.quarantine.iterdir() if not path.name.endswith(".reason.json")}
    assert kept == {b"first", b"second"}


def test_half_written_commands_are_left_alone(paths: RunPaths) -> None:
    put(paths, ".unfinished.tmp", b"{")
    trainer = Inbox(paths)
    assert trainer.take() == []
    assert trainer.pop_quarantined() == []
    assert (paths.inbox / ".unfinished.tmp").exists()


def test_good_commands_beside_bad_files_are_taken(paths: RunPaths) -> None:
    put(paths, "bad.json", b"{")
    sent = command("stop")
    inbox.send(paths, sent)
    assert Inbox(paths).take() == [sent]


def test_a_flood_is_taken_in_portions_and_completely(paths: RunPaths) -> None:
    sent = [command() for _ in range(MAX_PER_TAKE + 10)]
    for each in sent:
        put(paths, f"{each.id}.json", each.to_json())
    trainer, taken = Inbox(paths), []
    for _ in range(2):
        portion = trainer.take()
        assert len(portion) <= MAX_PER_TAKE
        taken += portion
        for each in portion:
            trainer.done(each.id, {})
    assert {each.id for each in taken} == {each.id for each in sent}
    assert trainer.take() == []


def test_an_inbox_that_is_gone_is_empty(paths: RunPaths) -> None:
    paths.inbox.rename(paths.root / "elsewhere")
    assert Inbox(paths).take() == []


def test_no_file_is_touched_for_what_is_no_id(paths: RunPaths) -> None:
    (paths.root / "config.json").write_text('{"state": "secret"}')
    assert inbox.receipt_of(paths, "../../config") is None
    assert inbox.rejection_of(paths, "../../config") is None
    inbox.withdraw(paths, "../config")
    assert (paths.root / "config.json").exists()
