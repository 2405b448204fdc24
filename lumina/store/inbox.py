"""Commands to a run: one file each, created exclusively by whoever asks, taken and answered by the trainer.

It knows files and the shape of a command; it must not know what any command does.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from lumina.store import atomic
from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths, is_id

COMMAND_KINDS: Final = frozenset({"intervene", "approve", "reject", "undo", "pause", "unpause", "checkpoint", "stop"})
MAX_COMMAND_BYTES: Final = 65536
MAX_PER_TAKE: Final = 64
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class Command:
    """One request to a run, as it lies in `inbox/<id>.json`."""

    id: str
    kind: str
    method: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    proposal: str | None = None
    author: Mapping[str, Any] = field(default_factory=dict)
    expects: Mapping[str, Any] | None = None
    expires_step: int | None = None
    sent_at: float = field(default_factory=time.time)
    v: int = 1

    def to_json(self) -> bytes:
        return orjson.dumps(asdict(self), option=orjson.OPT_SERIALIZE_NUMPY)


class MalformedError(ValueError):
    """A command file that cannot be understood; the text says why."""


def parse_command(data: bytes) -> Command:
    """The command in `data`, or `MalformedError`."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise MalformedError("not a JSON object")
    unknown = set(document) - set(Command.__dataclass_fields__)
    if unknown:
        raise MalformedError(f"unknown field {sorted(unknown)[0]!r}")
    for name, accepts, meaning in _FIELD_CHECKS:
        if not accepts(document.get(name)):
            raise MalformedError(f"field {name!r} must be {meaning}")
    return Command(**{name: value for name, value in document.items() if value is not None or name in _NULLABLE})


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_NULLABLE: Final = frozenset({"method", "proposal", "expects", "expires_step"})
_FIELD_CHECKS: Final = (
    ("v", lambda v: v == 1 and _is_integer(v), "1"),
    ("id", is_id, "32 hexadecimal digits"),
    ("kind", lambda v: isinstance(v, str) and v in COMMAND_KINDS, "one of " + ", ".join(sorted(COMMAND_KINDS))),
    ("method", lambda v: v is None or isinstance(v, str), "text or null"),
    ("args", lambda v: v is None or isinstance(v, dict), "an object"),
    ("proposal", lambda v: v is None or is_id(v), "an id or null"),
    ("author", lambda v: v is None or isinstance(v, dict), "an object"),
    ("expects", lambda v: v is None or isinstance(v, dict), "an object or null"),
    ("expires_step", lambda v: v is None or _is_integer(v), "a step or null"),
    ("sent_at", lambda v: isinstance(v, (int, float)) and not isinstance(v, bool), "a time in UTC seconds"),
)


def send(paths: RunPaths, command: Command) -> Path:
    """Lay the command in the run's inbox, durably and at once complete; `FileExistsError` if its id is in use."""
    if not is_id(command.id):
        raise Refusal("bad_argument", f"{command.id!r} is not a command id")
    if command.kind not in COMMAND_KINDS:
        raise Refusal("bad_argument", f"{command.kind!r} is not a kind of command")
    data = command.to_json()
    if len(data) > MAX_COMMAND_BYTES:
        raise Refusal("bad_argument", f"the command has {len(data)} bytes; {MAX_COMMAND_BYTES} are allowed")
    atomic.make_folder(paths.inbox, parents=False)
    path = paths.inbox / f"{command.id}.json"
    atomic.create_file(path, data)
    return path


def withdraw(paths: RunPaths, command_id: str) -> None:
    """Take back a command that nobody has read."""
    if is_id(command_id):
        atomic.unlink(paths.inbox / f"{command_id}.json")


def receipt_of(paths: RunPaths, command_id: str) -> dict[str, Any] | None:
    """The answer to a command, or None while there is none."""
    if not is_id(command_id):
        return None
    return _read_object(paths.done / f"{command_id}.json")


def rejection_of(paths: RunPaths, command_id: str) -> str | None:
    """Why the command file was quarantined, or None if it was not."""
    if not is_id(command_id):
        return None
    note = _read_object(paths.quarantine / f"{command_id}.json.reason.json")
    return None if note is None else str(note.get("reason"))


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return document if isinstance(document, dict) else None


class Inbox:
    """The trainer's side. `take()` never raises and reads at most `MAX_PER_TAKE` files.

    A listing is used up before the folder is listed again, so that thousands of files cost one listing, not one each.
    """

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._waiting: deque[str] = deque()
        self._untouchable: set[str] = set()
        self._quarantined: list[tuple[str, str]] = []

    def take(self, limit: int = MAX_PER_TAKE) -> list[Command]:
        """The next commands, oldest first. A command comes again, after the others, until it is `done`."""
        if not self._waiting:
            self._waiting.extend(self._list())
        commands = []
        for _ in range(min(limit, len(self._waiting))):
            name = self._waiting.popleft()
            command = self._read(name)
            if command is not None:
                commands.append(command)
        return sorted(commands, key=lambda command: (command.sent_at, command.id))

    @property
    def more(self) -> bool:
        """Whether the listing that `take` is using up has not come to its end."""
        return bool(self._waiting)

    def done(self, command_id: str, receipt: Mapping[str, Any]) -> None:
        """Publish the receipt, then remove the command. The journal must hold the receipt already."""
        if not is_id(command_id):
            raise ValueError(f"{command_id!r} is not a command id")
        atomic.make_folder(self._paths.done, parents=False)
        data = orjson.dumps(dict(receipt), option=orjson.OPT_SERIALIZE_NUMPY)
        atomic.write_file(self._paths.done / f"{command_id}.json", data)
        atomic.unlink(self._paths.inbox / f"{command_id}.json")

    def receipt(self, command_id: str) -> dict[str, Any] | None:
        """The published receipt of a command, or None."""
        return receipt_of(self._paths, command_id)

    def pop_quarantined(self) -> list[tuple[str, str]]:
        """(file name, reason) of each file put away since the last call."""
        found, self._quarantined = self._quarantined, []
        return found

    def _list(self) -> list[str]:
        found = []
        try:
            with os.scandir(self._paths.inbox) as entries:
                for entry in entries:
                    # Dot files are half-written; done/ and quarantine/ are ours.
                    if entry.name.startswith(".") or entry.name in ("done", "quarantine"):
                        continue
                    if entry.name not in self._untouchable:
                        found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
        except OSError:
            return [name for _, name in sorted(found)]
        return [name for _, name in sorted(found)]

    def _read(self, name: str) -> Command | None:
        path = self._paths.inbox / name
        try:
            data = _read_regular(path)
            command = parse_command(data)
            if name != f"{command.id}.json":
                raise MalformedError(f"the file is not named after its id {command.id}")
        except FileNotFoundError:
            return None
        except MalformedError as error:
            self._put_away(name, str(error))
            return None
        except OSError as error:
            # O_NOFOLLOW says ELOOP for a symbolic link.
            reason = "not a regular file" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
            self._put_away(name, reason)
            return None
        if (self._paths.done / name).exists():
            self._forget(path)
            return None
        return command

    def _put_away(self, name: str, reason: str) -> None:
        safe = _UNSAFE.sub("_", name)[:100]
        try:
            atomic.make_folder(self._paths.quarantine, parents=False)
            target = self._paths.quarantine / safe
            if os.path.lexists(target):
                target = self._paths.quarantine / f"{time.time_ns()}-{safe}"
            atomic.move(self._paths.inbox / name, target)
            note = orjson.dumps({"v": 1, "file": safe, "reason": reason, "at": time.time()})
            atomic.write_file(target.with_name(target.name + ".reason.json"), note)
        except OSError as error:
            self._untouchable.add(name)
            reason = f"{reason}; and could not be moved: {error}"
        self._quarantined.append((safe, reason))

    def _forget(self, path: Path) -> None:
        try:
            atomic.unlink(path)
        except OSError:
            self._untouchable.add(path.name)


def _read_regular(path: Path) -> bytes:
    # O_NONBLOCK: opening a FIFO that someone put there must not stop the training.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise MalformedError("not a regular file")
        if status.st_size > MAX_COMMAND_BYTES:
            raise MalformedError(f"{status.st_size} bytes; at most {MAX_COMMAND_BYTES} are read")
        return os.read(fd, MAX_COMMAND_BYTES)
    finally:
        os.close(fd)
