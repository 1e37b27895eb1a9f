"""What the store and the worker withstand, in figures: `python -m tests.soak [--kills N]`.

Eight processes submit a hundred jobs each; four claim them. Then worker or server are killed (-9) at random moments
over a queue of short jobs, until that has happened N times: no job may be lost, run again once done, or leave half a
file, and the database has to be intact.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from multiprocessing import get_context
from pathlib import Path

import av
import uvicorn

from app.jobs import Brief, Job, Status, Wanted
from app.server import build
from app.settings import ROOT, load
from app.store import DATABASE, JobStore
from app.supervisor import DEATHS
from app.worker import is_running
from tests.app.conftest import make_brief

SUBMITTERS, SUBMITS, CLAIMERS = 8, 100, 4
WAITING = 3  # jobs that are kept in the queue while killing goes on
AT_WORK = 0.8  # how many kills wait until a job runs; the others come while studio and worker start
LONGEST_LIFE = 3.0  # seconds from then to the kill
STUCK_SECONDS = 120.0
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


def submit(data: Path, name: int) -> list[str]:
    store = JobStore(data, patience=120)
    return [store.submit(make_brief(f"process {name}, job {index}")).id for index in range(SUBMITS)]


def claim(data: Path) -> list[str]:
    store = JobStore(data, patience=120)
    return [job.id for job in iter(store.claim, None)]


def race(data: Path) -> bool:
    """Submits and claims in processes that know nothing of each other."""
    with ProcessPoolExecutor(SUBMITTERS, mp_context=get_context("spawn")) as pool:
        began = time.perf_counter()
        submitted = [job for jobs in pool.map(submit, [data] * SUBMITTERS, range(SUBMITTERS)) for job in jobs]
        submitting = time.perf_counter() - began
        began = time.perf_counter()
        claims = list(pool.map(claim, [data] * CLAIMERS))
        claiming = time.perf_counter() - began
    claimed = Counter(job for jobs in claims for job in jobs)
    total = JobStore(data).find(Wanted()).total
    print(f"{SUBMITTERS} processes x {SUBMITS} submits: {total} jobs in {submitting:.1f} s")
    print(
        f"{CLAIMERS} claimers: {len(claimed)} jobs claimed in {claiming:.1f} s, at most {max(claimed.values())} time(s)"
    )
    print(f"  each took {sorted(len(jobs) for jobs in claims)}")
    return total == len(set(submitted)) == len(claimed) == SUBMITTERS * SUBMITS and max(claimed.values()) == 1


class Killing:
    """A studio that is killed again and again, and what was seen of its jobs meanwhile."""

    def __init__(self, store: JobStore, chance: random.Random) -> None:
        self.store = store
        self.chance = chance
        self.submitted: list[str] = []
        self.done: dict[str, tuple[float | None, float]] = {}  # job -> when it ended, and when its clip was written
        self.again: set[str] = set()  # jobs that ran although they were done
        self.kills: Counter[str] = Counter()
        self.amid = 0  # kills while a job ran

    def run(self, kills: int) -> None:
        """Kill worker or server that often."""
        while self.kills.total() < kills:
            server = serve_in_background(self.store.data)
            try:
                self._live_through(server, kills)
            finally:
                server.kill()
                server.wait()

    def finish(self) -> None:
        """Let what is left run to its end, in peace."""
        server = serve_in_background(self.store.data)
        deadline = time.monotonic() + STUCK_SECONDS
        try:
            while time.monotonic() < deadline and any(job.status is not Status.DONE for job in self._look()):
                time.sleep(0.2)
        finally:
            server.terminate()
            server.wait()

    def _live_through(self, server: subprocess.Popen[bytes], kills: int) -> None:
        """Kill this server's workers, until it is the server's turn: before it gives its workers up."""
        workers = 0
        while self.kills.total() < kills:
            if self.chance.random() < AT_WORK:
                self._watch(lambda: not self._at_work(), STUCK_SECONDS)
            self._watch(lambda: True, self.chance.uniform(0.05, LONGEST_LIFE))
            amid = self._at_work()
            worker = self.store.worker()
            if self.chance.random() < 0.3 or workers == DEATHS - 1:
                server.kill()
                server.wait()
                self._count("server", amid)
                return
            if worker and _is_ours(worker.pid):
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, KILL)
                    self._count("worker", amid)
                    workers += 1

    def _watch(self, condition: Callable[[], bool], longest: float) -> None:
        """Keep the queue filled while that holds."""
        deadline = time.monotonic() + longest
        while time.monotonic() < deadline and condition():
            waiting = sum(job.status.active for job in self._look())
            self.submitted += [self.store.submit(self._short()).id for _ in range(WAITING - waiting)]
            time.sleep(0.02)

    def _at_work(self) -> bool:
        return is_running(self.store.data) and any(job.status is Status.RUNNING for job in self.store.queue())

    def _look(self) -> tuple[Job, ...]:
        """The jobs as they are; what was interrupted is started again, what is done has to stay as it was."""
        jobs = self.store.find(Wanted(), per_page=1_000_000).jobs
        for job in jobs:
            if job.status is Status.INTERRUPTED:
                self.store.requeue(job.id)
            if job.status is Status.DONE or job.id in self.done:
                clip = self.store.data / job.folder / "clip.mp4"
                seen = (job.finished_at, clip.stat().st_mtime)
                if self.done.setdefault(job.id, seen) != seen or job.status is not Status.DONE:
                    self.again.add(job.id)
        return jobs

    def _count(self, victim: str, amid: bool) -> None:
        self.kills[victim] += 1
        self.amid += amid
        if self.kills.total() % 20 == 0:
            print(f"  {self.kills.total()} kills, {len(self.submitted)} jobs, {len(self.done)} done", flush=True)

    def _short(self) -> Brief:
        return make_brief(f"job {self.chance.random()}", steps=self.chance.randrange(1, 30))


def killing(data: Path, kills: int, seed: int) -> bool:
    """The studio under fire; whether nothing came to harm."""
    store = JobStore(data, patience=120)
    fire = Killing(store, random.Random(seed))
    began = time.perf_counter()
    fire.run(kills)
    fire.finish()
    jobs = store.find(Wanted(), per_page=1_000_000).jobs
    lost = set(fire.submitted) ^ {job.id for job in jobs}
    not_done = [job.id for job in jobs if job.status is not Status.DONE]
    parts, broken = list(data.rglob("*.part")), [job.id for job in jobs if not _is_whole(data, job)]
    with closing(sqlite3.connect(data / DATABASE)) as db:
        (intact,) = db.execute("PRAGMA integrity_check").fetchone()
    print(
        f"{fire.kills.total()} kills -9 ({dict(fire.kills)}, {fire.amid} while a job ran) over {len(jobs)} jobs "
        f"in {time.perf_counter() - began:.0f} s:\n"
        f"  lost {len(lost)}, not done in the end {len(not_done)}, run again once done {len(fire.again)}, "
        f"files half written {len(parts)}, clips not whole {len(broken)}, database {intact}"
    )
    return not (lost or not_done or fire.again or parts or broken) and intact == "ok"


def _is_whole(data: Path, job: Job) -> bool:
    try:
        with av.open(str(data / job.folder / "clip.mp4")) as clip:
            return sum(1 for _ in clip.decode(video=0)) == job.brief.spec.num_frames
    except (av.FFmpegError, OSError):
        return False


def _is_ours(pid: int) -> bool:
    """Whether that process still is our worker, and not one that got its number since."""
    command = Path(f"/proc/{pid}/cmdline")
    return not Path("/proc").is_dir() or (command.is_file() and b"tests.app.fakes" in command.read_bytes())


def serve_in_background(data: Path) -> subprocess.Popen[bytes]:
    """The studio on any free port."""
    return subprocess.Popen([sys.executable, "-m", "tests.soak", "--serve", str(data)], cwd=ROOT)


def serve(data: Path) -> None:
    """The studio's own server, whose worker has the fake engine."""
    worker = [sys.executable, "-m", "tests.app.fakes", "0.02", "--data", str(data), "--follow"]
    app = build(load(data=data, port=0), worker)
    uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="websockets-sansio")).run()


def main() -> int:
    """All of it; 0 if nothing came to harm."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        fine = [race(Path(folder) / "race"), killing(Path(folder) / "killing", given.kills, given.seed)]
    print("Nothing came to harm." if all(fine) else "SOMETHING CAME TO HARM.")
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
