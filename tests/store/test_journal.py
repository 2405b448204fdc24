"""The journal holds every decision that was made, and nothing that was not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from lumina.store import atomic
from lumina.store.errors import Refusal
from lumina.store.journal import Entry, Journal, current_line, entries_on_line, read_entries
from lumina.store.layout import RunPaths


@pytest.fixture
def three(paths: RunPaths) -> RunPaths:
    """A journal of three entries, closed."""
    with Journal.open(paths) as journal:
        for step in (1, 2, 3):
            journal.append("checkpoint", "a", step, f"checkpoint_step_{step}", {"reason": "periodic"})
    return paths


def lines(paths: RunPaths) -> list[bytes]:
    return paths.journal.read_bytes().splitlines(keepends=True)


def steps(entries: list[Entry]) -> list[int]:
    return [entry.step for entry in entries]


def test_what_was_appended_is_read_back(paths: RunPaths) -> None:
    with Journal.open(paths) as journal:
        entry = journal.append("applied", "a", 7, "x", {"after": {"rate": 0.1}, "words": "größer\n"})
    assert read_entries(paths) == [entry]
    assert (entry.seq, entry.step, entry.doc["words"]) == (1, 7, "größer\n")
    assert len(lines(paths)) == 1, "one line for each entry, whatever is in it"


def test_a_line_is_json_that_any_program_reads(three: RunPaths) -> None:
    document = json.loads(lines(three)[1])
    assert set(document) == {"v", "seq", "segment", "step", "type", "id", "at", "doc", "crc"}
    assert (document["seq"], document["type"]) == (2, "checkpoint")


def test_numbers_that_json_lacks_become_null(paths: RunPaths) -> None:
    with Journal.open(paths) as journal:
        entry = journal.append("effect", "a", 1, "x", {"delta": math.nan, "bound": math.inf})
    assert entry.doc == {"delta": None, "bound": None}
    assert read_entries(paths)[0].doc == entry.doc


def test_an_unknown_type_is_refused_before_anything_is_written(paths: RunPaths) -> None:
    with Journal.open(paths) as journal, pytest.raises(ValueError, match="unknown journal entry type"):
        journal.append("gossip", "a", 1)
    assert paths.journal.read_bytes() == b""


def test_a_torn_tail_is_cut_off_wherever_it_was_torn(three: RunPaths) -> None:
    whole = three.journal.read_bytes()
    start = len(whole) - len(lines(three)[-1])
    for length in range(start + 1, len(whole)):
        three.journal.write_bytes(whole[:length])
        assert steps(read_entries(three)) == [1, 2]
        assert three.journal.stat().st_size == length, "a reader leaves the tail alone"
        with Journal.open(three) as journal:
            assert journal.torn_bytes == length - start
        assert three.journal.read_bytes() == whole[:start]


def test_after_a_torn_tail_the_next_entry_takes_its_number(three: RunPaths) -> None:
    three.journal.write_bytes(three.journal.read_bytes()[:-1])
    with Journal.open(three) as journal:
        assert journal.last_seq == 2
        assert journal.append("end", "a", 9).seq == 3
    assert steps(read_entries(three)) == [1, 2, 9]


def test_a_changed_digit_in_a_line_is_noticed_and_named(three: RunPaths) -> None:
    whole = lines(three)
    whole[1] = whole[1].replace(b'"step":2', b'"step":8')
    damaged = b"".join(whole)
    three.journal.write_bytes(damaged)
    for use in (lambda: read_entries(three), lambda: Journal.open(three)):
        with pytest.raises(Refusal, match=r"journal\.jsonl:2: the line is damaged") as refused:
            use()
        assert refused.value.code == "corrupt"
    assert three.journal.read_bytes() == damaged, "nothing is repaired by guessing"


def test_a_line_that_is_missing_is_noticed(three: RunPaths) -> None:
    whole = lines(three)
    three.journal.write_bytes(whole[0] + whole[2])
    with pytest.raises(Refusal, match=r"journal\.jsonl:2: entry 2 expected, entry 3 found"):
        read_entries(three)


def test_a_run_without_a_journal_has_no_entries(paths: RunPaths) -> None:
    assert read_entries(paths) == []


@pytest.mark.parametrize("operation", ["append", "fsync"])
def test_an_entry_that_could_not_be_made_durable_did_not_happen(
    three: RunPaths, fail_at: Callable[[str], None], operation: str
) -> None:
    before = three.journal.read_bytes()
    with Journal.open(three) as journal:
        fail_at(operation)
        with pytest.raises(OSError, match="No space left"):
            journal.append("end", "a", 4)
        atomic.fault_hook = None
        assert three.journal.read_bytes() == before
        assert steps(journal.entries) == [1, 2, 3]
        assert journal.append("end", "a", 5).seq == 4
    assert steps(read_entries(three)) == [1, 2, 3, 5]


def test_a_journal_that_cannot_be_restored_takes_no_more(three: RunPaths) -> None:
    def broken_disk(operation: str, path: Path) -> None:
        if operation in ("fsync", "truncate"):
            raise OSError(5, "Input/output error", str(path))

    with Journal.open(three) as journal:
        atomic.fault_hook = broken_disk
        try:
            with pytest.raises(OSError, match="Input/output"):
                journal.append("end", "a", 4)
        finally:
            atomic.fault_hook = None
        with pytest.raises(OSError, match="could not be restored"):
            journal.append("end", "a", 5)


# The current line


def segment(journal: Journal, id: str, step: int, cause: str, parent: str | None, fork_seq: int = 0) -> None:
    journal.append("segment", id, step, id, {"parent": parent, "fork_step": step, "fork_seq": fork_seq, "cause": cause})


def decided(paths: RunPaths, head: str | None = None) -> list[str | None]:
    return [entry.id for entry in entries_on_line(read_entries(paths), head) if entry.type == "applied"]


def test_a_restart_keeps_the_decisions_that_it_repeats(paths: RunPaths) -> None:
    with Journal.open(paths) as journal:
        segment(journal, "a", 0, "start", None)
        journal.append("applied", "a", 5, "early")
        journal.append("applied", "a", 15, "late")
        segment(journal, "b", 10, "restart", "a", fork_seq=2)
    assert decided(paths) == ["early", "late"]


def test_a_rewind_leaves_the_later_decisions_behind(paths: RunPaths) -> None:
    with Journal.open(paths) as journal:
        segment(journal, "a", 0, "start", None)
        journal.append("applied", "a", 5, "early")
        journal.append("applied", "a", 15, "late")
        segment(journal, "b", 10, "rewind", "a", fork_seq=2)
        journal.append("applied", "b", 12, "new")
    assert decided(paths) == ["early", "new"]
    assert decided(paths, head="a") == ["early", "late"], "nothing that happened is erased"


def test_a_rewind_to_a_step_keeps_what_its_checkpoint_had_applied_and_no_more(paths: RunPaths) -> None:
    with Journal.open(paths) as journal:
        segment(journal, "a", 0, "start", None)
        journal.append("applied", "a", 10, "before the checkpoint")
        journal.append("checkpoint", "a", 10, "checkpoint_step_10")
        journal.append("applied", "a", 10, "after the checkpoint")
        segment(journal, "b", 10, "rewind", "a", fork_seq=2)
    assert decided(paths) == ["before the checkpoint"]


def test_a_restart_after_a_rewind_does_not_bring_the_abandoned_back(paths: RunPaths) -> None:
    with Journal.open(paths) as journal:
        segment(journal, "a", 0, "start", None)
        journal.append("applied", "a", 15, "late")
        segment(journal, "b", 10, "rewind", "a", fork_seq=1)
        journal.append("applied", "b", 11, "new")
        segment(journal, "c", 10, "restart", "b", fork_seq=1)
    assert decided(paths) == ["new"]
    line = current_line(read_entries(paths))
    assert [part.id for part in line] == ["a", "b", "c"]
    shown = {part.id: [step for step in range(1, 21) if part.shows(step)] for part in line}
    assert (shown["a"], shown["b"], shown["c"]) == (list(range(1, 11)), [], list(range(11, 21)))
