"""The dashboard's process: answers at once, needs no torch, and hands on what the views say."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from lumina import interventions
from lumina.client import Run
from lumina.config import load_config
from lumina.launch import create_run
from lumina_app import cli
from lumina_app.commands import attempt
from lumina_app.live import live_routes, run_paths

WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" or name.startswith("torch."):
            raise ImportError(f"{name} was imported by the dashboard")

sys.meta_path.insert(0, NoTorch())
from lumina_app.cli import main
sys.exit(main(["--port", "0", "--dir", sys.argv[1]]))
"""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    create_run(load_config("debug", {}), "first", tmp_path)
    return tmp_path


@pytest.fixture
def client(runs: Path) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(live_routes(runs))
    with TestClient(app) as opened:
        yield opened


def test_the_page_is_served_by_a_process_that_cannot_import_torch(runs: Path) -> None:
    command = [sys.executable, "-W", "error::UserWarning:lumina_app", "-c", textwrap.dedent(WITHOUT_TORCH), str(runs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            url, token = re.match(r"Lumina: (\S+)\?token=(\S+)", process.stdout.readline()).groups()  # type: ignore[union-attr]
            # Before the page is built, which takes seconds, there is an answer already.
            assert "Lumina" in get(url, token)
            while '"ready":true' not in get(f"{url}lumina/ready", token).replace(" ", ""):
                assert process.poll() is None
            page = get(url, token)
            assert "lumina.css" in page
            assert '"runs":[{"name":"first"' in get(f"{url}lumina/runs", token)
        finally:
            process.kill()


def get(url: str, token: str) -> str:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return str(error.read().decode())


def test_the_live_route_answers_for_names_only(client: TestClient) -> None:
    assert client.get("/lumina/live", params={"run": "first"}).json()["run"] == "first"
    assert client.get("/lumina/live", params={"run": "nobody"}).status_code == 404
    for path in ("../first", "/etc", "a/b", "..", ""):
        assert client.get("/lumina/live", params={"run": path}).status_code == 400, path


def test_the_live_route_survives_any_cursor(client: TestClient) -> None:
    for cursor in ("nonsense", "[]", "{}", '{"series": 3}', '{"event": "x"}', '{"series": "{}"}'):
        answer = client.get("/lumina/live", params={"run": "first", "cursor": cursor})
        assert answer.status_code == 200, cursor
        assert answer.json()["full"] is True


def test_the_form_offers_what_the_catalogue_declares(client: TestClient) -> None:
    told = {entry["method"]: entry for entry in client.get("/lumina/catalogue").json()["catalogue"]}
    assert list(told) == list(interventions.catalogue())
    assert told["adjust_routing_temperature"]["args"][0]["le"] == 5.0


def test_a_command_that_cannot_be_sent_is_answered_with_the_reason(runs: Path) -> None:
    def ask(name: str, **message: Any) -> dict[str, Any]:
        return attempt(lambda: Run(run_paths(runs, name)), message)

    assert "nothing reads its commands" in ask("first", action="pause")["reason"]
    assert "no run" in ask("nobody", action="pause")["reason"]
    assert "not a command" in ask("first", action="_send")["reason"]
    refused = ask("first", action="intervene", method="adjust_routing_temperature", args={"temperature": "99"})
    assert refused == {
        "id": None,
        "kind": "adjust_routing_temperature",
        "state": "refused",
        "reason": "adjust_routing_temperature: temperature = 99 is outside 0.1 to 5",
    }


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "0.0.0.0"], "--allowed-host"),
        (["--host", "0.0.0.0", "--allowed-host", "gpu1", "--no-token"], "this machine only"),
        (["--port", "99999"], "use 0 to 65535"),
    ],
)
def test_flags_that_would_open_the_machine_are_refused(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(flags) == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_gives_the_next_one() -> None:
    with cli.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with cli.listen("127.0.0.1", port) as second:
            assert second.getsockname()[1] > port
