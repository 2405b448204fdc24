"""How a session ends: what is left in the inbox is answered, everything is durable, the lock is free."""

from __future__ import annotations

import json
import logging
from typing import Any

from lumina.store import atomic
from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths
from lumina.store.reader import StoreReader
from lumina.train.session import Session
from lumina.train.steering import Steering

log = logging.getLogger(__name__)


def end_session(session: Session, steering: Steering, state: str, reason: str, **facts: Any) -> None:
    """Ends it as `state`; `facts` travel in the journal's last line."""
    steering.refuse_the_rest(state)
    session.commit("end", f"end-{session.segment}", {"state": state, "reason": reason, **facts})
    session.writer.meta("phase", None)
    session.writer.meta("state", state)
    session.writer.flush(60.0)
    try:
        write_metrics(session.paths)
    except (OSError, Refusal) as error:  # a copy for convenience; the run itself is whole
        log.warning("no metrics/metrics.json: %s", error)
    session.loader.close()
    session.engine.close()
    session.writer.close()
    session.journal.close()
    session.lock.release()
    log.info("%s at step %d (%s)", state, session.state.step, reason)


def write_metrics(paths: RunPaths) -> None:
    """Writes the series of the current line to metrics/metrics.json, for people without the database at hand."""
    series = StoreReader(paths).series(None, max_points=None)
    atomic.write_file(paths.metrics / "metrics.json", json.dumps({"series": series}).encode())
