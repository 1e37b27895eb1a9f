"""``python -m app``: the studio on this machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from app.entrance import check_token
from app.origins import Origin, came_from, handed_on
from app.settings import ROOT, Settings, SettingsError, load
from app.store import JobStore, StoreError


def main(arguments: list[str] | None = None) -> int:
    """Serve until Ctrl+C; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m app", description="MOVA Studio: picture and sound from one model.")
    parser.add_argument("--host", help="the address to listen on (default: 127.0.0.1, this machine only)")
    parser.add_argument("--port", type=int, help="default: 8501; 0 takes any free one")
    parser.add_argument("--data", type=Path, help="where jobs, clips and checkpoints are kept (default: data)")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    try:
        settings = load(**given)
        JobStore(settings.data)
        listener = _listen(settings)
    except (SettingsError, StoreError, _AddressError) as error:
        print(error, file=sys.stderr)
        return 2
    _serve(settings, listener, came_from(os.environ, given))
    return 0


class _AddressError(Exception):
    """The address can't be listened on; the message says which and what to do."""


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        check_token(settings, str(address[0]))
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise _AddressError(
            f"The studio can't listen on {host}:{port} ({error.strerror or error}). "
            "Perhaps it runs already; otherwise choose another --port or --host."
        ) from error


def _serve(settings: Settings, listener: socket.socket, origins: Mapping[str, Origin]) -> None:
    # Pages run in this process and the worker in a child; both read the environment, so what is in force goes there:
    # the command line's settings, and paths that were relative to where we were started.
    host, port = listener.getsockname()[:2]
    os.environ.update(handed_on(settings.model_copy(update={"port": port}), origins))
    os.chdir(ROOT)  # where Streamlit looks for .streamlit/
    from app.server import build  # noqa: PLC0415  Streamlit reads its configuration from there

    config = uvicorn.Config(
        build(settings), log_level="warning", access_log=False, ws="websockets-sansio", timeout_graceful_shutdown=3
    )
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    print(f"MOVA Studio: http://{shown}:{port}  (data in {settings.data}; Ctrl+C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
