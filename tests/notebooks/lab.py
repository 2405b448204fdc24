"""A real JupyterLab in a folder of its own, and headless Chromium looking at it.

Both talk to 127.0.0.1 only; everything they write goes under that folder.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, sync_playwright
from small import CHROMIUM_FLAGS

OURS = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")
TOKEN = "lumina-test-token"
# Every cell is on the page, a saved notebook carries its widgets, and nothing asks for news.
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True},
}
START_SECONDS = 60.0


@dataclass(frozen=True)
class Lab:
    """A running server; `folder` is what it shows."""

    folder: Path
    port: int

    def api(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{path}", method=method)
        request.add_header("Authorization", f"token {TOKEN}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def url(self, notebook: str) -> str:
        return f"http://127.0.0.1:{self.port}/lab/tree/{notebook}?token={TOKEN}&reset"


@contextmanager
def jupyter_lab(folder: Path, private: Path) -> Iterator[Lab]:
    """JupyterLab on `folder`; its own files go to `private`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for plugin, values in SETTINGS.items():
        file = private / "settings" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    homes = {f"JUPYTER_{kind.upper()}_DIR": str(private / kind) for kind in ("config", "data", "runtime")}
    homes |= {f"JUPYTERLAB_{kind.upper()}_DIR": str(private / kind) for kind in ("settings", "workspaces")}
    homes |= {"IPYTHONDIR": str(private / "ipython")}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={TOKEN}",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    private.mkdir(parents=True, exist_ok=True)
    with (private / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | homes)
    lab = Lab(folder, port)
    try:
        _wait_until_it_answers(lab, server, private / "lab.log")
        yield lab
        for kernel in lab.api("kernels"):
            lab.api(f"kernels/{kernel['id']}", "DELETE")
    finally:
        server.terminate()
        server.wait(30)


def _wait_until_it_answers(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            lab.api("status")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(log.read_text())


@dataclass
class LabPage:
    """One notebook in the browser, with what it said and asked for."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda told: self.errors.append(told.text) if told.type == "error" else None)
        self.page.on("request", lambda request: self.requests.append(request.url))

    @property
    def beyond_this_machine(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(OURS)]

    @property
    def widget(self) -> Locator:
        return self.page.locator(".lumina-widget").first

    def open(self, lab: Lab, notebook: str, *, kernel: bool = True) -> None:
        self.page.goto(lab.url(notebook))
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
        if kernel:
            self.page.wait_for_selector(r"#jp-main-statusbar >> text=/\| Idle/", timeout=60_000)

    def run_cell(self, text: str) -> Locator:
        """Runs the code cell that contains `text`, without waiting for its end."""
        cell = self._cell(text)
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        return cell

    def is_busy(self, text: str) -> bool:
        """Whether the code cell that contains `text` runs, as its prompt says."""
        return self._cell(text).locator(".jp-InputPrompt").inner_text() == "[*]:"

    def _cell(self, text: str) -> Locator:
        return self.page.locator(".jp-Notebook .jp-CodeCell", has_text=text).first

    def restart_kernel(self) -> None:
        """As a person does it, from the menu."""
        self.page.evaluate("() => void window.jupyterapp.commands.execute('notebook:restart-kernel')")
        self.page.locator(".jp-Dialog .jp-mod-accept").click()

    def command(self, name: str, **args: Any) -> None:
        self.page.evaluate("([name, args]) => window.jupyterapp.commands.execute(name, args)", [name, args])

    def step(self) -> int:
        """The step that the widget shows."""
        text = self.widget.locator(".lw-progress").inner_text()
        words = text.replace(",", "").split()
        return int(words[words.index("step") + 1]) if "step" in words else 0


@contextmanager
def lab_page(browser_path: str, width: int = 1300, height: int = 2000) -> Iterator[LabPage]:
    """An empty page of headless Chromium."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=list(CHROMIUM_FLAGS), headless=True)
        context = browser.new_context(viewport={"width": width, "height": height})
        try:
            yield LabPage(context.new_page())
        finally:
            context.close()
            browser.close()
