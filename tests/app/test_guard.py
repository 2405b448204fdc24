"""Who gets in: nobody from another site, nobody without this launch's token."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from lumina_app.guard import Guard, Rules

TOKEN = "s3cret-of-this-launch"
HOST = {"host": "127.0.0.1:7860"}
BEARER = {**HOST, "authorization": f"Bearer {TOKEN}"}


async def open_house(scope: Any, receive: Any, send: Any) -> None:
    """Answers everything: whatever is refused was refused by the guard."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"in"})


@pytest.fixture
def client() -> TestClient:
    return TestClient(Guard(open_house, Rules(TOKEN, "lumina_7860")), follow_redirects=False)


def test_the_token_comes_in_the_url_once_and_then_in_a_cookie_that_scripts_cannot_read(client: TestClient) -> None:
    answer = client.get(f"/?token={TOKEN}&run=first", headers=HOST)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/?run=first"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert client.get("/", headers={**HOST, "cookie": f"lumina_7860={TOKEN}"}).text == "in"


@pytest.mark.parametrize("path", ["/", "/lumina/live?run=a", "/gradio_api/upload", "/gradio_api/run/predict", "/x"])
def test_nothing_answers_without_the_token(client: TestClient, path: str) -> None:
    assert client.get(path, headers=HOST).status_code == 403
    assert client.post(path, headers=HOST).status_code == 403
    assert client.post(path, headers={**HOST, "authorization": "Bearer wrong"}).status_code == 403
    assert client.get(path, headers=BEARER).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "127.0.0.1@evil.example", ""]
)
def test_another_name_for_this_machine_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/", headers={**BEARER, "host": host})
    assert answer.status_code == 403
    assert "answers to" in answer.text


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:9999", "null"])
def test_another_origin_is_refused(client: TestClient, origin: str) -> None:
    assert client.post("/x", headers={**BEARER, "origin": origin}).status_code == 403
    assert client.post("/x", headers={**BEARER, "origin": "http://127.0.0.1:7860"}).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_site_made_the_browser_send_is_refused(client: TestClient, site: str) -> None:
    assert client.get("/x", headers={**BEARER, "sec-fetch-site": site}).status_code == 403
    assert client.get("/x", headers={**BEARER, "sec-fetch-site": "same-origin"}).status_code == 200


def test_a_websocket_passes_the_same_gate(client: TestClient) -> None:
    with client.websocket_connect("/ws", headers=BEARER):
        pass
    for headers in (HOST, {**BEARER, "origin": "https://evil.example"}, {**BEARER, "host": "evil.example"}):
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/ws", headers=headers):
            pass
        assert refused.value.code == 1008


def test_without_a_token_the_other_rules_stay() -> None:
    client = TestClient(Guard(open_house, Rules(None, "lumina_7860")))
    assert client.get("/", headers=HOST).status_code == 200
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    assert client.post("/", headers={**HOST, "origin": "https://evil.example"}).status_code == 403


def test_every_answer_forbids_other_origins(client: TestClient) -> None:
    for answer in (client.get("/", headers=BEARER), client.get("/", headers=HOST)):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_redirect_never_leaves_the_machine(client: TestClient) -> None:
    answer = client.get(f"//evil.example/?token={TOKEN}", headers=HOST)
    assert answer.headers["location"].startswith("/")
    assert not answer.headers["location"].startswith("//")
