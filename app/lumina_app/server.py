"""The dashboard as one ASGI app: guard, JSON routes, static files, and the Gradio page.

It knows how the parts are put together; it must not know what a panel shows or what a command does.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from lumina_app.data import Checks, data_routes
from lumina_app.guard import LOOPBACK, Guard, Rules
from lumina_app.live import live_routes

STATIC: Final = Path(__file__).parent / "static"
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_STARTING: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    '<meta http-equiv="refresh" content="1"><title>Lumina</title>'
    '<link rel="icon" href="data:,">'
    "<style>html{color-scheme:light dark;background:Canvas;font:15px system-ui;color:GrayText}"
    "body{display:grid;place-items:center;min-height:90vh;margin:0}</style>"
    '<p role="status">Lumina is starting ...</p></html>'
)


@dataclass(frozen=True)
class Settings:
    """One launch of the dashboard. `token` None means that none is asked for."""

    directory: Path
    token: str | None
    port: int
    allowed_hosts: frozenset[str] = frozenset()

    @property
    def rules(self) -> Rules:
        # Cookies do not know ports: without the port in its name, two dashboards would log each other out.
        return Rules(self.token, f"lumina_{self.port}", LOOPBACK | self.allowed_hosts)


def create_app(settings: Settings) -> Guard:
    """The whole dashboard. It answers at once; the Gradio page follows when its import, of seconds, is done."""
    page = LatePage(lambda: _gradio_page(settings))
    routes, checks = data_routes(settings.directory, confined=settings.token is None)
    api = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lambda _: _life(page, checks))
    api.include_router(live_routes(settings.directory))
    api.include_router(routes)
    api.add_api_route("/lumina/ready", page.ready, methods=["GET"])
    api.add_api_route("/lumina/plotly.min.js", plotly_js, methods=["GET"])
    api.mount("/lumina/static", Revalidated(directory=STATIC))
    api.mount("/lumina", not_found)
    api.add_api_route("/data", with_slash, methods=["GET"])
    api.mount("/", page)
    api.add_exception_handler(Exception, _unexpected)
    return Guard(api, settings.rules)


@contextlib.asynccontextmanager
async def _life(page: LatePage, checks: Checks) -> AsyncIterator[None]:
    async with page.loading():
        yield
    checks.close()


class LatePage:
    """An ASGI app that is built in a thread while it already answers, with a page that says so.

    `build` returns the ASGI app to hand over to. If it fails, the failure is raised to whoever asks for the page.
    """

    def __init__(self, build: Callable[[], FastAPI]) -> None:
        self._build = build
        self._app: FastAPI | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @contextlib.asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """Builds the app while the server runs, and closes it when the server stops."""
        self._task = asyncio.create_task(self._serve_until_closed())
        yield
        self._closing.set()
        # A failure was already told to whoever asked for the page.
        await asyncio.gather(self._task, return_exceptions=True)

    async def _serve_until_closed(self) -> None:
        app = await asyncio.to_thread(self._build)
        async with app.router.lifespan_context(app):
            self._app = app
            await self._closing.wait()

    def ready(self) -> Response:
        """Whether the page is there: 200 or 503."""
        return JSONResponse({"ready": self._app is not None}, 200 if self._app else 503)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is not None:
            await self._app(scope, receive, send)
            return
        if self._task is not None and self._task.done():
            self._task.result()
        if scope["type"] == "http":
            at_root = scope["path"] in ("/", "/data/")
            answer = Response(_STARTING, 200 if at_root else 503, {"retry-after": "1"}, "text/html")
            await answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1013})


class Revalidated(StaticFiles):
    """Static files that a browser asks about each time: an upgrade shows at the next load."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["cache-control"] = "no-cache"
        return response


def plotly_js() -> FileResponse:
    """plotly.js out of the installed plotly package; 4 MB that a browser needs to fetch once."""
    source = importlib.resources.files("plotly") / "package_data" / "plotly.min.js"
    return FileResponse(str(source), media_type="text/javascript", headers={"cache-control": _FOR_EVER})


def with_slash(request: Request) -> RedirectResponse:
    """A mounted page answers below its path only; a person leaves the slash out."""
    return RedirectResponse(f"{request.url.path}/" + (f"?{request.url.query}" if request.url.query else ""))


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to every other path under /lumina: JSON, never Gradio's page."""
    error = {"code": "not_found", "message": "there is nothing here"}
    await JSONResponse({"error": error}, 404)(scope, receive, send)


def _unexpected(_: Request, error: Exception) -> JSONResponse:
    message = f"{type(error).__name__} in the dashboard; the terminal of lumina-ui has the details"
    return JSONResponse({"error": {"code": "internal", "message": message}}, 500)


def _gradio_page(settings: Settings) -> FastAPI:
    from lumina_app.pages import data, main  # imports gradio: seconds

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    return main.mount(data.mount(app), settings.directory)
