"""The data page's routes: a check is a subprocess of the command line, started here and asked about until it is done.

It knows how a check is started, watched and ended; it must not know how data is read, nor how the page shows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from fastapi import APIRouter, Request, Response

from lumina.store.errors import Refusal
from lumina_app.live import json_response, refusal_response, run_paths

AT_ONCE: Final = 2  # checks that run side by side; each may use every core
KEPT: Final = 8  # answers kept for tabs that have not fetched them yet
LONGEST_MESSAGE: Final = 64 << 10
COMMAND: Final = (sys.executable, "-m", "lumina.cli", "data", "check")
ISSUES, SAMPLES = "500", "3"
SETTINGS: Final = frozenset(
    {"format", "text_field", "quality_threshold", "automatic_data_cleaning", "mask_user_tokens", "max_bad_fraction"}
)


@dataclass
class Check:
    """One subprocess; `said` is its last line of progress."""

    process: subprocess.Popen[bytes]
    answer: IO[bytes]
    said: str = ""
    cancelled: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Reads what the process says until it ends."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said = line.decode("utf-8", "replace").strip().removeprefix("lumina: ")
        self.process.wait()
        self.process.stderr.close()
        self.done.set()

    def document(self) -> dict[str, Any]:
        """How far it is, and the report when it is done."""
        if not self.done.is_set():
            return {"state": "running", "said": self.said}
        if self.cancelled:
            return {"state": "cancelled"}
        self.answer.seek(0)
        try:
            return {"state": "done", "report": json.loads(self.answer.read())}
        except ValueError:  # nothing was printed: the command line was refused
            return {"state": "refused", "said": self.said.removeprefix("error: ")}


class Checks:
    """The checks of one dashboard. `roots` None: any file that its user may read; else only files below these."""

    def __init__(self, directory: Path, roots: Sequence[Path] | None) -> None:
        self._directory = directory
        self._roots = None if roots is None else [root.resolve() for root in roots]
        self._checks: dict[str, Check] = {}
        self._lock = threading.Lock()

    def start(self, message: Any) -> str:
        """Starts a check of `{paths, run, settings}`; its id. Raises `Refusal` (bad_argument, not_found, busy)."""
        words = self._words(message)
        with self._lock:
            if sum(not check.done.is_set() for check in self._checks.values()) >= AT_ONCE:
                raise Refusal("busy", f"{AT_ONCE} checks are running already; wait for one or cancel it")
            self._forget()
            answer = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is forgotten
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=answer, stderr=subprocess.PIPE)
            check = Check(process, answer)
            identity = uuid.uuid4().hex
            self._checks[identity] = check
        threading.Thread(target=check.watch, name="data-check", daemon=True).start()
        return identity

    def state(self, identity: str) -> dict[str, Any]:
        """Raises `Refusal` (not_found)."""
        return self._find(identity).document()

    def cancel(self, identity: str) -> None:
        """Ends a check that runs. Raises `Refusal` (not_found)."""
        check = self._find(identity)
        if not check.done.is_set():
            check.cancelled = True
            check.process.terminate()

    def close(self) -> None:
        """Ends all of them."""
        for check in self._checks.values():
            check.process.kill()
            check.done.wait(5)
            check.answer.close()

    def _find(self, identity: str) -> Check:
        check = self._checks.get(identity)
        if check is None:
            raise Refusal("not_found", "this check is not known here any more; start it again")
        return check

    def _forget(self) -> None:
        ended = [identity for identity, check in self._checks.items() if check.done.is_set()]
        for identity in ended[: max(0, len(ended) - KEPT + 1)]:
            self._checks.pop(identity).answer.close()

    def _words(self, message: Any) -> list[str]:
        """The command line. What comes from the page is only ever a value, never an option."""
        if not isinstance(message, dict):
            raise Refusal("bad_argument", "the message is no JSON object")
        paths, run, settings = message.get("paths") or [], message.get("run"), message.get("settings") or {}
        if not isinstance(paths, list) or not all(isinstance(path, str) and "\0" not in path for path in paths):
            raise Refusal("bad_argument", "paths is not a list of texts")
        if not isinstance(settings, dict) or not set(settings) <= SETTINGS:
            raise Refusal("bad_argument", f"settings may be {', '.join(sorted(SETTINGS))}")
        words = [*COMMAND, "--json", "--issues", ISSUES, "--samples", SAMPLES]
        for name, value in settings.items():
            words += ["--set", f"data.{name}={json.dumps(value)}"]
        if run:
            words += ["--run", str(run_paths(self._directory, str(run)).root)]
        elif not paths:
            raise Refusal("bad_argument", "name a file, a folder, a pattern or a run")
        self._confine(paths)
        return [*words, "--", *(os.path.expanduser(path) for path in paths)]

    def _confine(self, paths: list[str]) -> None:
        if self._roots is None or not paths:
            return
        from lumina.data import DataError
        from lumina.data.files import expand, start_of

        given = [os.path.expanduser(path) for path in paths]
        self._inside(map(start_of, given))
        try:
            self._inside(expand(given))  # links may lead out
        except DataError as error:
            raise Refusal("bad_argument", error.message) from error

    def _inside(self, found: Iterable[Path]) -> None:
        assert self._roots is not None
        for path in found:
            if not any(path.resolve().is_relative_to(root) for root in self._roots):
                below = " or ".join(map(str, self._roots))
                raise Refusal("bad_argument", f"{path}: without a token only files below {below} are read")


def data_routes(directory: Path, *, confined: bool) -> tuple[APIRouter, Checks]:
    """`/lumina/data/check` and `/lumina/data/cancel`, and the checks behind them, to be closed at the end."""
    routes = APIRouter(prefix="/lumina/data")
    checks = Checks(directory, [Path.cwd(), directory] if confined else None)

    @routes.post("/check")
    async def start(request: Request) -> Response:
        with _refusals() as answer:
            # In a thread: to look through folders takes its time, and must hold up no other tab.
            answer.append(json_response({"id": await asyncio.to_thread(checks.start, await _message(request))}))
        return answer[0]

    @routes.get("/check")
    def state(id: str = "") -> Response:
        with _refusals() as answer:
            answer.append(json_response(checks.state(id)))
        return answer[0]

    @routes.post("/cancel")
    def cancel(id: str = "") -> Response:
        with _refusals() as answer:
            checks.cancel(id)
            answer.append(json_response({"state": "cancelled"}))
        return answer[0]

    return routes, checks


@contextlib.contextmanager
def _refusals() -> Iterator[list[Response]]:
    answer: list[Response] = []
    try:
        yield answer
    except Refusal as refusal:
        answer.append(refusal_response(refusal))


async def _message(request: Request) -> Any:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_MESSAGE:
            raise Refusal("bad_argument", f"the message is longer than {LONGEST_MESSAGE:,} bytes")
    try:
        return json.loads(bytes(body))
    except ValueError:
        raise Refusal("bad_argument", "the message is not JSON") from None
