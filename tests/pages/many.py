"""How the pages bear many jobs and many visits: ``python -m tests.pages.many`` prints the figures.

python -m tests.pages.many            2,000 jobs: milliseconds of server time for each page
python -m tests.pages.many --loads    500 page loads with playing clips: the server's memory before and after
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock
from playwright.sync_api import Page, sync_playwright

from app.jobs import FIRST_FRAME, Job, Status
from app.store import JobStore
from app.workflow import CLIP, POSTER
from tests.app.conftest import picture
from tests.app.fakes import write_clip
from tests.pages import stage
from tests.studio import studio

JOBS, WAITING = 2000, 40
TIMES = 7
LOADS = 500
PAGES = ("create", "queue", "gallery", "clip", "settings")


def fill(store: JobStore, jobs: int, waiting: int = 0) -> Job:
    """That many jobs with a clip, as a year of work leaves them, and some that wait; the last with a clip."""
    for number in range(jobs - waiting):
        status = (Status.FAILED, Status.CANCELLED, Status.INTERRUPTED)[number % 3]
        if number % 8 == 7:
            stage.ended(store, status, f"Clip {number} came to nothing.", stage.FAILURE if number % 3 == 0 else None)
        else:
            last = stage.finished(store, f"Clip {number}: a gull lands on a pier. It cries.", portrait=number % 5 == 0)
    if waiting:
        stage.running(store)
        for number in range(waiting - 1):
            store.submit(stage.brief(f"Waits {number}."))
    return last


def measure_time() -> None:
    """Milliseconds in which each page's script answers: the median, and the slowest."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STUDIO_DATA"] = folder
        store = JobStore(Path(folder))
        clip = fill(store, JOBS, WAITING)
        for job in store.history(JOBS):
            (store.data / job.folder).mkdir(parents=True, exist_ok=True)
            for name in (CLIP, POSTER, FIRST_FRAME, "job.log"):
                (store.data / job.folder / name).write_bytes(b"0")
        print(f"{JOBS} jobs, {WAITING} of them in the queue; {TIMES} visits of each page, milliseconds:")
        for name in PAGES:
            params = {"job": clip.id} if name == "clip" else {}
            seconds = []
            for _ in range(TIMES):
                began = time.perf_counter()
                stage.visit(name, **params)
                seconds.append(time.perf_counter() - began)
            first, *rest = seconds
            print(f"  {name:10} median {1000 * statistics.median(rest):5.0f}   first {1000 * first:5.0f}", end="")
            print(f"   slowest of the others {1000 * max(rest):5.0f}")


def measure_memory(loads: int) -> None:
    """The server's resident memory over many page loads in a real browser, while clips play."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        store = JobStore(data)
        clip = write_files(store, fill(store, 60))
        with FileLock(data / "worker.lock"), studio(data) as address, sync_playwright() as playwright:
            server = _listener(address)
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            for number in range(loads):
                if number in (0, 50) or (number + 1) % 50 == 0:
                    print(f"  after {number:4} loads: {_resident(server) >> 20} MiB", flush=True)
                page = browser.new_page()
                visit(page, address, ("", "queue", "gallery", f"clip?job={clip.id}")[number % 4])
                page.close()
            gc.collect()
            time.sleep(5)
            print(f"  after {loads:4} loads: {_resident(server) >> 20} MiB")
            browser.close()


def write_files(store: JobStore, last: Job) -> Job:
    """Give every finished job a poster and a clip of 10 MB that can be played."""
    clip = store.data / CLIP
    write_clip(clip, 256, 144, 25, 12)
    with clip.open("ab") as stream:  # a box that players pass over, so that the file is large
        stream.write((10 << 20).to_bytes(4, "big") + b"free" + bytes((10 << 20) - 8))
    for job in store.history(100):
        if job.draft.clip:
            folder = store.data / job.folder
            folder.mkdir(parents=True, exist_ok=True)
            os.link(clip, folder / CLIP)
            (folder / POSTER).write_bytes(picture(256, 144, "teal", "WEBP"))
    return last


def visit(page: Page, address: str, path: str) -> None:
    page.goto(f"{address}/{path}")
    page.get_by_role("heading", level=1).first.wait_for()
    if path.startswith("clip"):
        page.locator("video").wait_for()
        page.locator("video").evaluate("video => { video.muted = true; return video.play(); }")
        page.wait_for_function("document.querySelector('video').currentTime > 0.2")


def _listener(address: str) -> int:
    """The process that listens on that address (Linux)."""
    port = f":{int(address.rsplit(':', 1)[1]):04X}"
    rows = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    inode = next(row.split()[9] for row in rows if row.split()[1].endswith(port) and row.split()[3] == "0A")
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) == f"socket:[{inode}]":
                return int(link.parts[2])
        except OSError:  # not ours to look at, or gone
            continue
    raise SystemExit(f"Nothing listens on {address}.")


def _resident(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) << 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pages.many", description=__doc__)
    parser.add_argument("--loads", nargs="?", type=int, const=LOADS, help="measure memory over page loads instead")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    if given.loads:
        measure_memory(given.loads)
    else:
        measure_time()
    return 0


if __name__ == "__main__":
    sys.exit(main())
