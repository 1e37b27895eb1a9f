"""That the tests' own guard does what it is for."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

OUTSIDE = "192.0.2.1"  # set aside for documentation: nobody is there


@pytest.mark.parametrize("host", [OUTSIDE, "example.org", "2001:db8::1"])
def test_whoever_reaches_out_is_stopped_and_noted(host: str, tried: Path) -> None:
    with pytest.raises(PermissionError, match=host):
        socket.create_connection((host, 80), timeout=1)
    assert host in tried.read_text()
    tried.write_text("")


def test_so_is_a_program_that_a_test_starts_even_if_it_hides_it(tried: Path) -> None:
    code = f"import socket\ntry: socket.create_connection(({OUTSIDE!r}, 80), timeout=1)\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert OUTSIDE in tried.read_text()
    tried.write_text("")


def test_this_machine_may_be_talked_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2]) as client:
        assert client.getpeername() == server.getsockname()
