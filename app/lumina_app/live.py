"""The dashboard's JSON routes: what every open tab polls once a second.

They hand on what `lumina.views` says and must not know how a run stores it, nor how a panel draws it.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Final

import orjson
from fastapi import APIRouter, Response

from lumina import views
from lumina.client import list_runs
from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths, check_run_name

_STATUS_OF: Final = {"not_found": 404, "bad_argument": 400}


def run_paths(directory: Path, name: str) -> RunPaths:
    """The run of that name under `directory`; names only, never paths. Raises `Refusal` (bad_argument, not_found)."""
    paths = RunPaths((directory / check_run_name(name)).resolve())
    if not paths.exists():
        raise Refusal("not_found", f"there is no run {name!r} in {directory.name}/")
    return paths


def dir_flag(directory: Path) -> str:
    """What a command line typed here needs to find these runs: nothing, or ` --dir PATH`."""
    return "" if directory == Path("experiments").resolve() else f" --dir {shlex.quote(str(directory))}"


def live_routes(directory: Path) -> APIRouter:
    """`/lumina/live`, `/lumina/runs` and `/lumina/catalogue`, reading the runs under `directory`."""
    routes = APIRouter(prefix="/lumina")

    # Plain functions: FastAPI runs them in a thread, so that a slow disk holds up no other tab.
    @routes.get("/live")
    def live(run: str = "", cursor: str | None = None) -> Response:
        try:
            return json_response(views.live(run_paths(directory, run), cursor or None))
        except Refusal as refusal:
            return refusal_response(refusal)

    @routes.get("/runs")
    def runs() -> Response:
        return json_response({"runs": list_runs(directory), "dir_flag": dir_flag(directory)})

    @routes.get("/catalogue")
    def catalogue() -> Response:
        return json_response({"catalogue": views.catalogue()})

    return routes


def json_response(document: dict[str, Any], status: int = 200) -> Response:
    """`document` as JSON that no cache keeps; non-finite numbers become null."""
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return Response(body, status, {"cache-control": "no-store"}, "application/json")


def refusal_response(refusal: Refusal) -> Response:
    """`{"error": {code, message}}` with the HTTP status that goes with the code."""
    error = {"code": refusal.code, "message": refusal.message}
    return json_response({"error": error}, _STATUS_OF.get(refusal.code, 409))
