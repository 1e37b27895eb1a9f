"""Clips from SGLang servers: what is sent, waited for and fetched, and how everything ends that goes wrong."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr, ValidationError

from app.engines import receive
from app.explain import explain
from app.jobs import CLOSED, Brief, Cancelled, Draft, Kind, Progress, Remote, Rendered, Status
from app.remote import FETCH_WAITS, SENTENCES, Line, RemoteError, RemoteJob
from app.servers import Servers, State, look, made, number_of, unable
from app.settings import ROOT, Server
from app.sglang import Limits, SGLangEngine
from app.store import JobStore
from app.texts import Language, catalogue, translated
from app.ui import REMOTE_PHASES
from mova.media import MediaError
from mova.received import receive_clip
from mova.spec import ClipSpec
from tests.agents.wire import Answer, Wire
from tests.app.conftest import ended, found, picture, wait_for
from tests.app.fakes import write_clip
from tests.app.stub import NOT_FOUND, OLD_RUN, RUN, VIDEO, Stub, failed, job, stub

SPEC = ClipSpec(width=640, height=352, num_frames=5, fps=24, num_inference_steps=10, guidance_scale=4.5, seed=7)
QUICK = Limits(late=20, silent=0.2, stalled=0.2, warm_up=0.2, health=0.1, poll=(0.01, 0.02), fetch=(0.01,) * 4)
TOKEN = "planted-token-0123"
REMOTE = Remote(server="one", base_url="http://elsewhere", id="the-id", submitted_at=1.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, 640, 352, 5, 24)
    return path.read_bytes()


@pytest.fixture
def one(clip: bytes) -> Iterator[Stub]:
    with stub(clip) as server:
        yield server


@pytest.fixture
def two(clip: bytes) -> Iterator[Stub]:
    with stub(clip) as server:
        yield server


class Run:
    """One job, rendered by these servers; ``told`` are the phases, ``noted`` what was to be kept."""

    def __init__(self, data: Path, limits: Limits = QUICK, **servers: Stub | Server) -> None:
        known = {name: server.server if isinstance(server, Stub) else server for name, server in servers.items()}
        self.engine = SGLangEngine(data, known, receive, limits=limits)
        self.told: list[tuple[str, int, int]] = []
        self.noted: list[Remote | None] = []
        self.target = data / "clip.mp4"
        self.on_step: Callable[[str, int, int], None] = lambda *step: self.told.append(step)

    def __call__(self, draft: Draft | None = None, **asked: Any) -> Rendered:
        brief = Brief(**{"prompt": "A gull.", "engine": "sglang", "checkpoint": "MOVA-360p", "spec": SPEC} | asked)
        given = draft or Draft(prompt=brief.prompt, first_frame=brief.first_frame)
        return self.engine.render(brief, given, self.target, self.on_step, self.noted.append)

    def fails(self, name: str, draft: Draft | None = None, **asked: Any) -> RemoteError:
        with pytest.raises(RemoteError) as caught:
            self(draft, **asked)
        assert caught.value.name == name, str(caught.value)
        assert not self.target.exists()
        assert not list(self.target.parent.glob("*.part"))
        return caught.value

    @property
    def kept(self) -> list[Remote | None]:
        """What was noted, but for the marks that a server is about to be asked."""
        return [remote for remote in self.noted if remote is None or remote.id]

    @property
    def phases(self) -> list[str]:
        return list(dict.fromkeys(phase for phase, _, _ in self.told))


# What is sent, and what comes of it


def test_everything_that_matters_is_sent_and_the_clip_comes_whole(tmp_path: Path, one: Stub, clip: bytes) -> None:
    run = Run(tmp_path, one=one)
    rendered = run()
    sent = one.handed_in[0]
    name, kind, white = sent.pop("input_reference")
    assert (name, kind, white.size) == ("first_frame.png", "image/png", (640, 352))
    assert white.getextrema() == ((255, 255),) * 3, "without a first frame it starts from white"
    assert sent == {
        "prompt": "A gull.",
        "size": "640x352",
        "num_frames": "5",
        "fps": "24",
        "seed": "7",
        "num_inference_steps": "10",
        "guidance_scale": "4.5",
        "negative_prompt": SPEC.negative_prompt,
    }
    assert run.target.read_bytes() == clip
    assert (rendered.width, rendered.height, rendered.num_frames, rendered.fps) == (640, 352, 5, 24)
    assert rendered.sample_rate == 16_000
    assert rendered.notes == ()
    assert run.engine.machine().device == "one · MOVA-360p · SGLang 0.5.23"


def test_the_first_frame_is_cut_here_so_that_the_server_cuts_nothing(tmp_path: Path, one: Stub) -> None:
    wide = Image.new("RGB", (1280, 352), "blue")
    wide.paste("red", (640, 0, 1280, 352))
    wide.save(tmp_path / "frame.png")
    Run(tmp_path, one=one)(first_frame="frame.png", first_frame_position=(1.0, 0.5))
    _, _, sent = one.handed_in[0]["input_reference"]
    assert sent.size == (640, 352)
    assert sent.getextrema() == ((255, 255), (0, 0), (0, 0)), "the right half, as it was asked"


def test_a_job_without_words_is_handed_in_with_a_blank(tmp_path: Path, one: Stub) -> None:
    Run(tmp_path, one=one)(prompt="")
    assert one.handed_in[0]["prompt"] == " "


def test_the_remote_job_is_noted_before_it_is_looked_at(tmp_path: Path, one: Stub) -> None:
    run = Run(tmp_path, one=one)
    looked: list[bool] = []
    run.engine.render(
        Brief(prompt="x", engine="sglang:one", checkpoint="MOVA-360p", spec=SPEC),
        Draft(prompt="x"),
        run.target,
        run.on_step,
        lambda remote: looked.append("GET /v1/videos/the-id" in one.paths and remote is not None),
    )
    assert looked == [False, False], "that it is handed in, and as what"


def test_progress_is_told_where_the_release_reports_it_and_99_is_decoding(tmp_path: Path, one: Stub) -> None:
    run = Run(tmp_path, one=one)
    run()
    assert run.phases == ["waiting", "denoising", "decoding", "fetching", "writing"]
    assert ("denoising", 5, 10) in run.told


def test_an_older_release_is_told_as_at_work(tmp_path: Path, one: Stub) -> None:
    one.version, one.states = "0.5.10.post1", list(OLD_RUN)
    run = Run(tmp_path, one=one)
    run()
    assert run.phases == ["waiting", "remote", "fetching", "writing"]


def test_unknown_statuses_and_odd_fields_break_nothing(tmp_path: Path, one: Stub) -> None:
    one.states = [
        job("dreaming", 7, brand_new={"a": 1}),
        Answer({"id": "the-id", "status": "in_progress", "progress": "half"}),
        RUN[-1],
    ]
    assert Run(tmp_path, one=one)().num_frames == 5


def test_the_sound_is_levelled_and_the_pictures_stay(tmp_path: Path, clip: bytes) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, 64, 48, 30, 24)
    before = _pictures(path)
    report = receive_clip(path, num_frames=30, loudness=-23)
    assert report.delivered.integrated == pytest.approx(-23, abs=0.5)
    assert report.source.integrated != pytest.approx(-23, abs=0.5)
    assert np.array_equal(_pictures(path), before)
    again = receive_clip(path, num_frames=30)
    assert again.delivered.integrated == pytest.approx(-23, abs=0.5)
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def _pictures(path: Path) -> Any:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])


# Which server


def test_the_size_decides_which_model(tmp_path: Path, one: Stub, two: Stub) -> None:
    one.model = "/models/MOVA-720p"
    Run(tmp_path, large=one, small=two)()
    assert (len(one.handed_in), len(two.handed_in)) == (0, 1)


@pytest.mark.parametrize(
    ("asked", "model", "gives"),
    [
        ((640, 352), "MOVA-360p", (640, 352)),
        ((352, 640), "MOVA-360p", (352, 640)),
        ((640, 360), "MOVA-360p", (624, 352)),
        ((1024, 1024), "MOVA-360p", (464, 464)),
        ((640, 480), "MOVA-360p", (544, 400)),
        ((640, 352), "MOVA-720p", (1280, 704)),
        ((1280, 720), "MOVA-720p", (1280, 720)),
        ((720, 1280), "MOVA-720p", (720, 1280)),
        ((640, 480), "MOVA-720p", (1104, 816)),
    ],
)
def test_what_a_model_makes_of_a_size_as_the_real_server_does(
    asked: tuple[int, int], model: str, gives: tuple[int, int]
) -> None:
    assert made(asked, model) == gives


def test_a_size_that_its_model_does_not_make_is_refused_with_those_it_does(tmp_path: Path, one: Stub) -> None:
    spec = SPEC.model_copy(update={"width": 640, "height": 368})
    assert "640 × 352, 352 × 640" in str(Run(tmp_path, one=one).fails("other_size", spec=spec))
    assert not one.handed_in


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"last_frame": "x.png"}, "no_last_frame"),
        ({"offload": "layer"}, "no_offload"),
        ({"preset": "light"}, "no_preset"),
        ({"spec": SPEC.model_copy(update={"bridge_guidance_scale": 3.5})}, "no_bridge"),
        ({"spec": SPEC.model_copy(update={"video_shift": 4.0})}, "no_shift"),
        ({"spec": SPEC.model_copy(update={"audio_shift": 4.0})}, "no_shift"),
        ({"spec": SPEC.model_copy(update={"fps": 23.976})}, "no_fps"),
    ],
)
def test_what_a_server_cannot_do_is_said_and_not_dropped(
    tmp_path: Path, one: Stub, changes: dict[str, Any], name: str
) -> None:
    run = Run(tmp_path, one=one)
    assert run.fails(name, **changes).kind is Kind.SETTING
    brief = Brief(**{"prompt": "", "checkpoint": "", "spec": SPEC} | changes)
    assert [error.name for error in unable(brief)] == [name]
    assert one.paths == []


def test_no_server_and_no_such_server_are_said(tmp_path: Path, one: Stub) -> None:
    Run(tmp_path).fails("none")
    assert "there are: one." in str(Run(tmp_path, one=one).fails("no_such", engine="sglang:onne"))


def test_a_dead_server_leaves_the_job_to_the_next(tmp_path: Path, one: Stub, closed: Server) -> None:
    run = Run(tmp_path, dead=closed, one=one)
    run()
    assert [remote.server for remote in run.kept if remote] == ["one"]
    assert Run(tmp_path / "x", dead=closed, one=one).fails("unreachable", engine="sglang:dead")


def test_a_server_that_dies_in_the_middle_leaves_the_job_to_the_next(tmp_path: Path, one: Stub, two: Stub) -> None:
    one.states = [RUN[1], NOT_FOUND]
    run = Run(tmp_path, one=one, two=two)
    assert run().num_frames == 5
    assert [remote and remote.server for remote in run.kept] == ["one", None, "two"]


def test_a_job_for_one_server_does_not_wander(tmp_path: Path, one: Stub, two: Stub) -> None:
    one.states = [RUN[1], NOT_FOUND]
    run = Run(tmp_path, one=one, two=two)
    run.fails("lost", engine="sglang:one")
    assert two.paths == []
    assert run.kept[-1] is None


@pytest.fixture
def closed() -> Server:
    with stub() as server:
        return server.server  # nothing listens there any more


# What was handed in before


def test_a_clip_that_is_done_is_fetched_and_not_made_again(tmp_path: Path, one: Stub) -> None:
    one.states = [RUN[-1]]
    run = Run(tmp_path, one=one)
    assert run(Draft(prompt="x", remote=REMOTE)).num_frames == 5
    assert one.handed_in == []
    assert run.kept == []


def test_a_job_that_runs_is_waited_for(tmp_path: Path, one: Stub) -> None:
    run = Run(tmp_path, one=one)
    run(Draft(prompt="x", remote=REMOTE))
    assert one.handed_in == []
    assert "denoising" in run.phases


def test_a_job_that_the_server_has_forgotten_is_handed_in_anew(tmp_path: Path, one: Stub) -> None:
    one.states = [NOT_FOUND, *RUN]
    run = Run(tmp_path, one=one)
    run(Draft(prompt="x", remote=REMOTE))
    assert len(one.handed_in) == 1
    assert run.kept[0] is None
    assert run.kept[1]


def test_a_job_that_failed_meanwhile_says_so_and_is_let_go(tmp_path: Path, one: Stub) -> None:
    one.states = [failed("boom")]
    run = Run(tmp_path, one=one)
    assert str(run.fails("failed", Draft(prompt="x", remote=REMOTE))) == "one failed to make the clip: boom"
    assert run.kept == [None]
    assert one.handed_in == []


def test_a_server_that_is_no_longer_set_up_is_given_up(tmp_path: Path, two: Stub) -> None:
    run = Run(tmp_path, two=two)
    run(Draft(prompt="x", remote=REMOTE))
    assert len(two.handed_in) == 1


def test_what_a_server_takes_while_its_job_is_cancelled_is_noted_and_not_handed_in_again(
    tmp_path: Path, one: Stub
) -> None:
    one.submit = Answer(job().body, delay=1.0)
    run = Run(tmp_path, one=one)

    def cancel(*_: object) -> None:
        if one.handed_in:
            raise Cancelled

    run.on_step = cancel
    with pytest.raises(Cancelled):
        run()
    assert [remote and remote.id for remote in run.noted] == ["", "the-id"]
    again = Run(tmp_path, one=one)
    assert again(Draft(prompt="x", remote=run.noted[-1])).num_frames == 5
    assert len(one.handed_in) == 1


def test_a_job_whose_handing_in_was_cut_off_is_handed_in_by_its_creator_alone(tmp_path: Path, one: Stub) -> None:
    run = Run(tmp_path, one=one)
    failure = explain(run.fails("answer_lost", Draft(prompt="x", remote=REMOTE.model_copy(update={"id": ""}))))
    assert (failure.kind, failure.remedy) == (Kind.REMOTE_LOST, "Start it again.")
    assert "工作室在此期间已结束" in translated(failure.sentence, Language.ZH)
    assert one.paths == []
    assert run.noted == [None]


def test_a_job_that_a_server_refuses_leaves_no_mark(tmp_path: Path, one: Stub) -> None:
    one.submit = Answer({"detail": "no"}, 400)
    run = Run(tmp_path, one=one)
    run.fails("refused")
    assert [remote and remote.id for remote in run.noted] == ["", None]


def test_a_clip_is_credited_to_the_server_that_was_handed_it(tmp_path: Path, one: Stub, two: Stub) -> None:
    two.version = "0.5.10"
    run = Run(tmp_path, one=one, two=two)
    run(engine="sglang:two")
    handed_in = run.noted[-1]
    run(engine="sglang:one")
    run(Draft(prompt="x", remote=handed_in))
    assert run.engine.machine().device == "two · MOVA-360p · SGLang 0.5.10"
    run(Draft(prompt="x", remote=REMOTE))
    assert run.engine.machine().device == "one", "its release wasn't noted then"


# Everything that goes wrong ends in a sentence, within its bound

PYDANTIC = "2 validation errors for VideoGenerationsRequest\nsize\n  Input should be x [type=x, input_value='a']\n"
WRONG: list[tuple[str, dict[str, Any], Kind]] = [
    ("refused", {"submit": Answer({"detail": "Invalid size"}, 400)}, Kind.REMOTE_REFUSED),
    ("refused", {"submit": Answer({"detail": [{"loc": ["body", "fps"], "msg": "bad"}]}, 422)}, Kind.REMOTE_REFUSED),
    ("refused", {"submit": Answer(b"Internal Server Error", 500)}, Kind.REMOTE_REFUSED),
    ("unhealthy", {"submit": Answer({"error": "Scheduler worker exited"}, 503)}, Kind.REMOTE_UNHEALTHY),
    ("denied", {"submit": Answer({"detail": "no"}, 401)}, Kind.REMOTE_UNREACHABLE),
    ("answer_lost", {"submit": Answer(b"<html>", 502, {"content-type": "text/html"})}, Kind.REMOTE_LOST),
    ("not_sglang", {"submit": Answer({"video": 1})}, Kind.REMOTE_UNREACHABLE),
    ("failed", {"states": [failed("Error executing request 7: the model raised")]}, Kind.REMOTE_FAILED),
    ("memory", {"states": [failed("CUDA out of memory. Tried to allocate 2 GiB")]}, Kind.REMOTE_MEMORY),
    ("unhealthy", {"states": [failed("Scheduler worker exited; restart the server.")]}, Kind.REMOTE_UNHEALTHY),
    ("lost", {"states": [RUN[1], NOT_FOUND]}, Kind.REMOTE_LOST),
    ("lost", {"states": [job("cancelled")]}, Kind.REMOTE_LOST),
    ("silent", {"states": [RUN[1], Answer(b"Bad gateway", 502)]}, Kind.REMOTE_UNREACHABLE),
    ("stalled", {"states": [job("in_progress", 30)]}, Kind.REMOTE_TIMEOUT),
    ("no_clip", {"content": Answer({"detail": "Video variant None not found"}, 404)}, Kind.REMOTE_BAD_CLIP),
    ("no_clip", {"content": Answer({"detail": "uploaded to cloud"}, 400)}, Kind.REMOTE_BAD_CLIP),
    ("not_video", {"content": Answer(b"<html>", headers={"content-type": "text/html"})}, Kind.REMOTE_BAD_CLIP),
    ("not_video", {"content": Answer({"ok": True})}, Kind.REMOTE_BAD_CLIP),
    ("bad_clip", {"content": Answer(b"", headers=VIDEO)}, Kind.REMOTE_BAD_CLIP),
    ("bad_clip", {"content": Answer(b"no video at all", headers=VIDEO)}, Kind.REMOTE_BAD_CLIP),
    ("too_old", {"version": None}, Kind.REMOTE_TOO_OLD),
    ("too_old", {"version": "0.5.9"}, Kind.REMOTE_TOO_OLD),
    ("other_model", {"model": "Wan-AI/Wan2.2-T2V"}, Kind.REMOTE_NONE),
    ("warming_up", {"health": Answer(b"", 503)}, Kind.REMOTE_TIMEOUT),
    ("unhealthy", {"health": Answer({"status": "unhealthy", "error": "dead"}, 503)}, Kind.REMOTE_UNHEALTHY),
    ("denied", {"health": Answer({"detail": "no"}, 403)}, Kind.REMOTE_UNREACHABLE),
    ("not_sglang", {"info": Answer(b"<html>", headers={"content-type": "text/html"})}, Kind.REMOTE_UNREACHABLE),
]


@pytest.mark.parametrize(("name", "answers", "kind"), WRONG)
def test_what_goes_wrong_is_a_sentence_in_time(
    tmp_path: Path, one: Stub, name: str, answers: dict[str, Any], kind: Kind
) -> None:
    for what, answer in answers.items():
        setattr(one, what, list(answer) if isinstance(answer, list) else answer)
    began = time.monotonic()
    error = Run(tmp_path, one=one).fails(name)
    assert time.monotonic() - began < 15
    failure = explain(error)
    assert failure.kind is kind
    assert failure.sentence.startswith("one ")
    assert "\n" not in failure.sentence
    assert failure.remedy.endswith(".")
    assert translated(failure.sentence, Language.ZH) != failure.sentence


def test_a_truncated_clip_is_not_taken(tmp_path: Path, one: Stub, clip: bytes) -> None:
    one.content = Answer(clip[: len(clip) // 2], headers=VIDEO)
    Run(tmp_path, one=one).fails("bad_clip")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_here_leaves_the_clip_on_the_server(tmp_path: Path, one: Stub, code: int) -> None:
    def full(_: Path, __: Brief) -> Rendered:
        try:
            raise OSError(code, "full")
        except OSError as error:
            raise MediaError("It can't be written.") from error

    run = Run(tmp_path, one=one)
    run.engine = SGLangEngine(tmp_path, {"one": one.server}, full, limits=QUICK)
    with pytest.raises(MediaError) as caught:
        run()
    assert explain(caught.value).kind is Kind.DISK_FULL
    assert [remote and remote.id for remote in run.kept] == ["the-id"]


@pytest.mark.parametrize("content", [Answer({"detail": "uploaded"}, 400), Answer({"ok": True})])
def test_a_clip_that_is_done_and_not_handed_out_may_be_fetched_later(
    tmp_path: Path, one: Stub, content: Answer
) -> None:
    one.content = content
    run = Run(tmp_path, one=one)
    with pytest.raises(RemoteError):
        run()
    assert run.kept[-1]
    one.content, one.states = None, [RUN[-1]]
    assert run(Draft(prompt="x", remote=run.kept[-1])).num_frames == 5
    assert len(one.handed_in) == 1


def test_a_damaged_clip_is_not_taken(tmp_path: Path, one: Stub, clip: bytes) -> None:
    middle = clip.index(b"mdat") + 200
    one.content = Answer(clip[:middle] + bytes(4000) + clip[middle + 4000 :], headers=VIDEO)
    Run(tmp_path, one=one).fails("bad_clip")


def test_a_clip_with_too_few_frames_is_not_taken(tmp_path: Path, one: Stub) -> None:
    spec = SPEC.model_copy(update={"num_frames": 9})
    assert "5 frames instead of 9" in str(Run(tmp_path, one=one).fails("bad_clip", spec=spec))


def test_a_silent_video_is_not_taken(tmp_path: Path, one: Stub) -> None:
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=24)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(video.encode())
    one.content = Answer(path.read_bytes(), headers=VIDEO)
    assert str(Run(tmp_path, one=one).fails("bad_clip")).endswith("It has no sound.")
    with pytest.raises(MediaError, match="no sound"):
        receive_clip(path, num_frames=5)


def test_a_job_that_takes_for_ever_is_given_up_and_can_be_picked_up(tmp_path: Path, one: Stub) -> None:
    one.version, one.states = "0.5.22", [job()]
    run = Run(tmp_path, Limits(late=0.3, poll=(0.01, 0.02)), one=one)
    assert "within 0.005 minutes" in str(run.fails("late"))
    assert run.kept[-1] is not None, "another try goes on waiting for the same job"


def test_an_answer_that_was_lost_is_not_asked_for_again(tmp_path: Path, one: Stub, two: Stub) -> None:
    one.submit = Answer(b"", 504)
    run = Run(tmp_path, one=one, two=two)
    run.fails("answer_lost")
    assert (len(one.handed_in), len(two.handed_in)) == (1, 0)
    assert run.kept == [None], "only its creator hands it in anew"


def test_a_dead_worker_is_found_by_its_health_while_a_job_waits(tmp_path: Path, one: Stub) -> None:
    one.states = [job()]
    run = Run(tmp_path, one=one)

    def die(*_: object) -> None:
        if one.handed_in:
            one.health = Answer({"status": "unhealthy", "error": "worker gone"}, 503)

    run.on_step = die
    assert "worker gone" in str(run.fails("unhealthy"))


def test_a_cancel_ends_the_wait_at_once_though_the_server_hangs(tmp_path: Path, one: Stub) -> None:
    one.states = [Answer(delay=None)]
    run = Run(tmp_path, one=one)

    def cancel(*_: object) -> None:
        if "GET /v1/videos/the-id" in one.paths:
            raise Cancelled

    run.on_step = cancel
    began = time.monotonic()
    with pytest.raises(Cancelled):
        run()
    assert time.monotonic() - began < 5
    assert [remote and remote.id for remote in run.kept] == ["the-id"], "a retry fetches what the server made"


def test_a_token_is_sent_and_stands_in_no_error(tmp_path: Path, one: Stub, two: Stub) -> None:
    server = Server(base_url=one.wire.address, token=SecretStr(TOKEN))
    one.states = [job("completed", 100, url=f"{two.wire.address}/v1/videos/the-id/content")]
    Run(tmp_path, one=server)()
    assert {request.headers.get("authorization") for request in one.wire.requests} == {f"Bearer {TOKEN}"}
    assert [request.headers.get("authorization") for request in two.wire.requests] == [None], "cloud storage isn't told"
    one.submit = Answer({"detail": f"Unknown header Bearer {TOKEN}"}, 400)
    error = Run(tmp_path / "again", one=server).fails("refused")
    assert TOKEN not in explain(error).model_dump_json()


# The line


def line_by(answer: Callable[[httpx.Request], httpx.Response]) -> Line:
    return Line("one", "http://one", transport=httpx.MockTransport(answer), waits=(0.0,) * 4)


class Cut(httpx.SyncByteStream):
    """A body whose connection is cut after some bytes."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield self._body
        raise httpx.ReadError("cut")


DONE = RemoteJob(id="x", status="completed")


def test_a_clip_that_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("range"))
        headers = {"content-type": "video/mp4", "etag": '"a"'}
        if len(asked) == 1:
            return httpx.Response(200, headers=headers, stream=Cut(b"0123"))
        assert request.headers["if-range"] == '"a"'
        rest = httpx.ByteStream(b"456789")
        return httpx.Response(206, headers=headers | {"content-range": "bytes 4-9/10"}, stream=rest)

    line_by(answer).fetch(DONE, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"0123456789"
    assert asked == [None, "bytes=4-"]


def test_a_server_without_ranges_sends_it_all_again(tmp_path: Path) -> None:
    bodies: list[httpx.SyncByteStream] = [Cut(b"0123"), Cut(b"01"), httpx.ByteStream(b"0123456789")]

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "video/mp4"}, stream=bodies.pop(0))

    line_by(answer).fetch(DONE, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_a_clip_that_breaks_off_again_and_again_is_given_up(tmp_path: Path) -> None:
    tries: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        tries.append(1)
        return httpx.Response(200, headers={"content-type": "video/mp4"}, stream=Cut(b"0"))

    line = Line("one", "http://one", transport=httpx.MockTransport(answer), waits=(0.05, 0.1, 0.1, 0.15))
    began = time.monotonic()
    with pytest.raises(RemoteError, match="the connection was cut"):
        line.fetch(DONE, tmp_path / "x")
    assert len(tries) == 5
    assert time.monotonic() - began >= 0.4
    assert FETCH_WAITS == (1, 2, 4, 8), "a server has time to come back"


def test_a_clip_of_which_more_comes_each_time_is_not_given_up(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        have = int(request.headers.get("range", "bytes=0-")[6:-1])
        headers = {"content-type": "video/mp4", "etag": '"a"', "content-range": f"bytes {have}-{have}/20"}
        last = have == 19
        body = httpx.ByteStream(b"x") if last else Cut(b"x")
        return httpx.Response(206 if have else 200, headers=headers, stream=body)

    line_by(answer).fetch(DONE, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"x" * 20


def test_a_line_that_is_closed_tries_no_more(tmp_path: Path) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        threading.Thread(target=line.close).start()
        return httpx.Response(200, headers={"content-type": "video/mp4"}, stream=Cut(b"0"))

    line = Line("one", "http://one", transport=httpx.MockTransport(answer), waits=(60.0,))
    began = time.monotonic()
    with pytest.raises(RemoteError, match="whole"):
        line.fetch(DONE, tmp_path / "x")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (httpx.ConnectError, "unreachable"),
        (httpx.ConnectTimeout, "unreachable"),
        (httpx.ReadTimeout, "answer_lost"),
        (httpx.ReadError, "answer_lost"),
        (httpx.RemoteProtocolError, "answer_lost"),
        (httpx.WriteError, "answer_lost"),
    ],
)
def test_only_what_was_never_sent_may_be_sent_elsewhere(error: type[httpx.TransportError], name: str) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error("x")

    with pytest.raises(RemoteError) as caught:
        line_by(answer).submit({"prompt": "x"}, picture())
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (httpx.Response(400, json={"detail": "Invalid size"}), "Invalid size"),
        (httpx.Response(400, json={"detail": PYDANTIC}), "size: Input should be x"),
        (httpx.Response(422, json={"detail": [{"loc": ["body", "fps"], "msg": "no", "input": "x" * 999}]}), "fps: no"),
        (httpx.Response(404, json={"error": {"message": "no such model", "code": "x"}}), "no such model"),
        (httpx.Response(503, json={"error": "worker exited"}), "worker exited"),
        (httpx.Response(500, text="Internal Server Error"), "Internal Server Error"),
        (httpx.Response(503), "status 503"),
        (httpx.Response(502, html="<h1>Bad</h1>"), "a web page"),
        (httpx.Response(400, json={"detail": "x" * 5000}), "x" * 300),
    ],
)
def test_every_shape_of_error_is_one_line(response: httpx.Response, said: str) -> None:
    assert line_by(lambda _: response).ask("/x").said == said


def test_an_answer_that_never_ends_is_left(tmp_path: Path) -> None:
    class Drip(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b" "

    line = Line(
        "one",
        "http://one",
        transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=Drip())),
        ask_seconds=0.1,
    )
    with pytest.raises(RemoteError, match="in time"):
        line.ask("/health")


# How servers stand


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ({}, State.READY),
        ({"version": None}, State.TOO_OLD),
        ({"version": "0.5.10.post1"}, State.READY),
        ({"health": Answer(b"", 503)}, State.WARMING_UP),
        ({"health": Answer({"status": "unhealthy", "error": "x"}, 503)}, State.UNHEALTHY),
        ({"model": "black-forest-labs/FLUX.1-dev"}, State.OTHER_MODEL),
        ({"info": Answer({"detail": "no"}, 401)}, State.DENIED),
        ({"health": Answer(b"hello"), "info": Answer(b"hello")}, State.NOT_SGLANG),
        ({"health": Answer(delay=None)}, State.UNREACHABLE),
    ],
)
def test_how_a_server_stands(answers: dict[str, Any], state: State) -> None:
    with stub(**answers) as server:
        began = time.monotonic()
        seen = look("one", server.server, seconds=0.5)
        assert time.monotonic() - began < 5
        assert seen.state is state, str(seen.error)
        assert (seen.error is None) is (state is State.READY)


MISTYPED = ["http://gpu:port", "http://[::1", "http://", "http:///x", "http://a b", "http://gpu:99999", "http://x\n"]


@pytest.mark.parametrize("address", MISTYPED)
def test_an_address_that_cannot_be_called_is_said_and_not_repeated(address: str) -> None:
    with pytest.raises(ValidationError, match="it isn't an address such as") as caught:
        Server(base_url=address)
    assert address not in str(caught.value).replace("http://gpu:30000", "")


@pytest.mark.parametrize("address", ["http://gpu:port", "http://[::1"])
def test_a_look_at_an_address_that_cannot_be_called_is_a_look(address: str) -> None:
    seen = look("one", Server.model_construct(base_url=address))
    assert seen.state is State.UNREACHABLE
    assert str(seen.error) == "one can't be reached: its address can't be called."


def test_an_answer_nested_without_end_is_one_that_is_not_understood() -> None:
    with stub(info=Answer(b"[" * 100_000)) as server:
        assert look("one", server.server).state is State.NOT_SGLANG
    nested = json.loads('{"error":' * 900 + "1" + "}" * 900)
    assert line_by(lambda _: httpx.Response(500, json=nested)).ask("/x").status == 500


def test_releases_are_told_apart() -> None:
    assert number_of("0.5.9") < number_of("0.5.10.post1") < number_of("0.5.23") < number_of("v1.0")
    assert number_of("main") == number_of(None) == ()


def test_asking_how_servers_stand_waits_for_none(wire: Wire) -> None:
    going_on, looks = threading.Event(), []

    def slow(name: str, server: Server) -> Any:
        looks.append(name)
        going_on.wait(10)
        return look(name, server, seconds=0.5, clock=lambda: 100.0)

    wire.answers = [Answer({"model_path": "MOVA-360p", "version": "0.5.23"})]
    servers, known = Servers(slow, lambda: 100.0), {"one": Server(base_url=wire.address)}
    assert servers.seen(known) == servers.seen(known) == {"one": None}
    going_on.set()
    wait_for(lambda: (seen := servers.seen(known)["one"]) and seen.state is State.READY)
    assert looks == ["one"], "what is fresh isn't looked at again"


# What is said


@pytest.mark.parametrize("name", SENTENCES)
def test_every_sentence_is_in_the_catalogue_as_it_is_said(name: str) -> None:
    assert catalogue()[f"remote.{name}"]["en"] == SENTENCES[name][1]


def test_what_stands_in_a_sentence_is_said_in_chinese_too() -> None:
    error = RemoteError("unreachable", server="one", why="nothing listens there")
    assert translated(str(error), Language.ZH) == "无法连接 one：该地址没有服务。"
    error = RemoteError("bad_clip", server="one", why="It has no sound.")
    assert translated(str(error), Language.ZH) == "one 发来的片段无法使用：它没有声音。"


@pytest.mark.parametrize("phase", ["waiting", "remote", "fetching"])
def test_every_phase_of_a_server_has_words(phase: str) -> None:
    assert phase in REMOTE_PHASES
    assert catalogue()[f"job.{phase}"]["zh"]


# What a worker's end leaves


@pytest.mark.parametrize(
    ("phase", "closed_in_order", "status"),
    [
        (None, False, Status.QUEUED),
        ("waiting", False, Status.QUEUED),
        ("fetching", False, Status.QUEUED),
        ("writing", False, Status.INTERRUPTED),
        ("writing", True, Status.QUEUED),
        (None, True, Status.QUEUED),
    ],
)
def test_what_a_server_makes_is_picked_up_unless_the_worker_may_have_died_of_it(
    store: JobStore, phase: str | None, closed_in_order: bool, status: Status
) -> None:
    asked = store.submit(Brief(prompt="x", engine="sglang", checkpoint="MOVA-360p", spec=SPEC))
    assert store.claim()
    store.save(asked.id, Draft(prompt="x", remote=REMOTE))
    if phase:
        store.report(asked.id, Progress(phase=phase, step=0, total=1))
    if closed_in_order:
        store.close(asked.id, Status.INTERRUPTED, CLOSED)
    else:
        store.recover()
    assert found(store, asked).status is status


# With a real worker


def test_a_worker_that_is_killed_while_it_hands_in_leaves_the_choice_to_the_creator(store: JobStore, one: Stub) -> None:
    one.submit = Answer(delay=None)
    asked = store.submit(Brief(prompt="x", engine="sglang", checkpoint="MOVA-360p", spec=SPEC))
    with _worker(store, one) as first:
        wait_for(lambda: one.handed_in)
        first.kill()
    one.submit = job()
    with _worker(store, one) as second:
        done = ended(store, asked)
        second.terminate()
    assert done.status is Status.FAILED
    assert done.failure
    assert done.failure.kind is Kind.REMOTE_LOST
    assert done.draft.remote is None
    assert len(one.handed_in) == 1


def test_a_worker_that_is_told_to_end_while_it_hands_in_takes_the_answer_along(store: JobStore, one: Stub) -> None:
    one.submit = Answer(job().body, delay=1.5)
    asked = store.submit(Brief(prompt="x", engine="sglang", checkpoint="MOVA-360p", spec=SPEC))
    with _worker(store, one) as first:
        wait_for(lambda: one.handed_in)
        first.terminate()
        first.wait(30)
    waiting = found(store, asked)
    assert waiting.status is Status.QUEUED
    assert waiting.draft.remote
    assert waiting.draft.remote.id == "the-id"


def test_a_worker_that_is_killed_while_it_fetches_leaves_the_clip_to_the_next_one(store: JobStore, one: Stub) -> None:
    one.content = Answer(delay=None)
    asked = store.submit(Brief(prompt="x", engine="sglang", checkpoint="MOVA-360p", spec=SPEC))
    with _worker(store, one) as first:
        wait_for(lambda: "GET /v1/videos/the-id/content" in one.paths)
        first.kill()
    one.content = None
    with _worker(store, one) as second:
        done = ended(store, asked)
        second.terminate()
    assert done.status is Status.DONE, done.failure
    assert len(one.handed_in) == 1


def test_a_worker_that_is_killed_leaves_the_clip_to_the_next_one(store: JobStore, one: Stub) -> None:
    one.states = [RUN[2]]
    asked = store.submit(Brief(prompt="x", engine="sglang", checkpoint="MOVA-360p", spec=SPEC))
    with _worker(store, one) as first:
        wait_for(lambda: one.paths.count("GET /v1/videos/the-id") > 1)
        first.kill()
    with _worker(store, one) as second:
        wait_for(lambda: found(store, asked).status is Status.RUNNING)
        one.states = [RUN[-1]]
        done = ended(store, asked)
        second.terminate()
    assert done.status is Status.DONE, done.failure
    assert len(one.handed_in) == 1, "the server made it once"
    assert done.draft.rendered
    assert (store.data / str(done.draft.clip)).is_file()
    assert done.engine == "sglang"


def test_a_worker_that_is_told_to_end_leaves_the_clip_to_the_next_one_too(store: JobStore, one: Stub) -> None:
    one.states = [RUN[2]]
    asked = store.submit(Brief(prompt="x", engine="sglang", checkpoint="MOVA-360p", spec=SPEC))
    with _worker(store, one) as first:
        wait_for(lambda: one.paths.count("GET /v1/videos/the-id") > 1)
        first.terminate()
        first.wait(30)
    waiting = found(store, asked)
    assert (waiting.status, waiting.failure) == (Status.QUEUED, None)
    assert waiting.draft.remote


def test_a_servers_gpu_that_fails_leaves_the_worker_alive(store: JobStore, one: Stub) -> None:
    one.states = [failed("CUDA error: an illegal memory access was encountered")]
    asked = [store.submit(Brief(prompt="x", engine="sglang", checkpoint="MOVA-360p", spec=SPEC)) for _ in range(2)]
    with _worker(store, one) as worker:
        kinds = {failure.kind for job in asked if (failure := ended(store, job).failure)}
        assert worker.poll() is None
        said = store.worker()
        worker.terminate()
    assert kinds == {Kind.REMOTE_FAILED}
    assert said is None or not said.loaded, "no weights are here"


def _worker(store: JobStore, server: Stub) -> subprocess.Popen[bytes]:
    environment = os.environ | {"STUDIO_SGLANG__ONE__BASE_URL": server.wire.address}
    return subprocess.Popen([sys.executable, "-m", "app.worker", "--data", str(store.data)], cwd=ROOT, env=environment)
