"""Lumina trains Mixture-of-Experts and Mixture-of-Depths transformers in the background, and lets a person watch and
steer them. This is its public face; each name is imported when it is first used, so `import lumina` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumina.client import Run, attach, list_runs, start
    from lumina.config import list_presets, load_preset
    from lumina.store.errors import Refusal
    from lumina.train.trainer import Trainer

__version__ = "0.1.0"

__all__ = ["Refusal", "Run", "Trainer", "attach", "list_presets", "list_runs", "load_preset", "start"]

_HOME = {
    "Refusal": "lumina.store.errors",
    "Run": "lumina.client",
    "Trainer": "lumina.train.trainer",
    "attach": "lumina.client",
    "list_presets": "lumina.config",
    "list_runs": "lumina.client",
    "load_preset": "lumina.config",
    "start": "lumina.client",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lumina' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
