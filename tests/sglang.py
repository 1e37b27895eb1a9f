"""Clips from the real SGLang server in two releases, and everything that goes wrong: ``python -m tests.sglang FOLDER``.

FOLDER has the server's ``run.sh``; it builds 3.2 GB beside itself. 0.5.9 is refused as too old; its ways, those of all
releases before 0.5.23, are seen behind a door that calls itself 0.5.10.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from app.engines import receive
from app.jobs import Brief, Draft, Job, Status
from app.remote import RemoteError
from app.servers import State, look
from app.settings import ROOT, Server
from app.sglang import Limits, SGLangEngine
from app.store import JobStore
from mova.spec import ClipSpec
from tests.app.conftest import found, wait_for

SPEC = ClipSpec(width=640, height=352, num_frames=25, fps=24, num_inference_steps=10, seed=7)
LIMITS = Limits(late=40, silent=6, stalled=8, warm_up=60, health=2, poll=(0.5, 2))
LATER = (4.0, 4.0)  # between two looks: the server spoils a finished clip a moment later
TRIES = 3
BOUND = 60.0  # seconds in which every case has to end
NEW, OLD, DOOR = "0.5.23", "0.5.9", "0.5.9 as 0.5.10"


@dataclass(frozen=True)
class Case:
    """A prompt, what is done meanwhile, and what it has to end as: a clip, or a name of ``app.remote.SENTENCES``."""

    prompt: str
    ends: str = "clip"
    meanwhile: str = ""  # a command of run.sh, once the server has the job
    poll: tuple[float, float] = LIMITS.poll
    late: float = LIMITS.late
    silent: float = LIMITS.silent
    spoils: bool = False  # the server has to be started anew

    @property
    def name(self) -> str:
        return f"{self.prompt} {self.meanwhile}".strip()


SHARED = (
    Case("a cat plays the piano [[total=3]]"),
    Case("x [[fail=the model raised]]", "failed"),
    Case("x [[total=1]] [[fail_at=0.6]]", "failed"),
    Case("x [[oom]]", "memory"),
    Case("x [[total=1]] [[vanish]]", "no_clip", poll=LATER),
    Case("x [[total=1]] [[empty]]", "bad_clip", poll=LATER),
    Case("x [[total=1]] [[notvideo]]", "bad_clip", poll=LATER),
    Case("x [[noaudio]]", "bad_clip"),
)
CASES = {
    NEW: (
        *SHARED,
        Case("x [[total=8]]", "lost", "restart", late=55, silent=45),
        Case("x [[total=30]]", "silent", "kill9", spoils=True),
        Case("x [[hang]]", "stalled", spoils=True),
        Case("x [[crash]]", "unhealthy", spoils=True),
        Case("x [[total=2]] [[crash_at=0.5]]", "unhealthy", spoils=True),
    ),
    OLD: (Case("a cat plays the piano", "too_old"),),
    DOOR: (
        *SHARED,
        Case("x [[hang]]", "late", late=12, spoils=True),
        Case("x [[crash]]", "late", late=12, spoils=True),
    ),
}


@dataclass(frozen=True)
class Real:
    """A real server on a port."""

    folder: Path
    port: int
    release: str

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Two servers that start at once may want the same inner port; another try finds a free one."""
        for left in reversed(range(TRIES)):
            try:
                self.do("start")
                return
            except subprocess.CalledProcessError:
                if not left:
                    raise

    def do(self, command: str, **more: str) -> None:
        environment = os.environ | {"SGLANG_RELEASE": self.release} | more
        environment.pop("PYTHONPATH", None)
        subprocess.run(
            [str(self.folder / "run.sh"), command, str(self.port)],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=600,
        )

    def jobs(self) -> int:
        """How many jobs it knows."""
        return len(httpx.get(f"{self.address}/v1/videos?limit=100", timeout=10).json()["data"])


@contextmanager
def serving(folder: Path, port: int, release: str) -> Iterator[Real]:
    real = Real(folder, port, release)
    real.start()
    try:
        yield real
    finally:
        real.do("kill9")


@contextmanager
def door(real: Real) -> Iterator[str]:
    """The address of a door to the server behind which it says that it is 0.5.10."""

    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            if self.path == "/server_info":
                answer = httpx.Response(200, json={"model_path": "OpenMOSS-Team/MOVA-360p", "version": "0.5.10"})
            else:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name: self.headers[name] for name in ("content-type", "range") if self.headers[name]}
                answer = httpx.request(
                    self.command, real.address + self.path, content=body, headers=headers, timeout=60
                )
            self.send_response(answer.status_code)
            for name in ("content-type", "content-range", "etag"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = forward  # noqa: N815  (names that http.server looks for)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def run_case(case: Case, real: Real, address: str, data: Path) -> tuple[str, str]:
    """How it ended, and what was said."""
    limits = replace(LIMITS, poll=case.poll, late=case.late, silent=case.silent)
    engine = SGLangEngine(data, {"real": Server(base_url=address)}, receive, limits=limits)
    brief = Brief(prompt=case.prompt, engine="sglang", checkpoint="MOVA-360p", spec=SPEC)
    started: list[threading.Thread] = []

    def keep(remote: object) -> None:
        if case.meanwhile and remote and not started:
            started.append(threading.Timer(2, real.do, (case.meanwhile,)))
            started[0].start()

    try:
        rendered = engine.render(brief, Draft(prompt=case.prompt), data / "clip.mp4", lambda *_: None, keep)
    except RemoteError as error:
        return error.name, str(error)
    finally:
        for thread in started:
            thread.join()
    sound = "silent" if rendered.loudness is None else f"{rendered.loudness:.1f} LUFS"
    return (
        "clip",
        f"{rendered.width} × {rendered.height}, {rendered.num_frames} frames, {rendered.duration:.2f} s, {sound}",
    )


def failures(folder: Path, port: int) -> bool:
    """Every case in every release, as a table; whether all ended as they have to."""
    well = True
    for release, cases in CASES.items():
        with (
            tempfile.TemporaryDirectory() as data,
            serving(folder, port, NEW if release == NEW else OLD) as real,
            door(real) as address,
        ):
            for case in cases:
                began = time.monotonic()
                how, said = run_case(case, real, address if release == DOOR else real.address, Path(data))
                seconds = time.monotonic() - began
                good = how == case.ends and seconds < BOUND
                well = well and good
                mark = "ok " if good else "BAD"
                say(f"{mark} | {release:15} | {case.name:38} | {how:9} | {seconds:5.1f} s | {said}")
                if case.spoils:
                    real.do("kill9")
                    real.start()
    return well


def warming_up(folder: Path, port: int) -> bool:
    """A job for a server that isn't ready yet waits for it."""
    real, began = Real(folder, port, NEW), time.monotonic()
    real.do("start", NOWAIT="1", FAKE_WARMUP_SECONDS="10")
    try:
        wait_for(lambda: look("real", Server(base_url=real.address)).state is State.WARMING_UP, 60)
        waited = time.monotonic()
        with tempfile.TemporaryDirectory() as data:
            how, said = run_case(Case("a cat", late=90), real, real.address, Path(data))
        good = how == "clip"
        times = f"{waited - began:.0f} s until it said so, {time.monotonic() - waited:.0f} s until the clip"
        say(f"{'ok ' if good else 'BAD'} | {NEW}: warming up: {how}, {times}; {said}")
        return good
    finally:
        real.do("kill9")


@contextmanager
def studio(data: Path, **servers: str) -> Iterator[subprocess.Popen[str]]:
    """The studio as a creator starts it."""
    environment = os.environ | {f"STUDIO_SGLANG__{name.upper()}__BASE_URL": url for name, url in servers.items()}
    command = [sys.executable, "-m", "app", "--port", "0", "--data", str(data)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def submit(store: JobStore, prompt: str) -> Job:
    return store.submit(Brief(prompt=prompt, engine="sglang", checkpoint="MOVA-360p", spec=SPEC))


def ended(store: JobStore, job: Job) -> Job:
    wait_for(lambda: not found(store, job).status.active, 240)
    return found(store, job)


def killed(folder: Path, port: int, release: str) -> bool:
    """Kill the studio in the middle of a remote job and start it again."""
    with tempfile.TemporaryDirectory() as data, serving(folder, port, release) as real, door(real) as address:
        store = JobStore(Path(data))
        one = address if release == OLD else real.address
        before = real.jobs()
        with studio(store.data, one=one) as first:
            job = submit(store, "a cat [[total=15]]")
            wait_for(lambda: found(store, job).draft.remote)
            time.sleep(2)
            first.send_signal(signal.SIGKILL)
        with studio(store.data, one=one):
            done = ended(store, job)
        made = real.jobs() - before
        clip = store.data / str(done.draft.clip)
        good = done.status is Status.DONE and clip.is_file() and made == 1
        size = clip.stat().st_size if clip.is_file() else 0
        what = f"{done.status}, a clip of {size} bytes, made {made} time(s)"
        say(f"{'ok ' if good else 'BAD'} | {release}: the studio killed -9: {what}")
        return good


def two_servers(folder: Path, port: int) -> bool:
    """Five jobs, two servers, of which one is killed while it makes the second job."""
    with (
        tempfile.TemporaryDirectory() as data,
        serving(folder, port, NEW) as first,
        serving(folder, port + 2, NEW) as second,
    ):
        store = JobStore(Path(data))
        jobs = [submit(store, f"number {number} [[total=4]]") for number in range(5)]
        with studio(store.data, one=first.address, two=second.address):
            wait_for(lambda: found(store, jobs[1]).draft.remote, 120)
            first.do("kill9")
            began = time.monotonic()
            done = [ended(store, job) for job in jobs]
        good = all(job.status is Status.DONE for job in done)
        on = ", ".join(str(job.device).partition(" ")[0] for job in done)
        seconds = time.monotonic() - began
        states = ", ".join(str(job.status) for job in done)
        say(f"{'ok ' if good else 'BAD'} | one of two killed: {states} on {on}, {seconds:.0f} s")
        return good


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sglang", description=__doc__)
    parser.add_argument("folder", type=Path, help="where run.sh is; it has to be writable")
    parser.add_argument("--port", type=int, default=30300)
    parser.add_argument("--only", choices=("failures", "warming", "killed", "two"))
    given = parser.parse_args()
    folder, port = given.folder.absolute(), given.port
    parts = {
        "failures": lambda: failures(folder, port),
        "warming": lambda: warming_up(folder, port),
        "killed": lambda: all([killed(folder, port, NEW), killed(folder, port, OLD)]),
        "two": lambda: two_servers(folder, port),
    }
    results = [part() for name, part in parts.items() if given.only in (None, name)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
