"""The studio over HTTP, as a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app import __main__ as program
from app.settings import ROOT
from app.store import JobStore
from app.worker import is_running
from tests.app.conftest import make_brief, picture, wait_for
from tests.app.fakes import write_clip
from tests.studio import studio


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio") / "data"


@pytest.fixture(scope="module")
def address(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with studio(data, cwd=tmp_path_factory.mktemp("elsewhere")) as address:
        yield address


@pytest.fixture(scope="module")
def clip(address: str, data: Path) -> tuple[str, bytes]:
    """The folder's address of a job with files, and what its clip holds."""
    store = JobStore(data)
    job = store.submit(make_brief(), first_frame=picture())
    store.cancel(job.id)
    file = data / job.folder / "clip.mp4"
    write_clip(file, 64, 48, 5, 10)
    (file.parent / "notes.txt").write_text("nobody's business")
    return f"{address}/files/{job.folder}", file.read_bytes()


def test_health_says_ready_when_pages_and_worker_are(address: str, data: Path) -> None:
    answer = httpx.get(f"{address}/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "worker": "ready"})
    assert is_running(data)


def test_pages_are_served(address: str) -> None:
    assert "<html" in httpx.get(address).text
    assert httpx.get(f"{address}/_stcore/health").text == "ok"


def test_a_clip_comes_whole_or_in_parts(clip: tuple[str, bytes]) -> None:
    folder, content = clip
    whole = httpx.get(f"{folder}/clip.mp4")
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"
    part = httpx.get(f"{folder}/clip.mp4", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(content)}"
    assert httpx.get(f"{folder}/clip.mp4", headers={"Range": "bytes=99999999-"}).status_code == 416
    assert httpx.head(f"{folder}/clip.mp4").headers["content-length"] == str(len(content))


def test_a_clip_is_shown_or_downloaded(clip: tuple[str, bytes]) -> None:
    shown, downloaded = (httpx.get(f"{clip[0]}/clip.mp4{query}") for query in ("", "?v=1&download"))
    assert shown.headers["content-disposition"].startswith("inline")
    assert downloaded.headers["content-disposition"].startswith("attachment; filename=")
    assert shown.headers["x-content-type-options"] == "nosniff"


def test_a_first_frame_is_a_png(clip: tuple[str, bytes]) -> None:
    assert httpx.get(f"{clip[0]}/first_frame.png").headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    "path",
    [
        "notes.txt",
        "poster.webp",
        "clip.mp4.part",
        "../../studio.db",
        "..%2f..%2fstudio.db",
        "%2e%2e/%2e%2e/studio.db",
        "..\\..\\studio.db",
        "clip.mp4%00.txt",
        "../%2e%2e/clip.mp4",
    ],
)
def test_nothing_else_gets_out(clip: tuple[str, bytes], path: str) -> None:
    """Sent as it stands; httpx would tidy the path."""
    target = clip[0].split("/", 3)[3] + "/" + path
    host, port = clip[0].split("/")[2].split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET /{target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split(b" ")[1] in (b"400", b"404")
    assert b"nobody's business" not in answer
    assert b"SQLite format" not in answer


@pytest.mark.parametrize("job_id", ["..", "%2e%2e", "0" * 32, "jobs", "é"])
def test_a_job_that_is_not_there_is_404(address: str, job_id: str) -> None:
    assert httpx.get(f"{address}/files/jobs/{job_id}/clip.mp4").status_code in (400, 404)


def test_the_worker_ends_with_the_studio(tmp_path: Path) -> None:
    with studio(tmp_path):
        assert is_running(tmp_path)
    wait_for(lambda: not is_running(tmp_path))


def test_the_worker_ends_when_the_studio_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "--port", "0", "--data", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: is_running(tmp_path))
        process.kill()
    wait_for(lambda: not is_running(tmp_path))


def test_a_taken_port_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert program.main(["--port", str(port), "--data", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"can't listen on 127.0.0.1:{port}" in said
    assert said.count("\n") == 1


def test_a_host_that_is_none_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--host", "no such host", "--data", str(tmp_path)]) == 2
    assert "can't listen on no such host" in capsys.readouterr().err


def test_a_bad_port_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--port", "70000", "--data", str(tmp_path)]) == 2
    assert "port = 70000" in capsys.readouterr().err
