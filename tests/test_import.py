"""What people watch and command with starts quickly: nothing slow is imported before it is needed, and never torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from factories import finished_run

NEVER = (
    "torch",
    "gradio",
    "plotly",
    "polars",
    "pandas",
    "ipywidgets",
    "anywidget",
    "IPython",
    "tensorboard",
    "transformers",
    "deepspeed",
    "safetensors",
    "tokenizers",
    "rich",
)
TORCH_FREE = (
    "lumina.config",
    "lumina.store",
    "lumina.store.reader",
    "lumina.store.writer",
    "lumina.client",
    "lumina.views",
    "lumina.launch",
    "lumina.orchestrator",
    "lumina.interventions",
    "lumina.accounting",
    "lumina.hardware",
    "lumina.cli",
)
BLOCK_TORCH = """
import importlib.abc, importlib.machinery, sys

class Blocker(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] == "torch" else None

    def create_module(self, spec):
        raise ImportError("torch is blocked")

    def exec_module(self, module):
        raise ImportError("torch is blocked")

sys.meta_path.insert(0, Blocker())
"""


def python(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_by(module: str) -> set[str]:
    """Top-level packages that `import module` brings in."""
    code = "import sys, json; before = set(sys.modules); __import__(sys.argv[1])\n"
    code += "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    return set(json.loads(python(code, module)))


def test_importing_lumina_imports_nothing_but_itself() -> None:
    assert imported_by("lumina") - set(sys.stdlib_module_names) == {"lumina"}


def test_the_command_line_parses_before_it_imports_anything() -> None:
    assert imported_by("lumina.cli") - set(sys.stdlib_module_names) == {"lumina"}


@pytest.mark.parametrize("module", TORCH_FREE)
def test_a_module_of_the_watching_side_imports_nothing_heavy(module: str) -> None:
    assert imported_by(module).intersection(NEVER) == set()


def test_checking_data_needs_no_torch() -> None:
    assert "torch" not in imported_by("lumina.data")


def test_a_trainer_comes_to_its_first_step_without_a_compiler_and_whatever_else_it_does_not_use(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "import lumina\n"
        "small = {'hidden_size': 32, 'intermediate_size': 24, 'corpus_documents': 20, 'tokenizer': 'bytes'}\n"
        "trainer = lumina.Trainer('debug', name='small', directory=sys.argv[1], steps=2, **small)\n"
        "trainer.train(until=1)\n"
        "print(*[name for name in sys.argv[2:] if name in sys.modules])\n"
        "trainer.close()\n"
    )
    unused = ("torch._dynamo", "torch._inductor", "sympy", "pandas", "polars", "scipy", "datasets", "transformers")
    assert python(code, str(tmp_path), *unused).split() == []


def test_every_name_of_the_public_face_leads_somewhere() -> None:
    code = "import lumina; print(*[getattr(lumina, name).__name__ for name in lumina.__all__])"
    assert python(code).split() == sorted(python("import lumina; print(*lumina.__all__)").split())


def test_a_run_is_watched_on_a_machine_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    finished_run(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("some text\n")
    commands = [["presets"], ["plan", "b7"], ["interventions"], ["data", "check", str(text)]]
    commands += [["runs", "--dir", str(tmp_path)]]
    commands += [[name, "first", "--dir", str(tmp_path)] for name in ("status", "proposals", "metrics", "watch")]
    code = BLOCK_TORCH + (
        "import json\n"
        "from lumina.cli import main\n"
        "from lumina.client import attach\n"
        "from lumina.views import live\n"
        "codes = [main(words) for words in json.loads(sys.argv[2])]\n"
        "document = live(attach('first', sys.argv[1]).paths)\n"
        "print(json.dumps([codes, document['state'], len(document['series']['loss']['step'])]))\n"
    )
    told = python(code, str(tmp_path), json.dumps(commands)).splitlines()[-1]
    assert json.loads(told) == [[0] * len(commands), "finished", 40]


def test_the_block_on_torch_holds() -> None:
    code = BLOCK_TORCH + "try:\n    import torch\nexcept ImportError as error:\n    print(error)"
    assert python(code).strip() == "torch is blocked"
