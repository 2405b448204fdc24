"""Every command and every example that README shows, run as written in an empty folder."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lumina.data.corpus import generate

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line.split(" #")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
WATCHED_SECONDS = 6.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of the names that the commands take."""
    folder = tmp_path_factory.mktemp("readme")
    told = [document.text for document in generate(0, 100) if document.text]
    (folder / "my.txt").write_text("\n\n".join(told))
    messages = [{"role": "user", "content": "Where is the mill?"}, {"role": "assistant", "content": "By the river."}]
    (folder / "chats.jsonl").write_text((json.dumps({"messages": messages}) + "\n") * 5)
    return folder


def test_every_make_target_exists() -> None:
    targets = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert targets == ["ui", "test"]
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_every_command_works(folder: Path) -> None:
    shown = [shlex.split(command)[1:] for command in COMMANDS if command.startswith(".venv/bin/lumina ")]
    assert len(shown) == 8
    for arguments in shown:
        command = [sys.executable, "-m", "lumina.cli", *arguments]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ran:
            if arguments[0] == "watch":
                time.sleep(WATCHED_SECONDS)
                ran.send_signal(signal.SIGINT)
            told = ran.communicate(timeout=120)[0]
        assert ran.returncode == 0, (arguments, told)
        assert told.strip(), arguments


def test_every_python_example_works(folder: Path) -> None:
    examples = [text for kind, text in BLOCKS if kind == "python"]
    assert len(examples) == 2
    for text in examples:
        ran = subprocess.run(
            [sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, timeout=240, check=False
        )
        assert ran.returncode == 0, ran.stderr
    assert "val_loss" in ran.stdout


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
