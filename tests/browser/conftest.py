"""A dashboard in a process of its own, a run that trains, and Debian's Chromium that may talk to nobody else."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from small import CHROMIUM_FLAGS, RUN, require_chromium

import lumina
from lumina.client import Run

SMALL: dict[str, object] = {**RUN, "save_every_n_batches": 500, "proposal_expiry_steps": 5000}
COLLAPSE: dict[str, object] = {"moe.router_init_bias": 6.0, "moe.load_balancing_weight": 0.0}


@pytest.fixture(scope="session")
def chromium() -> str:
    return require_chromium()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiments")


def start(runs: Path, name: str, **more: object) -> Run:
    return lumina.start("debug", name=name, steps=100_000, directory=runs, **{**SMALL, **more})


@pytest.fixture(scope="session")
def collapsed(chromium: str, runs: Path) -> Iterator[Run]:
    """A run whose router collapses, and that asks for help after forty steps or so."""
    run = start(runs, "collapsed", **COLLAPSE)
    yield run
    if run.status()["state"] in ("running", "paused"):
        run.stop().wait()
        run.wait(60)


@dataclass
class Server:
    """A `lumina-ui` process and the URL it printed."""

    process: subprocess.Popen[str]
    url: str
    log: list[str] = field(default_factory=list)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)


@pytest.fixture(scope="session")
def serve(runs: Path) -> Iterator[Callable[..., Server]]:
    """Starts dashboards; all of them end with the tests."""
    started: list[Server] = []

    def start_server(directory: Path = runs) -> Server:
        command = [sys.executable, "-m", "lumina_app.cli", "--dir", str(directory), "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", first)
        assert found, first
        started.append(Server(process, found.group()))
        return started[-1]

    yield start_server
    for server in started:
        if server.process.poll() is None:
            server.kill()
        server.process.stdout.close()  # type: ignore[union-attr]


@pytest.fixture(scope="session")
def dashboard(serve: Callable[..., Server]) -> Server:
    return serve()


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        yield opened
        opened.close()


@dataclass
class Watched:
    """A page, with everything that it complained about and everywhere that it went."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._request(request.url))

    def _request(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.outside.append(url)


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a URL in a fresh profile; afterwards the page must have been silent and stayed on this machine."""
    watched: list[Watched] = []

    def opener(url: str, **context: Any) -> Any:
        page = browser.new_context(viewport={"width": 1400, "height": 900}, **context).new_page()
        page.set_default_timeout(30_000)
        one = Watched(page)
        one.listen()
        watched.append(one)
        page.goto(url)
        return page

    yield opener
    for one in watched:
        one.page.context.close()
    assert [text for one in watched for text in one.complaints] == []
    assert [url for one in watched for url in one.outside] == []
