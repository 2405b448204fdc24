"""The notebook's live view of one run: a widget with the dashboard's panels and buttons.

It hands documents of `lumina.views` to the page and clicks to `Run`; it must not know how a run is stored or drawn.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import anywidget
import traitlets

from lumina import views
from lumina.client import DONE_STATES, Run
from lumina.receipts import PendingReceipt
from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths, find_run
from lumina_app.commands import REHEARSING, rehearse, send

LOOK_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 0.1  # between looks while a command is on its way
ENDED_SECONDS: Final = 3.0  # a run that has ended may be resumed from elsewhere
SNAPSHOT_SECONDS: Final = 10.0
SNAPSHOT_POINTS: Final = 250  # per series; a saved notebook carries the snapshot
SNAPSHOT_EVENTS: Final = 20
ALWAYS_TOLD: Final = frozenset({"full", "series", "events"})

_STATIC: Final = Path(__file__).parent / "static"


def _text(*names: str) -> str:
    return "\n".join((_STATIC / name).read_text(encoding="utf-8") for name in names)


class Dashboard(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
    """A run, live, with buttons. `run` is a `Run`, the name of one under `directory`, or its folder.

    It goes on while another cell is busy and costs the training nothing: a thread of the kernel reads what the trainer
    writes. `close()` ends that. Raises `Refusal` (not_found) when there is no such run.
    """

    _esm = _text(
        "format.js", "series.js", "difference.js",
        "widget.charts.js", "widget.rehearsal.js", "widget.receipts.js", "widget.acting.js", "widget.js",
    )  # fmt: skip
    _css = _text("widget.css")

    name = traitlets.Unicode().tag(sync=True)
    # What a person types to watch the run again when the kernel has gone.
    again = traitlets.Unicode().tag(sync=True)
    catalogue: traitlets.List[Any] = traitlets.List().tag(sync=True)
    # The newest state, thinned: what a page shows first, and what a saved notebook shows without a kernel.
    snapshot: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)

    def __init__(self, run: Run | str | Path, directory: str | Path = "experiments") -> None:
        self._closed = threading.Event()
        self._wake = threading.Event()
        paths = run.paths if isinstance(run, Run) else find_run(run, directory)
        self.run = Run(paths, via="notebook")
        self._pages: set[str] = set()
        self._told: dict[str, Any] = {}
        self._cursor: str | None = None
        self._anew = threading.Event()
        self._asked: dict[str, PendingReceipt] = {}
        self._outbox: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._compared = ""
        self._compared_told = ("", 0)
        self._snapshot_at = time.monotonic()
        super().__init__(
            name=paths.name,
            again=f"Dashboard({attach_expression(paths)})",
            catalogue=[entry for entry in views.catalogue() if entry["kind"] == "action"],
            snapshot=thinned(views.live(paths)),
        )
        answer_beside_busy_cells(self.comm)
        self.on_msg(self._hear)
        wake = self._wake
        itself = weakref.ref(self, lambda _: wake.set())
        self._watcher = threading.Thread(
            target=_watch, args=(itself, self._closed, wake), name=f"lumina-watch-{paths.name}", daemon=True
        )
        self._watcher.start()

    def __repr__(self) -> str:
        step = self.snapshot["status"]["step"]
        return f"Dashboard of run {self.name!r}: {self.snapshot['state']}, step {step or 0}"

    def close(self) -> None:
        """Takes the widget off the page and ends its watching; the run goes on."""
        self._closed.set()
        self._wake.set()
        super().close()

    # What the page says: in whichever thread the kernel reads its messages

    def _hear(self, _widget: Any, message: Mapping[str, Any], _buffers: Any) -> None:
        kind = message.get("kind")
        if kind == "hello":
            self._pages.add(str(message.get("page")))
            self._anew.set()
        elif kind == "bye":
            self._pages.discard(str(message.get("page")))
        elif kind == "compare":
            self._compared = str(message.get("name") or "")
            self._compared_told = ("", 0)
        elif kind == "command":
            self._ask(message)
        self._wake.set()

    def _ask(self, message: Mapping[str, Any]) -> None:
        click = str(message.get("click"))
        try:
            if message.get("action") in REHEARSING:
                rehearse(self.run, message)
                self._outbox.put({"kind": "answer", "click": click, "done": True})
            else:
                self._asked[click] = send(self.run, message)
        except (Refusal, OSError) as error:
            self._outbox.put({"kind": "answer", "click": click, "refusal": str(error)})

    # What the page is told: by the watching thread only

    def _look(self) -> float:
        """Tells the page what is new. Returns the seconds until the next look."""
        state = None
        try:
            state = self._tell_news() if self._pages else None
            self._take_snapshot(state)
        except (Refusal, OSError) as error:
            self.send({"kind": "trouble", "message": f"The run cannot be read: {error}"})
        self._tell_answers()
        if self._asked:
            return ANSWER_SECONDS
        if not self._pages:
            return SNAPSHOT_SECONDS
        return ENDED_SECONDS if state in DONE_STATES else LOOK_SECONDS

    def _tell_news(self) -> str:
        anew = self._anew.is_set()
        self._anew.clear()
        doc = views.live(self.run.paths, None if anew else self._cursor)
        self._cursor = doc.pop("cursor")
        known = {} if anew else self._told
        news = {name: value for name, value in doc.items() if name not in known or known[name] != value}
        self._told = {name: value for name, value in doc.items() if name not in ALWAYS_TOLD}
        self.send({"kind": "live", "doc": news})
        self._tell_compared(doc["children"])
        return str(doc["state"])

    def _tell_compared(self, children: list[Mapping[str, Any]]) -> None:
        """The loss of the replay that is laid over this run's; again while it may still grow."""
        name = self._compared
        if not name or not any(child["name"] == name for child in children):
            return
        child = RunPaths(self.run.paths.root.parent / name)
        loss = views.series(child, ["loss"])["series"].get("loss")
        if loss is not None and (name, len(loss["step"])) != self._compared_told:
            self._compared_told = (name, len(loss["step"]))
            self.send({"kind": "overlay", "name": name, "step": loss["step"], "value": loss["value"]})

    def _tell_answers(self) -> None:
        for click, pending in list(self._asked.items()):
            receipt = pending.wait(0.01)
            if receipt.state != "queued":
                del self._asked[click]
                self.send({"kind": "answer", "click": click, "receipt": dict(receipt)})
        while not self._outbox.empty():
            self.send(self._outbox.get())

    def _take_snapshot(self, state: str | None) -> None:
        """Now and then, and whenever the run's state has changed."""
        changed = state is not None and state != self.snapshot["state"]
        if not changed and time.monotonic() - self._snapshot_at < SNAPSHOT_SECONDS:
            return
        self._snapshot_at = time.monotonic()
        self.snapshot = thinned(views.live(self.run.paths))


def _watch(widget: weakref.ref[Dashboard], closed: threading.Event, wake: threading.Event) -> None:
    """Looks again and again until the widget is closed or gone; between looks it holds no reference to it."""
    while not closed.is_set():
        dashboard = widget()
        if dashboard is None:
            return
        try:
            pause = dashboard._look()
        except Exception:
            dashboard.send({"kind": "trouble", "message": "Watching ended by an error; run the cell again."})
            raise
        del dashboard
        wake.wait(pause)
        wake.clear()


def attach_expression(paths: RunPaths) -> str:
    """The call that finds this run again from the kernel's folder."""
    root = paths.root.resolve()
    here = Path.cwd().resolve()
    if root == here / "experiments" / paths.name:
        return f'lumina.attach("{paths.name}")'
    shown = root.relative_to(here) if root.is_relative_to(here) else root
    return f'lumina.attach("{shown.as_posix()}")'


def thinned(doc: Mapping[str, Any]) -> dict[str, Any]:
    """A live document small enough to lie in a notebook's file, and without this machine's paths."""
    small = {name: value for name, value in doc.items() if name != "cursor"}
    small["status"] = {name: value for name, value in doc["status"].items() if name != "path"}
    small["series"] = {
        name: {column: _every_nth(points[column]) for column in ("step", "value")}
        for name, points in doc["series"].items()
    }
    small["events"] = doc["events"][-SNAPSHOT_EVENTS:]
    return small


def _every_nth(values: list[Any]) -> list[Any]:
    """At most `SNAPSHOT_POINTS` of them, evenly, the last one among them."""
    stride = -(-len(values) // SNAPSHOT_POINTS) or 1
    return values[(len(values) - 1) % stride :: stride] if values else []


def answer_beside_busy_cells(comm: Any) -> None:
    """Lets clicks be read while a cell runs.

    The front end sends them to a subshell, a thread beside the cells. ipykernel redirects them to the shell that wrote
    to the page last, which is the busy one whenever a thread wrote; so this comm keeps what the front end chose.
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda _data, chosen: chosen
