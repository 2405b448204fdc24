"""Finds, verifies and loads checkpoints; falls back to another one when the wanted one is damaged, and says so."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.checkpoint.canonical import TABLES, CanonicalState, combined_hash, state_from, state_hash
from lumina.checkpoint.manifest import STATE, Manifest, read_manifest
from lumina.checkpoint.tensors import Damaged, TensorFile, read_tensors
from lumina.store import atomic
from lumina.store.errors import Refusal

Found = list[tuple[Path, Manifest]]


@dataclass(frozen=True)
class Attempt:
    """One checkpoint that was tried."""

    name: str
    ok: bool
    message: str


def list_checkpoints(root: Path) -> Found:
    """Folders with a whole manifest, oldest first (by step, then by the journal)."""
    found = []
    for folder in root.glob("checkpoint_step_*"):
        manifest = read_manifest(folder)
        if manifest is not None:
            found.append((folder, manifest))
    return sorted(found, key=lambda item: (item[1].step, item[1].journal_seq))


def list_unreadable(root: Path) -> list[Attempt]:
    """What is named like a checkpoint and is none that could be tried."""
    found = []
    for path in sorted(root.glob("checkpoint_*")):
        if not path.is_dir():
            found.append(Attempt(path.name, False, "not a checkpoint folder; pickled checkpoints are never opened"))
        elif read_manifest(path) is None:
            found.append(Attempt(path.name, False, "its manifest is missing or damaged"))
    return found


def best_first(found: Found) -> Found:
    """Those with a validation loss, lowest first."""
    rated = [item for item in found if item[1].val_loss is not None and math.isfinite(item[1].val_loss)]
    return sorted(rated, key=lambda item: (item[1].val_loss or 0.0, -item[1].step))


def in_order_of_trial(found: Found, which: str) -> Iterator[tuple[str, Path, Manifest]]:
    """(role, folder, manifest) of every checkpoint: latest, the previous one, the best by validation loss, the others.

    `best_val` begins with the best ones.
    """
    newest, best = found[::-1], best_first(found)
    roles = [*zip(("latest", "previous"), newest, strict=False)]
    if which == "best_val":
        roles = [("best_val", item) for item in best] + roles
    else:
        roles += [("best_val", item) for item in best[:1]]
    roles += [("older", item) for item in newest]
    tried = set()
    for role, (folder, manifest) in roles:
        if folder not in tried:
            tried.add(folder)
            yield role, folder, manifest


def load_checkpoint(root: Path, which: str | int) -> tuple[CanonicalState, Manifest, list[Attempt]]:
    """State and manifest of `latest`, `best_val` or of a step; latest and best_val fall back to what is intact.

    Raises `Refusal`: not_found for a step without a checkpoint, corrupt when nothing could be loaded.
    """
    found = list_checkpoints(root)
    if isinstance(which, int):
        wanted = [("wanted", *item) for item in found if item[1].step == which][-1:]
        if not wanted:
            steps = ", ".join(str(item[1].step) for item in found) or "none"
            raise Refusal("not_found", f"there is no checkpoint of step {which}; there are: {steps}")
    elif which in ("latest", "best_val"):
        wanted = list(in_order_of_trial(found, which))
    else:
        raise Refusal("bad_argument", f"{which!r} is neither latest, best_val nor a step")
    attempts = list_unreadable(root)
    for role, folder, manifest in wanted:
        try:
            state = read_state(folder, manifest)
        except (Damaged, OSError) as error:
            attempts.append(Attempt(folder.name, False, f"{role}: {error}"))
            continue
        attempts.append(Attempt(folder.name, True, f"{role}: loaded ({manifest.reason}, step {manifest.step})"))
        return state, manifest, attempts
    tried = "; ".join(f"{attempt.name}: {attempt.message}" for attempt in attempts) or "there is none"
    raise Refusal("corrupt", f"no checkpoint in {root} can be loaded ({tried})")


def read_state(folder: Path, manifest: Manifest, *, deep: bool = False) -> CanonicalState:
    """The state in a folder: sizes, checksums, headers and the state's hash are checked.

    `deep` computes that hash from the tensors that were read instead of from the checksums. Raises `Damaged` naming
    the file, or `OSError`.
    """
    with ThreadPoolExecutor(len(TABLES), "lumina-load") as pool:
        reading = {name: pool.submit(_read_file, folder, name, manifest) for name in TABLES}
        damaged = [error for result in reading.values() if isinstance(error := result.exception(), Damaged)]
        if len(damaged) > 1:
            raise Damaged("; ".join(str(error) for error in damaged))
        files = {name: result.result() for name, result in reading.items()}
    document = _read_document(folder, manifest)
    state = state_from({name: file.tensors for name, file in files.items()}, document["adam_step"], document["meta"])
    digests = {name: str(manifest.files[name]["sha256"]) for name in TABLES}
    found = state_hash(state) if deep else combined_hash(digests, state.adam_step, state.meta)
    if found != manifest.state_hash:
        raise Damaged(f"the state has the hash {found[:12]}, and the manifest says {manifest.state_hash[:12]}")
    return state


def verify(root: Path) -> list[Attempt]:
    """Every checkpoint read and hashed anew, oldest first."""
    results = list_unreadable(root)
    for folder, manifest in list_checkpoints(root):
        try:
            read_state(folder, manifest, deep=True)
        except (Damaged, OSError) as error:
            if read_manifest(folder) is not None:  # else the run's trainer has deleted it meanwhile
                results.append(Attempt(folder.name, False, str(error)))
        else:
            worth = f", {manifest.priority} priority" if manifest.priority else ""
            results.append(Attempt(folder.name, True, f"intact ({manifest.reason}{worth}, step {manifest.step})"))
    return results


def _read_file(folder: Path, name: str, manifest: Manifest) -> TensorFile:
    expected = manifest.files.get(name)
    if expected is None:
        raise Damaged(f"{name} is not in the manifest")
    return read_tensors(folder / name, int(expected["bytes"]), str(expected["sha256"]))


def _read_document(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """The Adam steps and `meta`."""
    expected = manifest.files.get(STATE)
    if expected is None:
        raise Damaged(f"{STATE} is not in the manifest")
    try:
        data = (folder / STATE).read_bytes()
    except MemoryError:
        raise Damaged(f"{STATE} is larger than this machine's memory") from None
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise Damaged(f"{STATE} does not match its checksum")
    if len(data) != expected["bytes"]:
        raise Damaged(f"{STATE} has {len(data)} bytes, {expected['bytes']} expected")
    try:
        document = json.loads(data)
        return {"adam_step": dict(document["adam_step"]), "meta": dict(document["meta"])}
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise Damaged(f"{STATE} does not hold a state: {error!r}") from error


def set_aside(root: Path, attempts: Iterable[Attempt]) -> None:
    """Moves damaged checkpoints to `damaged/`: the newest of what is left is what the next resume must begin with."""
    for attempt in attempts:
        if not attempt.ok and (root / attempt.name).is_dir():
            atomic.make_folder(root / "damaged")
            atomic.rename_new(root / attempt.name, _free(root / "damaged", attempt.name))


def _free(folder: Path, name: str) -> Path:
    target, number = folder / name, 1
    while target.exists():
        number += 1
        target = folder / f"{name}_{number}"
    return target


def abandon(root: Path, is_abandoned: Callable[[Manifest], bool]) -> None:
    """Moves such checkpoints to `abandoned/<their segment>/`, where no resume looks for them."""
    for folder, manifest in list_checkpoints(root):
        if is_abandoned(manifest):
            branch = root / "abandoned" / manifest.segment
            atomic.make_folder(branch)
            atomic.rename_new(folder, _free(branch, folder.name))
