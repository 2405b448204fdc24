"""Opens a session: configuration, hardware, data, engine, and on resume the state and the decisions to repeat.

It is the only place where the parts of a trainer meet; none of them knows another's constructor.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lumina.accounting import count_parameters, flops_per_token, recommended_epochs, token_budget
from lumina.checkpoint import CanonicalState, list_checkpoints, load_checkpoint
from lumina.checkpoint.load import set_aside
from lumina.checkpoint.retention import refresh_overview
from lumina.checkpoint.save import sweep
from lumina.config import Config, read_config
from lumina.data import Dataset, changed_files, contents, prepare
from lumina.engine.torch_engine import TorchEngine
from lumina.hardware import Hardware, PrecisionChoice, choose_precision, choose_threads, detect, for_platform
from lumina.orchestrator import Orchestrator, RunFacts
from lumina.store import atomic
from lumina.store.errors import Refusal
from lumina.store.inbox import Inbox
from lumina.store.journal import Entry, Journal, entries_on_line, recorded_data
from lumina.store.layout import RunPaths
from lumina.store.lock import RunLock
from lumina.store.writer import StoreWriter
from lumina.train.history import Ledger, Past, Replay, answered, extended, half_done, times_asked
from lumina.train.interrupts import Interrupts, StoppedEarly
from lumina.train.plan import Plan, make_plan
from lumina.train.recorder import UNITS, Recorder
from lumina.train.schedule import warmup_length
from lumina.train.session import Session, training_loader
from lumina.train.state import TrainState
from lumina.train.undo import abandon_off_line

log = logging.getLogger(__name__)

PHASE_SECONDS = 0.5


@dataclass(frozen=True)
class Machine:
    """What a run computes with here."""

    hardware: Hardware
    precision: PrecisionChoice
    threads: int

    @classmethod
    def set_up(cls, config: Config, hardware: Hardware) -> Machine:
        """This machine, with its threads set."""
        threads = config.training.num_threads or choose_threads(hardware)
        torch.set_num_threads(threads)
        precision = choose_precision(config.precision.precision, hardware, config.precision.master_precision)
        return cls(hardware, precision, threads)

    def fingerprint(self) -> dict[str, Any]:
        """What two runs must share to be comparable bit for bit."""
        return {
            "device": "cpu" if self.hardware.device == "cpu" else self.hardware.name,
            "torch": torch.__version__,
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "machine": platform.machine(),
            "threads": self.threads,
        }


@dataclass(frozen=True)
class Origin:
    """What a stretch of training sets out from: a state (None: nothing was trained), and the journal's position that it
    had, less the entries in `pending`. `own` is False for a child run, which sets out from another run's state."""

    state: CanonicalState | None
    seq: int = 0
    pending: Sequence[int] = ()
    own: bool = True


def open_session(paths: RunPaths, lock: RunLock, writer: StoreWriter, *, resume: str | None, steps: int | None,
                 interrupts: Interrupts, origin: CanonicalState | None = None) -> Session:  # fmt: skip
    """Everything a trainer needs, ready for its first step; `origin` is where a child run starts from.

    Raises `Refusal` (corrupt, unsupported), `ConfigError` or `DataError`; nothing of the run is changed then.
    """
    config, machine = _configured(paths)
    inbox = Inbox(paths)
    dataset = prepare(config, progress=Progress(writer, interrupts, inbox))
    engine = TorchEngine(config, dataset.vocab_size, machine.hardware, machine.precision)
    _clear_away(paths)
    journal = Journal.open(paths)
    history = list(journal.entries)
    config_sum = _check_config(paths, history)
    _check_journal(paths, history)
    abandon_off_line(paths.checkpoints, history)  # what a crash in the middle of a rewind left
    data, changed = _compare_data(config, history)
    start = _load(paths, writer, resume, history) or Origin(origin, own=origin is None)
    plan = _plan(config, dataset, history, steps)
    more = steps is not None or extended(history) is not None
    orchestrator = Orchestrator(config, _facts(config, dataset, plan, more, machine.hardware))
    state = _restore(start, engine, orchestrator)
    segment = _open_segment(
        journal, writer, resume, state.step, start.seq, total_steps=plan.total_steps, asked=plan.asked,
        extended=more, fingerprint=machine.fingerprint(), config=config_sum, **data,
    )  # fmt: skip
    abandon_off_line(paths.checkpoints, journal.entries)
    refresh_overview(paths.checkpoints)
    held = entries_on_line(journal.entries)
    session = Session(
        paths=paths,
        config=config,
        lock=lock,
        journal=journal,
        writer=writer,
        inbox=inbox,
        dataset=dataset,
        loader=training_loader(dataset, plan),
        validation=dataset.validation_loader(),
        engine=engine,
        orchestrator=orchestrator,
        recorder=Recorder(state),
        state=state,
        plan=plan,
        ledger=Ledger.of(entry for entry in held if entry.seq <= start.seq and entry.seq not in start.pending),
        replay=Replay.after(held, start.seq, state.step, start.pending),
        answered=answered(history),
        segment=segment,
        fingerprint=machine.fingerprint(),
        was_ended=bool(history) and history[-1].type == "end",
        past=Past.before(history, held, start.seq),
        half_done=half_done(history) if resume == "latest" else None,
    )
    session.follow(plan)
    if start.state is not None:
        session.restore_sidecar(start.state.sidecar)
    _tell(session, machine, changed)
    return session


def _configured(paths: RunPaths) -> tuple[Config, Machine]:
    """The run's configuration as this machine can compute it."""
    config = read_config(paths.config)
    logging.getLogger("lumina").setLevel(config.training.log_level)
    hardware = detect()
    config, adapted = for_platform(config, hardware)
    for change in adapted:
        log.info("%s", change)
    return config, Machine.set_up(config, hardware)


def _clear_away(paths: RunPaths) -> None:
    """What writes and removals that were cut off left behind."""
    for folder in (paths.root, paths.done):
        atomic.sweep(folder)
    sweep(paths.checkpoints)


def _restore(start: Origin, engine: TorchEngine, orchestrator: Orchestrator) -> TrainState:
    """Puts the engine and the orchestrator where `start` was; returns the loop's own state."""
    state = TrainState()
    if start.state is not None:
        engine.restore_state(start.state)
        state = TrainState.from_json(start.state.meta["trainer"])
        orchestrator.restore(start.state.meta["orchestrator"])
    if not start.own or start.state is None:
        orchestrator.forget_interventions()  # a child run has its own
    return state


def _check_config(paths: RunPaths, history: list[Entry]) -> str:
    """The checksum of config.yaml. Raises `Refusal` (corrupt) when the run was begun with another one."""
    found = hashlib.sha256(paths.config.read_bytes()).hexdigest()
    begun = next((entry.doc.get("config") for entry in history if entry.type == "segment"), None)
    if begun not in (None, found):
        raise Refusal(
            "corrupt",
            f"{paths.config} is not the one that the run was begun with (sha256 {found[:12]}, {begun[:12]} expected): "
            "put the old one back; live values are changed by interventions, anything else needs a new run",
        )
    return found


def _check_journal(paths: RunPaths, history: list[Entry]) -> None:
    """Raises `Refusal` (corrupt) when the journal is gone from a run that was trained: nothing starts over silently."""
    if not history and list_checkpoints(paths.checkpoints):
        raise Refusal("corrupt", f"{paths.journal} is missing or empty, and there are checkpoints; put it back")


def _open_segment(journal: Journal, writer: StoreWriter, resume: str | None, step: int, fork_seq: int,
                  **facts: Any) -> str:  # fmt: skip
    """Commits the start of this stretch of training; returns its id."""
    segment = uuid.uuid4().hex
    doc = {
        "parent": journal.entries[-1].segment if journal.entries else None,
        "fork_step": step,
        "fork_seq": fork_seq,
        "cause": "start" if resume is None else ("restart" if resume == "latest" else "rewind"),
        **facts,
    }
    writer.entry(journal.append("segment", segment, step, segment, doc))
    return segment


def _compare_data(config: Config, history: list[Entry]) -> tuple[dict[str, Any], list[str]]:
    """What the segment keeps of the files (nothing while they are what the run was started with), and what changed.

    Raises `Refusal` (bad_data) where other files would also make another tokenizer: the model's tokens would be others.
    """
    recorded = recorded_data(history)
    now = contents(config)
    if recorded is None:
        return {"data": now}, []
    changed = changed_files(recorded, now)
    if changed and config.data.tokenizer == "bpe":
        raise Refusal("bad_data", f"the data is not what the run was trained on: {'; '.join(changed)}")
    return ({"data": now} if changed else {}), changed


class Progress:
    """Shows what happens before the first step as the run's phase; a stop is heeded meanwhile, other commands wait."""

    def __init__(self, writer: StoreWriter, interrupts: Interrupts, inbox: Inbox) -> None:
        self._writer = writer
        self._interrupts = interrupts
        self._inbox = inbox
        self._shown = 0.0

    def __call__(self, phase: str, fraction: float) -> None:
        if self._interrupts.stop:
            raise StoppedEarly(f"{self._interrupts.stop} while {phase}")
        now = time.monotonic()
        if now - self._shown < PHASE_SECONDS:
            return
        self._shown = now
        self._writer.meta("phase", f"{phase} {fraction:.0%}")
        for command in self._inbox.take():
            if command.kind == "stop":
                raise StoppedEarly(f"stop, asked for by {command.author.get('name', '?')}, while {phase}")


def _load(paths: RunPaths, writer: StoreWriter, resume: str | None,
          history: list[Entry]) -> Origin | None:  # fmt: skip
    """The wanted checkpoint; None for a start from the beginning."""
    if resume is None:
        if history:
            raise Refusal("name_taken", f"{paths.root} has been trained already; resume it")
        return None
    written = any(entry.type == "checkpoint" for entry in history) or list_checkpoints(paths.checkpoints)
    if resume == "latest" and not written:
        log.info("no checkpoint was written yet; the run starts again from its first step")
        return None
    state, manifest, attempts = load_checkpoint(paths.checkpoints, int(resume) if resume.isdigit() else resume)
    for attempt in attempts:
        log.log(logging.INFO if attempt.ok else logging.WARNING, "checkpoint %s: %s", attempt.name, attempt.message)
        if not attempt.ok:
            told = f"Checkpoint {attempt.name} cannot be used: {attempt.message}; step {manifest.step} is used instead"
            writer.event(None, manifest.step, "critical", "checkpoint", told)
    set_aside(paths.checkpoints, attempts)
    return Origin(state, manifest.journal_seq, manifest.pending)


def _plan(config: Config, dataset: Dataset, history: list[Entry], steps: int | None) -> Plan:
    """The run's length: as asked for now, else as it was in the newest segment, else from the configuration."""
    counts = count_parameters(config, dataset.vocab_size)
    advice = recommended_epochs(config, counts, dataset.tokens_per_epoch)
    wanted = steps if steps is not None else extended(history)
    asked = times_asked(history) + (steps is not None)
    plan = make_plan(config, program=dataset.program, automatic_epochs=advice.epochs, steps=wanted, asked=asked)
    log.info("%s (%s); %s", dataset.facts["mode"], dataset.facts["mode_reason"], plan.reason)
    return plan


def _facts(config: Config, dataset: Dataset, plan: Plan, more: bool, hardware: Hardware) -> RunFacts:
    counts = count_parameters(config, dataset.vocab_size)
    return RunFacts(
        moe_layers=config.moe_layers,
        mod_layers=config.mod_layers,
        num_experts=config.moe.num_experts,
        top_k=config.moe.moe_top_k,
        params_total=counts.total,
        params_active=counts.active,
        flops_per_token=flops_per_token(config, config.sequence_length, dataset.vocab_size).total,
        tokens_optimal=token_budget(config, counts),
        total_steps=plan.total_steps,
        tokens_per_epoch=float(dataset.tokens_per_epoch),
        epochs=recommended_epochs(config, counts, dataset.tokens_per_epoch),
        extended=more,
        num_layers=config.model.num_layers,
        warmup_steps=warmup_length(config.training, plan.total_steps),
        sequences_per_step=plan.sequences_per_step,
        memory_bytes=float(hardware.memory_bytes),
        automatic=config.chinchilla.auto_epoch_scaling and not plan.asked and config.training.max_steps is None,
    )


def _tell(session: Session, machine: Machine, changed: list[str]) -> None:
    """Everything that watchers want to know and that no later step changes, and which data files have changed."""
    config, writer, hardware = session.config, session.writer, machine.hardware
    counts = count_parameters(config, session.dataset.vocab_size)
    flops = flops_per_token(config, config.sequence_length, session.dataset.vocab_size)
    writer.declare_series(UNITS)
    session.tell_run()
    writer.meta("total_steps_reason", session.plan.reason)
    writer.meta("device", {"name": hardware.name, "kind": hardware.device, **session.fingerprint})
    writer.meta("precision", machine.precision.name)
    writer.meta("params", {"total": counts.total, "active": counts.active, "embedding": counts.embedding})
    writer.meta("flops", {"forward": flops.forward, "backward": flops.backward})
    writer.meta("data", session.dataset.summary())
    session.tell_live()
    writer.meta("phase", None)
    for change in changed:
        session.event("warning", "data", f"The data is not what this run was started with: {change}")
