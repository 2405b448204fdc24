"""What several tiers of tests share: the smallest shape of a model, the settings of a short real run, and waiting."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest

SHAPE: dict[str, Any] = {
    "model.hidden_size": 32,
    "model.intermediate_size": 24,
    "model.num_layers": 2,
    "model.num_heads": 4,
    "model.num_kv_heads": 2,
    "model.max_position_embeddings": 64,
    "model.initializer_range": 0.2,
}
RUN: dict[str, Any] = {
    "num_threads": 1,
    "batch_size": 2,
    "corpus_documents": 200,
    "eval_interval": 20,
    "eval_sequences": 4,
    "check_interval": 10,
    "model.vocab_size": 512,
    "model.max_position_embeddings": 128,
}
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


def require_chromium() -> str:
    """Where the browser is. Without one the tests say so and are skipped; in continuous integration they fail."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        message = "Chromium is not installed; on Debian: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true value of `condition`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value
