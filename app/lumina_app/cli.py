"""`lumina-ui`: serves the dashboard on this machine and prints its URL.

It knows flags, ports and the launch token; it must not know what the page shows.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import secrets
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lumina.store.errors import Refusal

PORTS_TRIED: Final = 50
DEMO_STEPS: Final = 3000  # long enough to look around
DEMO_STATES: Final = frozenset({"starting", "running", "paused", "stopping"})


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted. Returns the exit code: 0, or 2 for flags that cannot be."""
    args = _parser().parse_args(argv)
    problem = _problem_with(args)
    if problem is not None:
        print(f"lumina-ui: {problem}", file=sys.stderr)
        return 2
    try:
        listener = listen(args.host, args.port)
    except OSError as error:
        print(f"lumina-ui: cannot listen on {args.host}:{args.port} ({error.strerror or error})", file=sys.stderr)
        return 2
    port = listener.getsockname()[1]
    if args.port not in (0, port):
        print(f"Port {args.port} is taken; using {port}.", flush=True)
    token = None if args.no_token else secrets.token_urlsafe(24)
    print(f"Lumina: {url_of(args.host, port, token)}", flush=True)
    if token is None:
        print("Without a token every program on this machine can steer your runs.", flush=True)
    if args.demo:
        threading.Thread(target=start_demo, args=(args.dir,), name="demo", daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):  # raised again after the server has ended in good order
        serve(listener, args.dir, token, frozenset(args.allowed_host))
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on `port`, or on the next free one above it. Raises `OSError` when none of them is."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(128)
        except OSError:
            listener.close()
            if candidate + 1 == min(port + PORTS_TRIED, 65536):
                raise
        else:
            return listener
    raise OSError(f"port {port} is out of range")


def url_of(host: str, port: int, token: str | None) -> str:
    """The address to open; a wildcard host is shown as this machine's loopback."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def serve(listener: socket.socket, directory: Path, token: str | None, allowed_hosts: frozenset[str]) -> None:
    """Runs the server on `listener` until it is interrupted."""
    # Before Gradio is imported: no analytics, no look for a newer version, nothing that leaves the machine.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import uvicorn

    from lumina_app.server import Settings, create_app

    settings = Settings(directory.resolve(), token, listener.getsockname()[1], allowed_hosts)
    # No access log: it would write the token down.
    config = uvicorn.Config(
        create_app(settings), log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
    )
    uvicorn.Server(config).run(sockets=[listener])


def start_demo(directory: Path) -> None:
    """Starts a run on the built-in corpus unless one is already alive; a refusal is told, not raised."""
    from lumina import client

    try:
        if any(run["state"] in DEMO_STATES for run in client.list_runs(directory)):
            return
        run = client.start("debug", steps=DEMO_STEPS, directory=directory)
    except Refusal as refusal:
        print(f"lumina-ui: the demo run was not started: {refusal}", file=sys.stderr, flush=True)
        return
    print(f"Demo run started: {run.name}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lumina-ui", description="Watch and steer training runs in the browser. Nothing leaves this machine."
    )
    parser.add_argument("--dir", type=Path, default=Path("experiments"), help="folder of the runs (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port, or the next free one; 0: any (%(default)s)")
    parser.add_argument("--demo", action="store_true", help="start a demo run on the built-in corpus if none is alive")
    parser.add_argument("--no-token", action="store_true", help="ask for no token (other rules of the guard stay)")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also answer under this host name; needed to listen beyond this machine; may be given several times",
    )
    return parser


def _problem_with(args: argparse.Namespace) -> str | None:
    if not 0 <= args.port <= 65535:
        return f"--port {args.port} is not a port; use 0 to 65535"
    if is_loopback(args.host):
        return None
    if not args.allowed_host:
        return (
            f"--host {args.host} would open the dashboard to the network; if you mean it, name each host name that "
            "people will type with --allowed-host NAME (an SSH tunnel to 127.0.0.1 is safer)"
        )
    return "--no-token is for this machine only; leave it out with --host" if args.no_token else None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
