"""A process that has imported what a trainer needs, and forks one for each life that a test asks for.

A life runs `lumina.train.process.main` as `python -m lumina.train.process` does, in a session of its own with its
output in the run's log; only the seconds of imports are saved. It knows no fault: it calls what it is told to.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.002


def serve() -> None:
    """Answers one JSON line with one JSON line: `start` forks a life, `wait` tells how it ended."""
    for module in ("lumina.train.process", "lumina.train.trainer", "torch._dynamo", "numpy.random",
                   "tensorboard.summary.writer.record_writer",
                   "tensorboard.compat.proto.event_pb2", "tensorboard.compat.proto.summary_pb2"):  # fmt: skip
        importlib.import_module(module)
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = _start(request) if request["do"] == "start" else _wait(request)
        print(json.dumps(answer), flush=True)
    os._exit(0)  # tearing down what was imported would take seconds


def _start(request: dict[str, Any]) -> dict[str, Any]:
    pid = os.fork()
    if pid == 0:
        _live(request)
    return {"pid": pid}


def _wait(request: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + request["seconds"]
    while time.monotonic() < deadline:
        pid, status = os.waitpid(request["pid"], os.WNOHANG)
        if pid:
            return {"code": os.waitstatus_to_exitcode(status)}
        time.sleep(POLL_SECONDS)
    return {"code": None}


def _live(request: dict[str, Any]) -> None:
    code = 1
    try:
        os.setsid()
        _redirect(Path(request["log"]))
        for name, arguments in request["inject"]:
            getattr(importlib.import_module("faults.injections"), name)(Path(request["hits"]), **arguments)
        from lumina.train.process import main

        code = main(request["argv"])
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    null, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)


if __name__ == "__main__":
    serve()
