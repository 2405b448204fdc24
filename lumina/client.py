"""Watch and command a run: what the dashboard, the notebook, the command line and scripts share.

It reads the store and lays commands in the inbox; it never touches a trainer's process.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina import children, launch, views
from lumina.config import Config, load_config, read_config
from lumina.interventions import validate_args
from lumina.interventions.undoing import to_undo
from lumina.receipts import PendingReceipt
from lumina.rehearsal import Rehearsal
from lumina.store import inbox
from lumina.store.errors import Refusal
from lumina.store.family import parent_of
from lumina.store.inbox import Command
from lumina.store.journal import entries_on_line, read_entries
from lumina.store.layout import RunPaths, find_run, new_id, run_folders
from lumina.store.lock import is_locked
from lumina.store.reader import StoreReader

if TYPE_CHECKING:
    import polars

    from lumina.data import DataReport, FileReport
    from lumina.hardware.detect import Hardware

POLL_SECONDS = 0.2
DONE_STATES = frozenset({"finished", "stopped", "failed", "crashed"})


class Run:
    """One run, wherever its trainer is. `via` names the kind of client in receipts and events."""

    def __init__(self, paths: RunPaths, via: str = "api") -> None:
        self.paths = paths
        self.via = via

    @property
    def name(self) -> str:
        return self.paths.name

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {self.status()['state']})"

    # Watching

    def status(self) -> dict[str, Any]:
        """What `lumina status --json` prints."""
        return views.status(self.paths)

    def metrics(self, series: Sequence[str] | None = None, *, all_segments: bool = False) -> polars.DataFrame:
        """Every point of the current line: a step column and one column per series.

        With `all_segments` a long frame (series, segment, step, value) that has the abandoned stretches, too.
        """
        import polars

        found = StoreReader(self.paths).series(series, max_points=None, all_segments=all_segments)
        if all_segments:
            schema = {"series": polars.String, "segment": polars.String, "step": polars.Int64, "value": polars.Float64}
            frames = [
                polars.DataFrame(
                    {
                        "series": [name] * len(s["step"]),
                        "segment": s["segment"],
                        "step": s["step"],
                        "value": s["value"],
                    },
                    schema=schema,
                )
                for name, s in found.items()
            ]
            return polars.concat(frames) if frames else polars.DataFrame(schema=schema)
        rows: dict[int, dict[str, Any]] = {}
        for name, column in found.items():
            for step, value in zip(column["step"], column["value"], strict=True):
                rows.setdefault(step, {"step": step})[name] = value
        schema = {"step": polars.Int64, **dict.fromkeys(found, polars.Float64)}
        return polars.DataFrame([rows[step] for step in sorted(rows)], schema=schema)

    def proposals(self, state: str | None = "open") -> list[dict[str, Any]]:
        """Proposals, newest first; `state` None gives all."""
        queue = views.queue(self.paths)
        listed = queue["open"] + queue["recent"]
        return [p for p in listed if state is None or p["state"] == state]

    def events(self, after: int = 0, limit: int = 60) -> list[dict[str, Any]]:
        return views.events(self.paths, after, limit)

    def experts(self) -> dict[str, Any] | None:
        return views.experts(self.paths)

    def depth(self) -> dict[str, Any] | None:
        return views.depth(self.paths)

    def query(self, method: str) -> dict[str, Any]:
        """The answer of a query of the catalogue, with the keys of the trainer's method of that name.

        Raises `Refusal` (unknown_method, bad_argument).
        """
        return views.query(self.paths, method)

    # Commanding

    def approve(self, id: str, **args: Any) -> PendingReceipt:
        """Approves a proposal, with arguments changed as given."""
        proposal = self._proposal(id)
        if proposal["method"] == "undo":
            if args:
                raise Refusal("bad_argument", f"an undo has no arguments to change, and {', '.join(args)} were given")
            return self._send("approve", proposal=id)
        checked = validate_args(proposal["method"], {**proposal["args"], **args})
        return self._send("approve", proposal=id, args={name: checked[name] for name in args})

    def reject(self, id: str, why: str | None = None) -> PendingReceipt:
        self._proposal(id)
        return self._send("reject", proposal=id, args={"why": why})

    def _proposal(self, id: str) -> dict[str, Any]:
        found = next((row for row in StoreReader(self.paths).proposals() if row.id == id), None)
        if found is None:
            waiting = ", ".join(f"{row['id'][:8]} ({row['method']})" for row in self.proposals()) or "none"
            raise Refusal("not_found", f"run {self.name!r} has no proposal {id!r}; open: {waiting}")
        return found.doc

    def intervene(self, method: str, **args: Any) -> PendingReceipt:
        """Triggers an intervention by hand. Raises `Refusal` naming the allowed range before anything is sent."""
        return self._send("intervene", method=method, args=validate_args(method, args))

    def undo(self, id: str, rewind: bool = False) -> PendingReceipt:
        """Takes back the intervention of receipt `id`: its old values from the next step on.

        With `rewind`, the whole run goes back to the checkpoint before it, and all later steps are left behind.
        """
        if not any(mark["id"] == id for mark in views.marks(self.paths)):
            entries = read_entries(self.paths)
            to_undo(entries_on_line(entries), id, entries)  # says why not
        return self._send("undo", args={"receipt": id, "rewind": rewind})

    def pause(self) -> PendingReceipt:
        return self._send("pause")

    def pause_while(self, child: RunPaths) -> PendingReceipt:
        """Pauses this run as long as the process of a child run lives; a run that is paused already stays paused."""
        return self._send("pause", args={"while": child.name})

    def unpause(self) -> PendingReceipt:
        return self._send("unpause")

    def checkpoint(self) -> PendingReceipt:
        return self._send("checkpoint")

    def stop(self) -> PendingReceipt:
        return self._send("stop")

    def resume(self, from_: str | int = "latest", steps: int | None = None) -> Run:
        """Starts the trainer again from a checkpoint; `steps` is the new total and extends a finished run.

        Raises `ConfigError` or `Refusal` (bad_argument, not_found, corrupt, locked) before anything is started.
        """
        from lumina.hardware.demands import check_demands

        children.refuse_grandchildren(self.paths)
        check_demands(read_config(self.paths.config))
        read_entries(self.paths)
        self._check_source(str(from_))
        try:
            status = self.status()
        except Refusal:
            # A damaged database does not keep a run from going on: its trainer makes a new one from the journal.
            status = {"state": None, "step": None}
        if status["state"] == "finished" and steps is None and from_ == "latest":
            raise Refusal(
                "bad_argument", f"run {self.name!r} is finished at step {status['step']}; give --steps, the new total"
            )
        if steps is not None and steps <= (status["step"] or 0) and from_ == "latest":
            raise Refusal(
                "bad_argument", f"--steps {steps} is the new total, and the run is at step {status['step']} already"
            )
        launch.spawn(self.paths, resume=str(from_), steps=steps)
        return self

    def replay(self, without: str | None = None, to: int | None = None) -> Run:
        """Does this run's decisions again from step 0, in a child run, and compares its state at every checkpoint.

        `without` leaves out the intervention of that receipt, `to` stops at that step; `views.replay` tells what was
        found. Raises `Refusal`: bad_data naming a changed file, not_found, unsupported.
        """
        return Run(children.start_replay(self.paths, without=without, to=to), self.via)

    def rehearse(self, method: str, args: Mapping[str, Any] | None = None, *, steps: int = children.REHEARSED_STEPS,
                 pause: bool | None = None, proposal: str | None = None, **more: Any) -> Rehearsal:  # fmt: skip
        """Tries an intervention out: two child runs of so many steps on the same batches, with and without it.

        Arguments of the intervention go into `args` or are given by name. `pause` True pauses this run meanwhile, False
        leaves it training; None decides by cores and memory. Raises `Refusal` as `intervene` does; busy while another
        rehearsal goes on, bad_data naming a changed file.
        """
        asked = {**(args or {}), **more}
        return Rehearsal(children.start_rehearsal(self.paths, method, asked, steps, pause, proposal), self.via)

    def _check_source(self, source: str) -> None:
        if source in ("latest", "best_val"):
            return
        if not source.isdecimal():
            raise Refusal("bad_argument", f"{source!r} is neither latest, best_val nor a step")
        folders = [manifest.parent.name for manifest in self.paths.checkpoints.glob("checkpoint_step_*/manifest.json")]
        steps = sorted({int(name.split("_")[2]) for name in folders if name.split("_")[2].isdecimal()})
        if int(source) not in steps:
            listed = ", ".join(map(str, steps)) or "none"
            raise Refusal("not_found", f"run {self.name!r} has no checkpoint of step {source}; there are: {listed}")

    def wait(self, timeout: float | None = None) -> str:
        """Waits until the run has ended and returns its state; after `timeout` seconds, the state it is in."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        while is_locked(self.paths):
            if deadline is not None and time.monotonic() >= deadline:
                break
            time.sleep(POLL_SECONDS)
        return str(self.status()["state"])

    def _send(self, kind: str, *, method: str | None = None, args: Mapping[str, Any] | None = None,
              proposal: str | None = None) -> PendingReceipt:  # fmt: skip
        if not is_locked(self.paths):
            raise Refusal("not_running", f"run {self.name!r} is {self.status()['state']}; nothing reads its commands")
        author = {"name": getpass.getuser(), "via": self.via}
        command = Command(new_id(), kind, method, dict(args or {}), proposal, author)
        inbox.send(self.paths, command)
        return PendingReceipt(self.paths, command)


def start(preset: str | Path | Config = "debug", data: Sequence[str | Path] | None = None, name: str | None = None,
          steps: int | None = None, directory: str | Path = "experiments", autonomy: str | None = None,
          via: str = "api", on_report: Callable[[DataReport], None] | None = None,
          **overrides: Any) -> Run:  # fmt: skip
    """Starts a run in a process of its own and returns at once.

    Configuration, hardware and data are checked before anything is written; `on_report` is handed what was found in
    the files. Raises `ConfigError`, `DataError` or `Refusal`.
    """
    config = configure(preset, data, steps, autonomy, overrides)
    report = check_needs(config)
    if on_report is not None and report.files:
        on_report(report)
    name = name if name is not None else launch.free_name(directory, config.preset or "run")
    run = launch.create_run(config, name, directory)
    launch.spawn(run)
    return Run(run, via)


def check_needs(config: Config, hardware: Hardware | None = None) -> DataReport:
    """Whether this machine and the files that are named can serve a run; reads every file once, and never again while
    it stays as it is.

    Raises `DataError` or `Refusal` (bad_argument).
    """
    from lumina.data import Reading, cache_root, check_known, check_paths
    from lumina.hardware.demands import check_demands

    check_demands(config, hardware)
    data = config.data
    paths = [*data.base_paths, *data.finetuning_paths, *data.base_eval_paths, *data.finetuning_eval_paths]
    reading = Reading.of(data)

    def judge(path: Path) -> FileReport:
        return check_paths([path], max_bad_fraction=data.max_bad_fraction, reading=reading).files[0]

    return check_known(paths, judge, [data.max_bad_fraction, *reading.key()], cache_root())


def configure(preset: str | Path | Config, data: Sequence[str | Path] | None, steps: int | None, autonomy: str | None,
              overrides: Mapping[str, Any]) -> Config:  # fmt: skip
    """The configuration that keyword arguments make of a preset; one that is complete stays as it is."""
    if isinstance(preset, Config):
        return preset
    reading = load_config(preset, overrides) if data else None
    return load_config(preset, run_overrides(data, steps, autonomy, overrides, reading))


def run_overrides(data: Sequence[str | Path] | None, steps: int | None, autonomy: str | None,
                  overrides: Mapping[str, Any], config: Config | None = None) -> dict[str, Any]:  # fmt: skip
    """Keyword arguments as overrides; data paths are sorted into base text and conversations, read as `config` says."""
    from lumina.data import Reading, classify_paths

    merged = dict(overrides)
    if data:
        base, finetuning = classify_paths(data, Reading() if config is None else Reading.of(config.data))
        merged["data.base_paths"] = [str(path.resolve()) for path in base]
        merged["data.finetuning_paths"] = [str(path.resolve()) for path in finetuning]
    if steps is not None:
        merged["training.max_steps"] = steps
    if autonomy is not None:
        merged["orchestrator.autonomy"] = autonomy
    return merged


def attach(name: str | Path, directory: str | Path = "experiments", via: str = "api") -> Run:
    """The run of that name, or in that folder, whether its trainer lives or not. Raises `Refusal` (not_found)."""
    return Run(find_run(name, directory), via)


def list_runs(directory: str | Path = "experiments") -> list[dict[str, Any]]:
    """Name, state, step and newest loss of every run under `directory`, child runs behind their `parent`; state
    `unreadable` where its store is damaged or locked, so that one such run does not hide the others."""
    keys = ("name", "state", "step", "total_steps", "loss", "phase", "created", "parent")
    listed = []
    for paths in run_folders(directory):
        try:
            status = views.status(paths)
        except Refusal:
            unknown = {**dict.fromkeys(keys), "parent": parent_of(paths)}
            status = {**unknown, "name": paths.name, "state": "unreadable"}
        listed.append({key: status[key] for key in keys})
    names = {row["name"] for row in listed}

    def place(row: dict[str, Any]) -> tuple[str, bool, float, str]:
        name, parent = str(row["name"]), str((row["parent"] or {}).get("run"))
        child = parent in names
        return (parent if child else name, child, row["created"] or 0.0, name)

    return sorted(listed, key=place)
