"""Who may talk to the dashboard: a pure-ASGI gate in front of every route, upload and WebSocket.

It knows hosts, origins and the launch token; it must not know what lies behind it.

A page on another site can make a browser send requests to 127.0.0.1, also under a name of its own (DNS rebinding).
Hence the Host allow-list, Origin equal to Host, `Sec-Fetch-Site`, and a token that such a page cannot read. The token
comes in the URL once; the answer moves it to a cookie that scripts cannot read and other sites cannot send.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

# Gradio evaluates its panels' scripts and styles its parts inline; nothing may come from, or go to, another origin.
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS: Final = {
    b"content-security-policy": CONTENT_SECURITY_POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=(), usb=()",
}

# A link that another site opened carries no SameSite=Strict cookie, not even after our own redirect. This page asks
# once more from here, where the cookie is sent.
_BOUNCE: Final = (
    "<!doctype html><meta charset=utf-8><title>Lumina</title>"
    '<meta http-equiv="refresh" content="0"><p>Opening the dashboard ...'
)
_NO_TOKEN: Final = "open the URL that lumina-ui printed (it carries this launch's token), or send it as a Bearer token"


class Rejection(Exception):
    """Why a request goes no further: `code` for programs, `message` for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Rules:
    """What is let in. `token` None switches the token off, never the other rules."""

    token: str | None
    cookie: str
    hosts: frozenset[str] = field(default=LOOPBACK)


class Guard:
    """Wraps an ASGI app; everything but the lifespan messages has to pass `Rules`."""

    def __init__(self, app: App, rules: Rules) -> None:
        self.app = app
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = _headers(scope)
        try:
            check_host(headers, self.rules.hosts)
            check_origin(headers)
            check_fetch_site(scope, headers)
            location = self._check_token(scope, headers)
        except Rejection as rejection:
            await _reject(scope, headers, rejection, send)
            return
        if location is not None:
            await _redirect(location, self._cookie(), send)
            return
        await self.app(scope, receive, _with_security_headers(send))

    def _check_token(self, scope: Scope, headers: dict[str, list[str]]) -> str | None:
        """The address to go on to when the token came in the URL, else None. Raises `Rejection`."""
        if self.rules.token is None:
            return None
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        in_url = [value for name, value in query if name == "token"]
        if in_url and scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            if not self._is_token(in_url[0]):
                raise Rejection("bad_token", f"this token is not of this launch: {_NO_TOKEN}")
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            path = "/" + scope["path"].lstrip("/")  # never "//host", which a browser takes for another site
            return f"{_quoted(path)}?{rest}" if rest else _quoted(path)
        candidates = [*_cookie_values(headers, self.rules.cookie), *_bearer(headers)]
        if not any(self._is_token(value) for value in candidates):
            raise Rejection("no_token", _NO_TOKEN)
        return None

    def _is_token(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(), (self.rules.token or "").encode())

    def _cookie(self) -> str:
        return f"{self.rules.cookie}={self.rules.token}; Path=/; HttpOnly; SameSite=Strict"


def check_host(headers: dict[str, list[str]], allowed: frozenset[str]) -> None:
    """Raises `Rejection` unless there is exactly one Host and it is allowed (any port)."""
    hosts = headers.get("host", [])
    name = _host_name(hosts[0]) if len(hosts) == 1 else None
    if name is None or name not in allowed:
        raise Rejection("bad_host", f"this dashboard answers to {', '.join(sorted(allowed))} only")


def check_origin(headers: dict[str, list[str]]) -> None:
    """Raises `Rejection` when an Origin is given that is not the page's own."""
    host = headers["host"][0].lower()
    for origin in headers.get("origin", []):
        if origin.lower() not in (f"http://{host}", f"https://{host}"):
            raise Rejection("bad_origin", "requests from another origin are not answered")


def check_fetch_site(scope: Scope, headers: dict[str, list[str]]) -> None:
    """Raises `Rejection` for what another site made a browser send, except for opening the page in a tab."""
    sites = set(headers.get("sec-fetch-site", []))
    if sites - {"same-origin", "none"} and not _is_navigation(scope, headers):
        raise Rejection("cross_site", "requests from another site are not answered")


def _is_navigation(scope: Scope, headers: dict[str, list[str]]) -> bool:
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and headers.get("sec-fetch-mode") == ["navigate"]
        and headers.get("sec-fetch-dest") == ["document"]
    )


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _host_name(host: str) -> str | None:
    """The name in a Host header without its port; None when it is no host at all."""
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018 - raises when the port is no number
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and not parts.username else None


def _cookie_values(headers: dict[str, list[str]], name: str) -> list[str]:
    values = []
    for header in headers.get("cookie", []):
        try:
            morsel = SimpleCookie(header).get(name)
        except CookieError:
            continue
        if morsel is not None:
            values.append(morsel.value)
    return values


def _bearer(headers: dict[str, list[str]]) -> list[str]:
    values = headers.get("authorization", [])
    return [value[7:].strip() for value in values if value[:7].lower() == "bearer "]


def _quoted(path: str) -> str:
    return urlencode([("", path)], safe="/")[1:]


async def _reject(scope: Scope, headers: dict[str, list[str]], rejection: Rejection, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": rejection.code})
        return
    foreign = bool(set(headers.get("sec-fetch-site", [])) - {"same-origin", "none"})
    if rejection.code == "no_token" and foreign and _is_navigation(scope, headers):
        await _answer(200, b"text/html; charset=utf-8", _BOUNCE.encode(), send)
        return
    if "text/html" in ",".join(headers.get("accept", [])):
        text = f"<!doctype html><meta charset=utf-8><title>Lumina</title><h1>Lumina</h1><p>{rejection.message}."
        await _answer(403, b"text/html; charset=utf-8", text.encode(), send)
        return
    body = json.dumps({"error": {"code": rejection.code, "message": rejection.message}})
    await _answer(403, b"application/json", body.encode(), send)


async def _redirect(location: str, cookie: str, send: Send) -> None:
    extra = [(b"location", location.encode("ascii")), (b"set-cookie", cookie.encode("latin-1"))]
    await _answer(303, b"text/plain; charset=utf-8", b"", send, extra)


async def _answer(
    status: int, content_type: bytes, body: bytes, send: Send, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *(extra or []),
    ]
    guarded = _with_security_headers(send)
    await guarded({"type": "http.response.start", "status": status, "headers": headers})
    await guarded({"type": "http.response.body", "body": body})


def _with_security_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in SECURITY_HEADERS]
            message = {**message, "headers": [*kept, *SECURITY_HEADERS.items()]}
        await send(message)

    return sending
