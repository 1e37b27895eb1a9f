"""Many programs at one studio: ``python -m tests.api_load --seconds 120``; every figure is printed, 1 if one is bad.

Each client submits with a picture, polls to the end, downloads, compares, lists, sometimes cancels, and begins again.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

import httpx
from PIL import Image

from app.jobs import Status
from app.store import JobStore
from tests.pretending import pretending

POLL_SECONDS = 0.5
DRAIN_SECONDS = 600.0
FLAT = 1.5  # at the end the server may hold this many times what it held once warm


@dataclass
class Seen:
    """What the clients saw."""

    took: dict[str, list[float]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    made: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    downloaded: int = 0
    bytes: int = 0


class Program:
    """One client."""

    def __init__(self, number: int, address: str, seen: Seen, picture: bytes) -> None:
        self._number = number
        self._http = httpx.AsyncClient(base_url=f"{address}/v1/", timeout=60)
        self._seen = seen
        self._picture = picture
        self._random = random.Random(number)

    async def run(self, until: float) -> None:
        """Again and again until then; what was begun is brought to its end."""
        turn = 0
        async with self._http:
            while time.monotonic() < until:
                turn += 1
                try:
                    await self._once(turn)
                except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
                    self._seen.errors[f"{type(error).__name__}: {error}"[:200]] += 1

    async def _once(self, turn: int) -> None:
        key = f"client-{self._number}-{turn}"
        form = {"prompt": f"Client {self._number}, turn {turn}.", "num_frames": "5", "num_inference_steps": "2"}
        video = (await self._ask("submit", "POST", "videos", key=key, form=form)).json()
        self._seen.made.add(video["id"])
        if turn % 3 == 0:  # sent once more, as if the answer had been lost
            again = (await self._ask("submit again", "POST", "videos", key=key, form=form)).json()
            assert again["id"] == video["id"], "the key made two videos"
        if turn % 5 == 0:
            await self._ask("cancel", "POST", f"videos/{video['id']}/cancel")
            self._seen.cancelled.add(video["id"])
        deadline = time.monotonic() + DRAIN_SECONDS
        while video["status"] in ("queued", "in_progress"):
            assert time.monotonic() < deadline, "a video never ended"
            await asyncio.sleep(POLL_SECONDS * self._random.uniform(0.5, 1.5))
            video = (await self._ask("poll", "GET", f"videos/{video['id']}")).json()
        if video["status"] == "completed":
            await self._download(video["id"])
        else:
            assert video["id"] in self._seen.cancelled, f"it failed: {video['error']}"
        await self._ask("list", "GET", "videos?limit=20")

    async def _download(self, video_id: str) -> None:
        whole = await self._ask("download", "GET", f"videos/{video_id}/content")
        part = await self._ask("range", "GET", f"videos/{video_id}/content", range_="bytes=100-199")
        assert whole.content[4:8] == b"ftyp", "no clip"
        assert len(whole.content) == int(whole.headers["content-length"]), "not whole"
        assert part.content == whole.content[100:200], "another part"
        self._seen.downloaded += 1
        self._seen.bytes += len(whole.content)

    async def _ask(
        self, name: str, method: str, path: str, *, key: str = "", form: dict[str, str] | None = None, range_: str = ""
    ) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {"Range": range_} if range_ else {}
        files = {"input_reference": ("a.png", self._picture)} if form else None
        began = time.monotonic()
        answer = await self._http.request(method, path, data=form, files=files, headers=headers)
        self._seen.took.setdefault(name, []).append(time.monotonic() - began)
        assert answer.status_code in (200, 206), f"{name}: {answer.status_code} {answer.text[:100]}"
        return answer


def server_of(address: str) -> int:
    """The pid of whoever listens there (Linux)."""
    port = f":{int(address.rsplit(':', 1)[1]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = {row[9] for row in rows if row[1].endswith(port) and row[3] == "0A"}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) == f"socket:[{inode}]":
                return int(link.parts[2])
        except OSError:
            continue
    raise LookupError(f"Nobody listens on {address}.")


def resident(pid: int) -> float:
    """MB of memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


async def load(address: str, clients: int, seconds: float) -> tuple[Seen, list[float]]:
    """All clients at once; what they saw, and the server's memory every second."""
    buffer = io.BytesIO()
    Image.effect_noise((640, 360), 80).save(buffer, "PNG")
    seen, memory, pid = Seen(), list[float](), server_of(address)

    async def watch() -> None:
        while True:
            memory.append(resident(pid))
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    until = time.monotonic() + seconds
    programs = [Program(number, address, seen, buffer.getvalue()) for number in range(clients)]
    await asyncio.gather(*(program.run(until) for program in programs))
    watching.cancel()
    return seen, memory


def main() -> int:
    """Print the figures; 1 if anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.api_load")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        JobStore(data)
        with pretending(data) as address:
            began = time.monotonic()
            seen, memory = asyncio.run(load(address, given.clients, given.seconds))
            lasted = time.monotonic() - began
        return report(seen, memory, JobStore(data), given.clients, lasted)


def report(seen: Seen, memory: list[float], store: JobStore, clients: int, lasted: float) -> int:
    """The figures, and whether they are good."""
    jobs = {job.id: job.status for job in store.history(1_000_000)}
    lost = seen.made - set(jobs)
    extra = set(jobs) - seen.made
    unended = [job for job, status in jobs.items() if status not in (Status.DONE, Status.CANCELLED)]
    requests = sum(map(len, seen.took.values()))
    print(f"{clients} clients, {lasted:.0f} s: {requests} requests, {requests / lasted:.0f} a second")
    print(
        f"videos: {len(seen.made)} made, {seen.downloaded} downloaded ({seen.bytes / 1e6:.1f} MB), "
        f"{len(seen.cancelled)} cancelled; lost {len(lost)}, made twice {len(extra)}, not ended {len(unended)}"
    )
    for name, took in sorted(seen.took.items()):
        cuts = quantiles(took, n=100) if len(took) > 1 else took * 99
        print(
            f"  {name:13} {len(took):6}  median {cuts[49] * 1e3:6.0f} ms  99 % {cuts[98] * 1e3:6.0f} ms  "
            f"longest {max(took) * 1e3:6.0f} ms"
        )
    warm, last = max(memory[: max(len(memory) // 4, 1)]), memory[-1]
    print(
        f"server's memory: {memory[0]:.0f} MB at first, {warm:.0f} MB warm, {max(memory):.0f} MB at most, "
        f"{last:.0f} MB last"
    )
    for said, count in seen.errors.most_common():
        print(f"ERROR ×{count}: {said}")
    bad = bool(seen.errors or lost or extra or unended or last > warm * FLAT)
    print("BAD" if bad else "good: no error, no lost job, memory flat")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
