"""`doctor`: what this machine offers and what Lumina would choose on it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
from typing import Any

from lumina._cli.output import print_json, say
from lumina._cli.parsing import Commands, add_json

EXTRAS = {"ui": "gradio", "notebook": "anywidget", "deepspeed": "deepspeed", "flash": "flash_attn"}


def register(commands: Commands) -> None:
    """Add the command."""
    add_json(commands.add("doctor", examine, "show what this machine has and what Lumina would choose on it"))


def examine(args: argparse.Namespace) -> int:
    """One fact a line."""
    import torch

    from lumina.hardware import choose_precision, choose_threads, detect

    hardware = detect()
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(hardware),
        "precision": choose_precision("auto", hardware).name,
        "threads": choose_threads(hardware),
        "free disk": f"{shutil.disk_usage('.').free / 1e9:.0f} GB",
        "working directory writable": os.access(".", os.W_OK),
        "extras": [name for name, module in EXTRAS.items() if importlib.util.find_spec(module) is not None],
    }
    if args.json:
        print_json(facts)
    else:
        for name, value in facts.items():
            say(f"{name:28} {_words(value)}")
    return 0


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)
