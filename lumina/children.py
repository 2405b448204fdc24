"""Starts the child runs of a run, each in a process of its own: replays, counterfactuals and rehearsals; deletes them.

It creates their folders and asks for their trainer; how they are computed is the trainer's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lumina import launch
from lumina.config import Config, read_config
from lumina.interventions import catalogue, validate_args
from lumina.store import atomic
from lumina.store.errors import Refusal
from lumina.store.family import child_name, children_of, parent_of
from lumina.store.journal import Entry, entries_on_line, read_entries, recorded_data
from lumina.store.layout import RunPaths
from lumina.store.lock import describe_holder, is_locked

CHANGES = frozenset({"intervene", "approve", "undo"})
NOT_REHEARSED = frozenset({"run", "nothing", "orchestrator"})  # what such an action affects
# With these the steps cannot be compared one by one.
OTHER_BATCHES = frozenset({"skip_data_range", "adjust_difficulty_sampling"})
REHEARSED_STEPS = 50
REHEARSALS_KEPT = 3  # of a run, the newest one among them


def start_replay(paths: RunPaths, *, without: str | None = None, to: int | None = None) -> RunPaths:
    """Starts what `create_replay` creates, and raises what it raises."""
    child = create_replay(paths, without=without, to=to)
    launch.spawn(child)
    return child


def create_replay(paths: RunPaths, *, without: str | None = None, to: int | None = None) -> RunPaths:
    """The folder of a replay of a run, without the intervention `without` (its receipt's id, or the beginning of it).

    Raises `Refusal`: bad_data naming the file that has changed, not_found, bad_argument, unsupported.
    """
    entries, config = read_entries(paths), read_config(paths.config)
    refuse_grandchildren(paths)
    if not any(entry.type == "segment" for entry in entries):
        raise Refusal("unsupported", f"run {paths.name!r} has not begun; there is nothing to replay")
    if to is not None and to < 1:
        raise Refusal("bad_argument", f"--to {to} is before the first step; the replay begins at step 0")
    check_same_data(config, entries)
    left_out = None if without is None else find_change(entries, without)
    kind = "replay" if left_out is None else "counterfactual"
    label = "replay" if left_out is None else f"without-{str(left_out.id)[:8]}"
    note = {"run": paths.name, "kind": kind, "to": to, "without": left_out and left_out.id}
    if left_out is not None:
        note |= {"method": left_out.doc["method"], "args": left_out.doc["args"], "step": left_out.step}
    return launch.create_run(config, child_name(paths, label), paths.root.parent, note)


def start_rehearsal(paths: RunPaths, method: str, args: Mapping[str, Any], steps: int = REHEARSED_STEPS,
                    pause: bool | None = None, proposal: str | None = None) -> RunPaths:  # fmt: skip
    """Starts what `create_rehearsal` creates, and raises what it raises."""
    child = create_rehearsal(paths, method, args, steps, pause, proposal)
    launch.spawn(child)
    return child


def create_rehearsal(paths: RunPaths, method: str, args: Mapping[str, Any], steps: int = REHEARSED_STEPS,
                     pause: bool | None = None, proposal: str | None = None) -> RunPaths:  # fmt: skip
    """The folders of the two children of a rehearsal; returns that of the one without the change, which is started.

    `pause` None lets the rehearsal decide by cores and memory whether the run pauses meanwhile. Older rehearsals of the
    run are deleted, but for the newest few. Raises `Refusal`: bad_argument, out_of_range, unknown_method, unsupported,
    busy while another rehearsal of this run goes on, bad_data.
    """
    checked = validate_args(method, args)
    if not can_be_rehearsed(method):
        raise Refusal("unsupported", f"{method} does not change what the same batches do; there is nothing to compare")
    if steps < 1:
        raise Refusal("bad_argument", f"a rehearsal of {steps} steps; at least one is needed")
    refuse_grandchildren(paths)
    config = read_config(paths.config)
    rehearsed = _rehearsals(paths)
    going_on = [child for child in rehearsed if is_locked(child)]
    if going_on:
        raise Refusal("busy", f"{going_on[0].name} goes on; one rehearsal of a run at a time")
    if not is_locked(paths) and not any(paths.checkpoints.glob("checkpoint_step_*/manifest.json")):
        raise Refusal("unsupported", f"run {paths.name!r} has no checkpoint to start from")
    check_same_data(config, read_entries(paths))
    _delete_old(rehearsed)
    stem = child_name(paths, "rehearsal")
    note = {"run": paths.name, "kind": "rehearsal", "id": stem, "method": method, "args": checked, "steps": steps}
    note |= {"pause": pause, "proposal": proposal}
    both = {"with": "without", "without": "with"}
    made = {
        part: launch.create_run(
            config, f"{stem}.{part}", paths.root.parent, {**note, "part": part, "peer": f"{stem}.{peer}"}
        )
        for part, peer in both.items()
    }
    return made["without"]


def can_be_rehearsed(method: str) -> bool:
    """Whether an action changes the model or how it is trained; what only moves the run itself has nothing to show."""
    declaration = catalogue()[method]
    return declaration.kind == "action" and declaration.affects not in NOT_REHEARSED and method not in OTHER_BATCHES


def _rehearsals(paths: RunPaths) -> list[RunPaths]:
    return [child for child in children_of(paths) if (parent_of(child) or {})["kind"] == "rehearsal"]


def _delete_old(rehearsed: Sequence[RunPaths]) -> None:
    ids = list(dict.fromkeys((parent_of(child) or {})["id"] for child in rehearsed))
    for child in rehearsed:
        if (parent_of(child) or {})["id"] in ids[: -(REHEARSALS_KEPT - 1)]:
            delete_child(child)


def refuse_grandchildren(paths: RunPaths) -> None:
    """Raises `Refusal` (unsupported) for a run that is itself a child."""
    parent = parent_of(paths)
    if parent is not None:
        raise Refusal("unsupported", f"{paths.name!r} is a {parent['kind']} of {parent['run']!r}; name that run")


def check_same_data(config: Config, entries: Sequence[Entry]) -> None:
    """Raises `Refusal` (bad_data) with every file whose content is not what the run was trained on."""
    from lumina.data import DataError, changed_files, contents

    recorded = recorded_data(entries)
    if recorded is None:
        return
    try:
        changed = changed_files(recorded, contents(config))
    except DataError as error:
        raise Refusal("bad_data", f"the run's data is not there any more: {error}") from error
    if changed:
        raise Refusal("bad_data", f"the data is not what the run was trained on: {'; '.join(changed)}")


def find_change(entries: Sequence[Entry], beginning: str) -> Entry:
    """The intervention or undo of the current line whose receipt's id begins so. Raises `Refusal` (not_found)."""
    changes = [entry for entry in entries if entry.type == "applied" and entry.doc["kind"] in CHANGES]
    held = {entry.seq for entry in entries_on_line(entries)}
    found = [entry for entry in changes if str(entry.id).startswith(beginning)]
    in_force = [entry for entry in found if entry.seq in held]
    if len(in_force) == 1:
        return in_force[0]
    if len(in_force) > 1:
        raise Refusal("bad_argument", f"{len(in_force)} receipts begin with {beginning!r}; give more of the id")
    if found:
        entry = found[0]
        raise Refusal("not_found", f"{entry.doc['method']} of step {entry.step} was left behind by a rewind")
    listed = ", ".join(f"{str(e.id)[:8]} ({e.doc['method']} at step {e.step})" for e in changes if e.seq in held)
    raise Refusal("not_found", f"no intervention {beginning!r} is in force; there are: {listed or 'none'}")


def delete_child(paths: RunPaths) -> None:
    """Removes a child run's folder. Raises `Refusal`: bad_argument for a run of its own, locked while it trains."""
    if parent_of(paths) is None:
        raise Refusal("bad_argument", f"{paths.name!r} is no child run; only replays and rehearsals are deleted")
    if is_locked(paths):
        raise Refusal("locked", f"{paths.name!r} is in use by {describe_holder(paths)}; stop it first")
    atomic.remove_tree(paths.root)


def delete_children(paths: RunPaths) -> list[str]:
    """Removes the child runs of a run that have ended; returns their names."""
    ended = [child for child in children_of(paths) if not is_locked(child)]
    for child in ended:
        delete_child(child)
    return [child.name for child in ended]
