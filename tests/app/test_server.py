"""The studio over HTTP, as a process of its own."""

from __future__ import annotations

import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from app import __main__ as program
from app.server import Guard
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


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_files_are_only_read(clip: tuple[str, bytes], method: str) -> None:
    assert httpx.request(method, f"{clip[0]}/clip.mp4", content=b"x").status_code == 405
    assert httpx.get(f"{clip[0]}/clip.mp4").content == clip[1]


def test_a_picture_of_the_form_is_shown(address: str, data: Path) -> None:
    store = JobStore(data)
    path = store.keep_upload("first_frame", picture())
    shown = httpx.get(f"{address}/files/{path}")
    assert (shown.status_code, shown.content) == (200, (data / path).read_bytes())
    assert shown.headers["content-type"] == "image/png"
    (data / "drafts" / "secret.txt").write_text("nobody's business")
    for name in ("secret.txt", "first_frame", "%2e%2e%2fstudio.db", "last_frame.png", "first_frame.png.part"):
        assert httpx.get(f"{address}/files/drafts/{name}").status_code in (400, 404)
    store.drop_upload("first_frame")
    assert httpx.get(f"{address}/files/{path}").status_code == 404


@pytest.mark.parametrize("path", ["/", "/health", "/files/nothing", "/_stcore/health"])
def test_every_answer_is_guarded(address: str, path: str) -> None:
    headers = httpx.get(address + path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["content-security-policy"] == "frame-ancestors 'self'"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("site", "dest", "status"),
    [
        ("cross-site", "video", 403),
        ("cross-site", "iframe", 403),
        ("cross-site", "document", 200),
        ("same-origin", "video", 200),
        ("none", "video", 200),
    ],
)
def test_another_site_gets_no_clip(clip: tuple[str, bytes], site: str, dest: str, status: int) -> None:
    answer = httpx.get(f"{clip[0]}/clip.mp4", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Dest": dest})
    assert answer.status_code == status
    posted = httpx.post(clip[0], headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"})
    assert posted.status_code == 403


def port_of(address: str) -> str:
    return address.rsplit(":", 1)[1]


def stream_status(address: str, headers: dict[str, str]) -> int:
    """How Streamlit's websocket answers to a handshake with these headers."""
    host, port = address.split("/")[2].split(":")
    handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    handshake |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": "streamlit"}
    lines = [f"{name}: {value}" for name, value in (handshake | headers).items()]
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall("\r\n".join(["GET /_stcore/stream HTTP/1.1", *lines, "", ""]).encode())
        return int(connection.recv(65536).split(b" ")[1])


ELSEWHERE = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evillocalhost",
    "8.8.8.8",
    "[2001:db8::1]",
    "[::1].evil.example",
    "localhost@evil.example",
    "localhost evil.example",
    "",
]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_that_was_led_here_opens_nothing(address: str, clip: tuple[str, bytes], name: str) -> None:
    """DNS rebinding: to the browser another site's name is then this studio, so nothing else tells it apart."""
    host = f"{name}:{port_of(address)}" if name else ""
    headers = {"Host": host, "Sec-Fetch-Site": "same-origin", "Origin": f"http://{host}"}
    for path in ("/", "/v1/videos", "/_stcore/health", "/health", clip[0].removeprefix(address) + "/clip.mp4"):
        answer = httpx.get(address + path, headers=headers)
        assert (answer.status_code, answer.headers["x-content-type-options"]) == (403, "nosniff")
        assert "STUDIO_TOKEN" in answer.text, "it says what to do"
    assert httpx.post(f"{address}/v1/videos", data={"prompt": "x"}, headers=headers).status_code == 403
    assert stream_status(address, {"Host": host, "Origin": f"http://{host}"}) == 403
    assert stream_status(address, {"Host": host}) == 403


@pytest.mark.parametrize("name", ["127.0.0.1", "127.8.8.8", "localhost", "LocalHost", "mova.localhost", "[::1]"])
@pytest.mark.parametrize("with_port", [True, False])
def test_this_machines_own_names_open_everything(address: str, name: str, with_port: bool) -> None:
    host = f"{name}:{port_of(address)}" if with_port else name
    assert httpx.get(f"{address}/v1/videos", headers={"Host": host}).status_code == 200
    assert stream_status(address, {"Host": host}) == 101, "a program's, which has no origin"
    assert stream_status(address, {"Host": host, "Origin": f"http://{host.lower()}"}) == 101


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "http://localhost", "null", ""])
def test_another_sites_page_gets_no_websocket(address: str, origin: str) -> None:
    assert stream_status(address, {"Host": address.split("/")[2], "Origin": origin}) == 403
    with pytest.raises(InvalidStatus):
        connect(address.replace("http", "ws") + "/_stcore/stream", additional_headers={"Origin": origin})


@pytest.mark.parametrize("chosen", ["Studio.internal", "127.0.0.1"])
def test_the_name_that_was_set_is_its_own(chosen: str) -> None:
    scope = {"type": "http", "method": "GET", "headers": [(b"host", b"studio.INTERNAL:8501")]}
    assert (Guard(_nobody, only=chosen)._refusal(scope) is None) is (chosen == "Studio.internal")
    assert Guard(_nobody)._refusal(scope) is None, "with a token any name is fine"


def test_a_websocket_that_is_refused_is_closed_before_it_opens() -> None:
    said: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        said.append(message)

    scope = {"type": "websocket", "path": "/_stcore/stream", "headers": [(b"host", b"evil.example")]}
    with pytest.raises(StopIteration):
        Guard(_nobody, only="127.0.0.1")(scope, receive, send).send(None)
    assert said == [{"type": "websocket.close", "code": 1008}]


async def _nobody(_: Scope, __: Receive, ___: Send) -> None:
    raise AssertionError("nobody is to get here")


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


class Visitor:
    """A browser as Streamlit sees it: a session by websocket, and the cookie that an upload needs."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.token = httpx.get(f"{address}/_stcore/health").cookies["_streamlit_xsrf"]
        self.cookie = f"_streamlit_xsrf={self.token}"

    @contextmanager
    def session(self) -> Iterator[str]:
        """The id of a session for as long as it is open."""
        stream = connect(
            self.address.replace("http", "ws") + "/_stcore/stream",
            subprotocols=[Subprotocol("streamlit")],
            additional_headers={"Cookie": self.cookie},
            max_size=None,
        )
        with stream as channel:
            message = BackMsg()
            message.rerun_script.query_string = ""
            channel.send(message.SerializeToString())
            while True:
                answer = ForwardMsg.FromString(cast("bytes", channel.recv(timeout=60)))
                if answer.HasField("new_session"):
                    yield answer.new_session.initialize.session_id
                    return

    def begin_upload(self, session: str, length: int | None) -> socket.socket:
        """An upload of which nothing has been sent yet; without a length it comes in chunks."""
        host, port = self.address.split("/")[2].split(":")
        connection = socket.create_connection((host, int(port)))
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        head = (
            f"PUT /_stcore/upload_file/{session}/a-file HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {self.cookie}\r\n"
            f"X-Xsrftoken: {self.token}\r\nContent-Type: multipart/form-data; boundary=x\r\n{size}\r\n\r\n"
        )
        connection.sendall(head.encode())
        return connection


PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def resident(pid: int) -> int:
    """Bytes of memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="the server's memory is read from /proc")
@pytest.mark.parametrize("told", [True, False])
def test_an_upload_of_two_gigabytes_is_refused_and_takes_no_memory(address: str, data: Path, told: bool) -> None:
    server = parent(wait_for(JobStore(data).worker).pid)
    visitor = Visitor(address)
    with visitor.session() as session, visitor.begin_upload(session, (2 << 30) if told else None) as upload:
        before = resident(server)
        sent, most = 0, before
        piece = PART + bytes((1 << 20) - len(PART))
        with suppress(ConnectionError):
            while sent < 2 << 30:
                upload.sendall(piece if told else b"%x\r\n%s\r\n" % (len(piece), piece))
                piece = bytes(1 << 20)
                sent += len(piece)
                most = max(most, resident(server))
                if select.select([upload], [], [], 0)[0]:
                    break
            assert b"413" in upload.recv(65536).split(b"\r\n")[0]
    assert sent < 200 << 20, "it is refused long before its end"
    assert most - before < 200 << 20
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_studio_killed_during_an_upload_leaves_nothing_half(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app", "--port", "0", "--data", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found
            wait_for(lambda: is_running(tmp_path))
            visitor = Visitor(found[0])
            with visitor.session() as session, visitor.begin_upload(session, 1 << 20) as upload:
                upload.sendall(PART + bytes(1 << 18))
                process.kill()
                process.wait()
        finally:
            process.kill()
    wait_for(lambda: not is_running(tmp_path))
    store = JobStore(tmp_path)
    assert store.history() == []
    assert list((tmp_path / "jobs").iterdir()) == []
    assert not list(tmp_path.rglob("*.part"))


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
