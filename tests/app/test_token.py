"""A studio with a token lets nothing through without it: each door, one by one."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from starlette.types import Message, Receive, Scope, Send
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from app import __main__ as program
from app.entrance import Entrance, check_token
from app.settings import SettingsError, load
from app.store import JobStore
from tests.app.conftest import make_brief, picture
from tests.app.fakes import write_clip
from tests.pages.chromium import CHROMIUM, FLAGS, window
from tests.studio import studio

TOKEN = "planted-token-0123456789-ünïcode"
BEARER = {"Authorization": f"Bearer {TOKEN}".encode()}
HTML = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guarded") / "data"


@pytest.fixture(scope="module")
def address(data: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("STUDIO_TOKEN", TOKEN)
        with studio(data, "--host", "0.0.0.0") as address:
            yield address


@pytest.fixture(scope="module")
def clip(data: Path) -> str:
    """The path of a clip."""
    store = JobStore(data)
    job = store.submit(make_brief("nobody's business"), first_frame=picture())
    store.cancel(job.id)
    write_clip(data / job.folder / "clip.mp4", 64, 48, 5, 10)
    store.keep_upload("first_frame", picture())
    return f"/files/{job.folder}/clip.mp4"


DOORS = [
    ("GET", "/"),
    ("GET", "/queue"),
    ("GET", "/settings"),
    ("GET", "/clip?job=1"),
    ("GET", "/index.html"),
    ("GET", "/favicon.png"),
    ("GET", "/static/js/index.js"),
    ("GET", "/media/x.mp4"),
    ("GET", "/component/x/index.html"),
    ("GET", "/_stcore/health"),
    ("GET", "/_stcore/host-config"),
    ("GET", "/_stcore/metrics"),
    ("GET", "/_stcore/stream"),
    ("GET", "/_stcore/allowed-message-origins"),
    ("PUT", "/_stcore/upload_file/a/b"),
    ("OPTIONS", "/_stcore/upload_file/a/b"),
    ("DELETE", "/_stcore/upload_file/a/b"),
    ("POST", "/_stcore/agent/interact"),
    ("GET", "/_stcore/agent/openapi.json"),
    ("GET", "/files/drafts/first_frame.png"),
    ("HEAD", "/files/drafts/first_frame.png"),
    ("POST", "/v1/videos"),
    ("GET", "/v1/videos"),
    ("GET", "/v1/videos/x"),
    ("DELETE", "/v1/videos/x"),
    ("POST", "/v1/videos/x/cancel"),
    ("POST", "/v1/videos/x/remix"),
    ("GET", "/v1/videos/x/content"),
    ("GET", "/v1/models"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/login"),
    ("GET", "/oauth2callback"),
    ("GET", "/nothing"),
]


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_no_door_opens_without_the_token(address: str, method: str, path: str) -> None:
    for headers in ({}, HTML):
        answer = httpx.request(method, address + path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "_streamlit" not in answer.headers.get("set-cookie", "")
    if method not in ("HEAD", "GET"):
        assert answer.json()["error"]["code"] == "invalid_api_key" if "/v1/" in path else "token" in answer.text.lower()


def test_no_clip_gets_out_without_the_token(address: str, clip: str) -> None:
    answer = httpx.get(address + clip)
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
    assert httpx.get(address + clip, headers=BEARER).content[4:8] == b"ftyp"


@pytest.mark.parametrize(
    "target",
    [
        "/health/../v1/models",
        "/health/..%2fv1/models",
        "//health",
        "/health/",
        "/health%00",
        "/HEALTH",
        "/health;/../v1/models",
        "/./health",
        "http://x/v1/models",
        "/v1/models#/health",
        "/v1/models?/health",
        "*",
    ],
)
def test_no_spelling_of_the_open_door_opens_another(address: str, target: str) -> None:
    """Sent as it stands; httpx would tidy the path."""
    with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1]))) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split(b" ")[1] in (b"400", b"401", b"404")
    assert b"MOVA-playground" not in answer


def test_health_is_open_and_says_no_more(address: str) -> None:
    answer = httpx.get(f"{address}/health")
    assert (answer.status_code, set(answer.json())) == (200, {"status", "worker"})


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}".encode()},
        {"Authorization": f"Bearer {TOKEN}x".encode()},
        {"Authorization": f"Basic {TOKEN}".encode()},
        {"Authorization": TOKEN.encode()},
        {"X-Api-Key": TOKEN.encode()},
        {"Cookie": f"mova_studio={TOKEN}".encode()},
        {"Cookie": f"token={TOKEN}".encode()},
    ],
)
def test_nothing_but_the_token_is_the_token(address: str, headers: dict[str, str | bytes]) -> None:
    assert httpx.get(f"{address}/v1/models", headers=headers).status_code == 401
    assert httpx.get(f"{address}/v1/models", params={"token": TOKEN}).status_code == 401


def test_programs_show_it_and_are_let_in(address: str) -> None:
    assert httpx.get(f"{address}/v1/models", headers=BEARER).status_code == 200
    assert httpx.get(f"{address}/v1/models", headers={"Authorization": f"bearer  {TOKEN}".encode()}).status_code == 200
    assert "<html" in httpx.get(address, headers=BEARER).text


def stream(address: str, headers: dict[str, str]) -> None:
    url = address.replace("http", "ws") + "/_stcore/stream"
    with connect(url, subprotocols=[Subprotocol("streamlit")], additional_headers=headers):
        pass


def logged_in(address: str, **fields: str) -> httpx.Response:
    return httpx.post(f"{address}/login", data={"token": TOKEN, **fields}, headers=HTML)


def test_the_websocket_opens_with_the_cookie_only(address: str) -> None:
    for headers in ({}, {"Cookie": "mova_studio=1"}, {"Authorization": "Bearer x"}):
        with pytest.raises(InvalidStatus) as caught:
            stream(address, headers)
        assert caught.value.response.status_code == 403
    cookies = "; ".join(f"{name}={value}" for name, value in logged_in(address).cookies.items())
    stream(address, {"Cookie": cookies})


def test_a_browser_is_asked_and_gets_a_cookie_that_is_not_the_token(address: str, clip: str) -> None:
    page = httpx.get(f"{address}/clip?job=a%22%3E&x=1", headers=HTML)
    assert (page.status_code, page.headers["cache-control"]) == (401, "no-store")
    assert '<form method="post" action="/login">' in page.text
    assert 'value="/clip?job=a%22%3E&amp;x=1"' in page.text, "where it wanted to go"
    wrong = httpx.post(f"{address}/login", data={"token": "no"}, headers=HTML)
    assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
    assert 'role="alert"' in wrong.text
    right = logged_in(address, next="/queue")
    assert (right.status_code, right.headers["location"]) == (303, "/queue")
    set_cookie = right.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(re.split(r"; ", set_cookie))
    ((name, value),) = right.cookies.items()
    assert TOKEN not in set_cookie
    assert len(value) == 64
    cookie = {"Cookie": f"{name}={value}"}
    for path in ("/", clip, "/v1/models", "/_stcore/health", "/docs"):
        assert httpx.get(address + path, headers=cookie).status_code == 200
    changed = value[:-1] + ("0" if value[-1] != "0" else "1")
    assert httpx.get(f"{address}/v1/models", headers={"Cookie": f"{name}={changed}"}).status_code == 401
    assert httpx.get(f"{address}/login", headers=cookie).headers["location"] == "/"


def test_with_the_token_it_may_have_any_name_but_other_sites_stay_out(address: str) -> None:
    named = BEARER | {"Host": b"studio.example"}
    assert httpx.get(f"{address}/v1/models", headers=named).status_code == 200
    assert httpx.get(f"{address}/v1/models", headers={"Host": "studio.example"}).status_code == 401
    cookies = "; ".join(f"{name}={value}" for name, value in logged_in(address).cookies.items())
    stream(address, {"Cookie": cookies, "Origin": address})
    with pytest.raises(InvalidStatus):
        stream(address, {"Cookie": cookies, "Origin": "https://evil.example"})
    elsewhere = named | {"Origin": b"https://evil.example"}
    assert httpx.delete(f"{address}/v1/videos/x", headers=elsewhere).status_code == 403


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:1", "x"]
)
def test_the_entrance_leads_to_this_site_only(address: str, elsewhere: str) -> None:
    assert logged_in(address, next=elsewhere).headers["location"] == "/"


def test_another_sites_page_cannot_knock(address: str) -> None:
    headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert httpx.post(f"{address}/login", data={"token": TOKEN}, headers=headers).status_code == 403


def test_the_entrance_speaks_the_browsers_language(address: str) -> None:
    page = httpx.get(address, headers=HTML | {"Accept-Language": "zh-CN,zh;q=0.9"})
    assert 'lang="zh"' in page.text
    assert "令牌" in page.text
    assert not re.search(r"<script|src=|https?://", page.text), "it loads nothing"


@pytest.mark.parametrize("body", [b"token=" + b"x" * 100_000, b"&".join([b"a=1"] * 100), b"\xff%ff=%zz", b""])
def test_whatever_is_sent_to_the_entrance_it_stays_closed(address: str, body: bytes) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert httpx.post(f"{address}/login", content=body, headers=HTML | kind).status_code == 401


def test_another_token_makes_the_cookie_worthless() -> None:
    async def inside(_: Scope, __: Receive, ___: Send) -> None:
        raise AssertionError("nobody is to get here")

    before, after = Entrance(inside, "one"), Entrance(inside, "two")
    assert before._pass != after._pass
    assert before._name != after._name, "two studios on one machine don't log each other out"


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_it_is_asked_before_anything_is_read(kind: str) -> None:
    """The app behind it never runs, and of a body nothing is taken in."""

    async def inside(_: Scope, __: Receive, ___: Send) -> None:
        raise AssertionError("nobody is to get here")

    said: list[Message] = []
    asked = 0

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        said.append(message)

    scope = {"type": kind, "method": "POST", "path": "/v1/videos", "headers": [], "query_string": b""}
    coroutine = Entrance(inside, "token")(scope, receive, send)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert said[0].get("status", said[0].get("code")) == (401 if kind == "http" else 1008)
    assert asked == (kind == "websocket")


# Starting


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says nothing of a token, whatever the studio above was told."""
    monkeypatch.delenv("STUDIO_TOKEN", raising=False)


@pytest.mark.usefixtures("untold")
def test_others_can_reach_it_only_with_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for host in ("0.0.0.0", "::"):
        assert program.main(["--host", host, "--port", "0", "--data", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert "STUDIO_TOKEN" in said
        assert host in said
        assert said.count("\n") == 1


@pytest.mark.usefixtures("untold")
@pytest.mark.parametrize(
    ("address", "token", "fine"),
    [
        ("127.0.0.1", None, True),
        ("127.8.8.8", None, True),
        ("::1", None, True),
        ("192.168.1.5", None, False),
        ("fe80::1%eth0", None, False),
        ("0.0.0.0", "  ", False),
        ("0.0.0.0", "secret", True),
    ],
)
def test_a_token_is_demanded_where_it_is_needed(tmp_path: Path, address: str, token: str | None, fine: bool) -> None:
    chosen = load(data=tmp_path, **({"token": token} if token else {}))
    if fine:
        check_token(chosen, address)
    else:
        with pytest.raises(SettingsError, match="STUDIO_TOKEN"):
            check_token(chosen, address)


@pytest.mark.usefixtures("untold")
def test_without_a_token_nobody_is_asked(tmp_path: Path) -> None:
    with studio(tmp_path) as address:
        assert httpx.get(f"{address}/v1/models").status_code == 200
        assert "<html" in httpx.get(address, headers=HTML).text


# A real browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install one to drive the pages")
def test_a_creator_enters_and_everything_works(browser: Browser, address: str, tmp_path: Path, clip: str) -> None:
    context = window(browser)
    page = context.new_page()
    page.goto(f"{address}/queue")
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Enter").click()
    expect(page).to_have_url(f"{address}/queue")
    expect(page.get_by_role("heading", name="Queue", level=1)).to_be_visible()  # over the websocket
    page.goto(address)
    page.get_by_role("radio", name="Simple").click()
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(picture(640, 640, "orange", "JPEG"))
    page.locator("input[type=file]").first.set_input_files(photo)
    expect(page.get_by_text("Cropped to 256 × 144")).to_be_visible()  # an upload went through
    assert page.evaluate("document.cookie").find("mova_studio") == -1, "scripts don't see it"
    shown = page.goto(address + clip.replace("clip.mp4", "first_frame.png"))
    assert shown
    assert shown.status == 200
    context.close()
