"""The data page's routes: a check runs in a process of its own, and reads nothing that nobody named."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from factories import new_run
from fastapi import FastAPI
from small import until
from starlette.testclient import TestClient

from lumina_app.data import AT_ONCE, data_routes
from lumina_app.server import Settings, create_app

GOOD = '{"messages": [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Well."}]}\n'
Opened = Callable[..., TestClient]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """A client of the routes; their checks end with the test."""
    ends: list[Callable[[], None]] = []

    def open_client(*, confined: bool = False) -> TestClient:
        routes, checks = data_routes(tmp_path / "runs", confined=confined)
        app = FastAPI()
        app.include_router(routes)
        ends.append(checks.close)
        return TestClient(app)

    yield open_client
    for end in ends:
        end()


def started(client: TestClient, **message: Any) -> str:
    answer = client.post("/lumina/data/check", json=message)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def finished(client: TestClient, identity: str) -> dict[str, Any]:
    def state() -> dict[str, Any] | None:
        document: dict[str, Any] = client.get("/lumina/data/check", params={"id": identity}).json()
        return None if document["state"] == "running" else document

    return dict(until(state, 60))


def refused(client: TestClient, **message: Any) -> str:
    answer = client.post("/lumina/data/check", json=message)
    assert answer.status_code in (400, 404, 409), answer.text
    return str(answer.json()["error"]["message"])


def test_a_check_reports_with_samples_and_their_masks(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "chat.jsonl").write_text(GOOD * 30 + "{oops\n")
    client = opened()
    settings = {"mask_user_tokens": True, "quality_threshold": 0.5}
    document = finished(client, started(client, paths=[str(tmp_path / "chat.jsonl")], settings=settings))
    report = document["report"]
    assert (report["totals"]["valid"], report["totals"]["invalid"]) == (30, 1)
    sample = report["files"][0]["shown"][0]
    with_loss = "".join(text for text, flag in zip(sample["tokens"], sample["loss"], strict=True) if flag)
    assert with_loss == "Well.<eos>"
    assert report["files"][0]["quality"]["threshold"] == 0.5


def test_data_that_cannot_be_used_is_reported_on_too(opened: Opened, tmp_path: Path) -> None:
    client = opened()
    report = finished(client, started(client, paths=[str(tmp_path / "none.jsonl")]))["report"]
    assert report["usable"] is False
    assert "no such file" in report["files"][0]["error"]


def test_the_files_of_a_run(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "chat.jsonl").write_text(GOOD * 30)
    new_run(tmp_path / "runs", **{"data.finetuning_paths": [str(tmp_path / "chat.jsonl")], "data.tokenizer": "bytes"})
    new_run(tmp_path / "runs", name="second")
    client = opened()
    report = finished(client, started(client, run="first"))["report"]
    assert report["totals"]["valid"] == 30
    assert report["tokenizer"]["name"] == "of the run first"
    assert finished(client, started(client, run="second")) == {
        "state": "refused",
        "said": "second trains on the built-in corpus: there are no files to check",
    }


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({}, "name a file, a folder, a pattern or a run"),
        ({"paths": "a.jsonl"}, "paths is not a list of texts"),
        ({"paths": [3]}, "paths is not a list of texts"),
        ({"paths": ["a\0b"]}, "paths is not a list of texts"),
        ({"paths": ["a"], "settings": {"tokenizer": "/etc/passwd"}}, "settings may be"),
        ({"run": "../other"}, "run name '../other' is not allowed"),
        ({"run": "nobody"}, "no run 'nobody'"),
    ],
)
def test_what_makes_no_sense_is_refused(opened: Opened, message: dict[str, Any], said: str) -> None:
    assert said in refused(opened(), **message)


def test_a_path_is_never_an_option(opened: Opened, tmp_path: Path) -> None:
    client = opened()
    report = finished(client, started(client, paths=["--help", "--run=first"]))["report"]
    assert [file["path"] for file in report["files"]] == ["--help", "--run=first"]


def test_without_a_token_only_named_folders_are_read(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "secret.txt").write_text("a secret of somebody else\n")
    (tmp_path / "here" / "mine.txt").write_text("a text of mine\n")
    (tmp_path / "here" / "link.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.chdir(tmp_path / "here")
    client = opened(confined=True)
    for path in (str(tmp_path / "secret.txt"), "../secret.txt", "link.txt", "../*.txt", "/etc", "."):
        assert "without a token only files below" in refused(client, paths=[path]), path
    assert finished(client, started(client, paths=["mine.txt"]))["report"]["totals"]["valid"] == 1


def test_a_check_can_be_cancelled_and_only_a_few_run_at_once(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "large.jsonl").write_text(GOOD * 400_000)
    client = opened()
    message = {"paths": [str(tmp_path / "large.jsonl")]}
    running = [started(client, **message) for _ in range(AT_ONCE)]
    assert "checks are running already" in refused(client, **message)
    before = time.monotonic()
    for identity in running:
        assert client.post("/lumina/data/cancel", params={"id": identity}).json() == {"state": "cancelled"}
    assert [finished(client, identity)["state"] for identity in running] == ["cancelled"] * AT_ONCE
    assert time.monotonic() - before < 30
    assert client.post("/lumina/data/cancel", params={"id": "nothing"}).status_code == 404


def test_nobody_gets_to_the_routes_past_the_guard(tmp_path: Path) -> None:
    client = TestClient(create_app(Settings(tmp_path, "s3cret", 7860)), follow_redirects=False)
    host = {"host": "127.0.0.1:7860"}
    for method, path in (("POST", "check"), ("GET", "check"), ("POST", "cancel")):
        asked = client.request(method, f"/lumina/data/{path}", headers=host, json={"paths": ["/etc/passwd"]})
        assert asked.status_code == 403
        cookie = {**host, "cookie": "lumina_7860=s3cret", "origin": "http://evil.example"}
        assert client.request(method, f"/lumina/data/{path}", headers=cookie).status_code == 403
    assert client.get("/data", headers=host).status_code == 403
