"""The store: jobs in SQLite and a folder for each, the one thing that the pages, the API and the worker share."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from app import estimates, shelf
from app.claims import agents_seconds, plans_measured, recent_timings
from app.intake import Intake, Ticket, keep_ticket, known
from app.jobs import FIRST_FRAME, LAST_FRAME, Brief, Draft, Found, Job, Mode, Place, Status, Wanted, Worker
from app.records import BUSY_SECONDS, HERE, KEEP, SELECT, to_job
from app.revisions import FIRST, LAST
from app.schema import DATABASE, MIGRATIONS, StoreBusy, StoreError, transaction
from mova.spec import MAX_SEED, ClipSpec

__all__ = ["BUSY_SECONDS", "DATABASE", "MIGRATIONS", "JobStore", "StoreBusy", "StoreError"]

LOG = "job.log"

_WAITING = f"status = 'queued' AND {HERE}"


def draw_seed() -> int:
    """A seed nobody chose, short enough to be written down."""
    return secrets.randbelow(2**32)


class JobStore(Intake):
    """The jobs of one data folder. Every method is one short transaction, safe from any process at any time.

    Any of them may raise ``StoreError``: a disk that is full, a file that another program holds.
    """

    def __init__(
        self,
        data: Path,
        *,
        clock: Callable[[], float] = time.time,
        seed: Callable[[], int] = draw_seed,
        patience: float = BUSY_SECONDS,
    ) -> None:
        """Open the store as ``Records`` does. ``seed`` draws those that are left open."""
        super().__init__(data, clock=clock, patience=patience)
        self._seed = seed

    # What creators do with jobs

    def submit(
        self,
        brief: Brief,
        *,
        first_frame: bytes | None = None,
        last_frame: bytes | None = None,
        takes: int = 1,
        ticket: Ticket | None = None,
    ) -> Job:
        """Queue a job for each take, and give the first. Each has a copy of the frames, upright, as PNG.

        An upload goes before a path in the brief, which may name any picture of the data folder. An open seed is drawn
        for each take; a given one is that of the first take, and each other has the next. A ``ticket`` that was
        queued before gives its job again, and queues nothing.

        Raises:
            PictureError: a frame is no picture that can be used.
            KeyReused: the ticket's key was another order's.
        """
        uploads = {"first_frame": (FIRST_FRAME, first_frame), "last_frame": (LAST_FRAME, last_frame)}
        made: list[tuple[str, Brief]] = []
        try:
            for take in range(takes):
                job_id = uuid.uuid4().hex
                made.append((job_id, brief))
                changes: dict[str, Any] = {"spec": self._seeded(brief, take)}
                for field, (name, upload) in uploads.items():
                    path = getattr(brief, field)
                    if upload is not None or path is not None:
                        source = self.data / path if upload is None else upload
                        changes[field] = f"{shelf.JOBS}/{job_id}/{name}"
                        shelf.keep_picture(source, self.data / changes[field])
                made[-1] = (job_id, brief.model_copy(update=changes))
            job = self._queue(made, ticket)
        except BaseException:
            shelf.drop_folders(self.data, [job_id for job_id, _ in made])
            raise
        if job.id != made[0][0]:
            shelf.drop_folders(self.data, [job_id for job_id, _ in made])
        return job

    def get(self, job_id: str) -> Job | None:
        """The job, deleted or not; None if there is none of that id."""
        return self._job(job_id)

    def find(self, wanted: Wanted, page: int = 1, per_page: int = 24) -> Found:
        """One page (from 1) of the jobs that are wanted and not deleted, newest first."""
        where, values = _condition(wanted)
        with self._connect() as db:
            total = db.execute(f"SELECT COUNT(*) FROM jobs WHERE {where}", values).fetchone()[0]
            rows = db.execute(
                f"{SELECT} WHERE {where} ORDER BY number DESC LIMIT ? OFFSET ?",
                (*values, per_page, (max(page, 1) - 1) * per_page),
            )
            return Found(jobs=tuple(to_job(row) for row in rows), total=total)

    def queue(self) -> list[Job]:
        """What runs, then what waits, in the order in which it will run."""
        rows = self._all(
            f"{SELECT} WHERE status IN ('running', 'queued') AND {HERE} ORDER BY status = 'queued', position"
        )
        return [to_job(row) for row in rows]

    def history(self, limit: int = 50) -> list[Job]:
        """The jobs submitted last and not deleted, newest first."""
        rows = self._all(f"{SELECT} WHERE {HERE} ORDER BY number DESC LIMIT ?", (limit,))
        return [to_job(row) for row in rows]

    def ahead(self, job_id: str) -> int:
        """How many jobs run before this queued one."""
        row = self._one(
            f"""SELECT COUNT(*) AS ahead FROM jobs WHERE status = 'running' OR (status = 'queued' AND {HERE}
                AND position < (SELECT position FROM jobs WHERE id = ?))""",
            (job_id,),
        )
        return int(row["ahead"]) if row else 0

    def cancel(self, job_id: str) -> None:
        """Cancel a job that waits at once, a running one at its next step; anything else stays as it is."""
        self._one(
            """UPDATE jobs SET cancel = 1,
                   finished_at = CASE status WHEN 'running' THEN finished_at ELSE ? END,
                   status = CASE status WHEN 'running' THEN status ELSE 'cancelled' END
               WHERE id = ? AND status IN ('queued', 'running', 'review') RETURNING id""",
            (self._clock(), job_id),
        )

    def requeue(self, job_id: str) -> None:
        """Put a job that ended without a clip at the end of the queue; what its draft holds stays."""
        self._one(
            f"""UPDATE jobs SET status = 'queued', cancel = 0, progress = NULL, failure = NULL, started_at = NULL,
                   reported_at = NULL, finished_at = NULL, position = {LAST}
               WHERE id = ? AND status IN ('failed', 'cancelled', 'interrupted') AND {HERE} RETURNING id""",
            (job_id,),
        )

    def delete(self, job_id: str) -> None:
        """Take a job out of sight, to be restored or purged; a running one is cancelled, a queued one won't run."""
        self._one(
            f"""UPDATE jobs SET deleted_at = ?, cancel = CASE status WHEN 'running' THEN 1 ELSE cancel END
                WHERE id = ? AND {HERE} RETURNING id""",
            (self._clock(), job_id),
        )

    def restore(self, job_id: str) -> None:
        """Undo a delete; a queued job is back in its place, one that ran stays cancelled."""
        self._one("UPDATE jobs SET deleted_at = NULL WHERE id = ? RETURNING id", (job_id,))

    def star(self, job_id: str, on: bool) -> None:
        """Mark a job, or take the mark away."""
        self._one("UPDATE jobs SET starred = ? WHERE id = ? RETURNING id", (on, job_id))

    def move(self, job_id: str, to: Place) -> None:
        """Change when a queued job runs; any other stays as it is."""
        with self._connect() as db, transaction(db):
            row = db.execute(f"SELECT position FROM jobs WHERE id = ? AND {_WAITING}", (job_id,)).fetchone()
            if row is None:
                return
            if to in ("first", "last"):
                end = FIRST if to == "first" else LAST
                db.execute(f"UPDATE jobs SET position = {end} WHERE id = ?", (job_id,))
                return
            side = "< ? ORDER BY position DESC" if to == "up" else "> ? ORDER BY position"
            neighbour = db.execute(
                f"SELECT id, position FROM jobs WHERE {_WAITING} AND position {side} LIMIT 1", (row["position"],)
            ).fetchone()
            if neighbour:
                places = ((neighbour["position"], job_id), (row["position"], neighbour["id"]))
                db.executemany("UPDATE jobs SET position = ? WHERE id = ?", places)

    # The queue as a whole

    def mode(self) -> Mode:
        """Whether jobs are taken."""
        row = self._one(
            "SELECT value, EXISTS (SELECT 1 FROM jobs WHERE status = 'running') AS busy FROM studio WHERE name = 'mode'"
        )
        if row is None:
            return Mode.RUNNING
        return Mode.FINISHING if row["value"] == Mode.FINISHING and row["busy"] else Mode.PAUSED

    def pause_after(self) -> None:
        """Take no more jobs; the one that runs goes on to its end."""
        self._one(f"{KEEP} RETURNING name", ("mode", Mode.FINISHING))

    def pause_now(self) -> None:
        """Take no more jobs, put the one that runs back to the front of the queue, and have the engine freed."""
        with self._connect() as db, transaction(db):
            db.executemany(KEEP, (("mode", Mode.PAUSED), ("free", "1")))
            running = db.execute("SELECT id FROM jobs WHERE status = 'running' ORDER BY position DESC").fetchall()
            for row in running:
                db.execute(
                    f"""UPDATE jobs SET finished_at = CASE cancel WHEN 1 THEN ? END, position = {FIRST},
                            status = CASE cancel WHEN 1 THEN 'cancelled' ELSE 'queued' END,
                            progress = NULL, started_at = NULL, reported_at = NULL
                        WHERE id = ?""",
                    (self._clock(), row["id"]),
                )

    def resume(self) -> None:
        """Take jobs again."""
        self._all("DELETE FROM studio WHERE name IN ('mode', 'free') RETURNING name")

    def free_engine(self) -> None:
        """Have the worker give the device's memory back as soon as it is idle."""
        self._one(f"{KEEP} RETURNING name", ("free", "1"))

    def end_worker(self) -> None:
        """Ask that the worker, as it now is, be killed; the studio's supervisor does it."""
        self._one("INSERT OR REPLACE INTO studio SELECT 'end', value FROM studio WHERE name = 'worker' RETURNING name")

    def worker(self) -> Worker | None:
        """The worker as it last said of itself; whether it lives, ``app.worker.is_running`` knows."""
        said = self._kept("worker")
        return Worker.model_validate_json(said) if said else None

    def purge(self, older_than_seconds: float) -> list[str]:
        """Remove for good what was deleted that long ago, and folders that belong to no job; the ids."""
        with self._connect() as db:
            rows = db.execute(
                "DELETE FROM jobs WHERE deleted_at <= ? AND status <> 'running' RETURNING id",
                (self._clock() - older_than_seconds,),
            ).fetchall()
            known = {row["id"] for row in db.execute("SELECT id FROM jobs")}
            db.execute("DELETE FROM versions WHERE job NOT IN (SELECT id FROM jobs)")
        purged = [row["id"] for row in rows]
        shelf.drop_folders(self.data, [*purged, *shelf.strays(self.data, known)])
        return purged

    # The Create form between two visits

    def keep_form(self, content: dict[str, Any]) -> None:
        """Keep what the Create form holds."""
        self._one(f"{KEEP} RETURNING name", ("form", json.dumps(content, ensure_ascii=False)))

    def form(self) -> dict[str, Any]:
        """What the Create form held last; empty if nothing was kept."""
        content = json.loads(self._kept("form") or "{}")
        return content if isinstance(content, dict) else {}

    def keep_upload(self, name: str, data: bytes) -> str:
        """Keep a picture of the form's, upright, as PNG; its path, relative to the data folder.

        Raises:
            PictureError: it can't be used.
        """
        path = shelf.draft_path(name)
        shelf.keep_picture(data, self.data / path)
        return path

    def drop_upload(self, name: str) -> None:
        """Forget a picture of the form's."""
        (self.data / shelf.draft_path(name)).unlink(missing_ok=True)

    # What is known about time and disk

    def timings(
        self, clip: estimates.Clip, device: str | None = None, plan: str | None = None
    ) -> estimates.Timings | None:
        """What the last runs of such a clip took: any steps and guidance.

        Without a device on the one used last; by the plan of that key, or without one by the plan used last.
        """
        with self._connect() as db:
            return recent_timings(db, clip, device, plan)

    def expected(self, brief: Brief, plan: str | None = None) -> estimates.Timings | None:
        """What making this from the beginning takes, as far as every part of it was measured before."""
        with self._connect() as db:
            known = recent_timings(db, estimates.clip_of(brief), plan=plan)
            agents = agents_seconds(db, brief, Draft(first_frame=brief.first_frame))
        return None if known is None or agents is None else known.model_copy(update={"agents": agents})

    def measured_plans(self, brief: Brief) -> dict[str, dict[str, float]]:
        """Key of a plan -> phase, or ``step`` for one of denoising -> the seconds that it took for such clips."""
        with self._connect() as db:
            found = plans_measured(db, estimates.clip_of(brief))
        return {plan: estimates.by_phase(timings, brief.spec) for plan, timings in found.items()}

    def last_attention(self) -> str | None:
        """The attention kernel of the job that was run last by this machine's engine."""
        row = self._one(
            """SELECT json_extract(machine, '$.attention') AS kernel FROM jobs
               WHERE json_extract(machine, '$.attention') IS NOT NULL ORDER BY started_at DESC LIMIT 1"""
        )
        return str(row["kernel"]) if row else None

    def finish_times(self, now: float | None = None) -> dict[str, float | None]:
        """When each job of the queue will be done (seconds since the epoch); None: not known yet, or paused."""
        jobs, mode = self.queue(), self.mode()
        going = [job for job in jobs if job.status is Status.RUNNING or mode is Mode.RUNNING]
        with self._connect() as db:

            @lru_cache
            def of_clip(clip: estimates.Clip, plan: str | None) -> estimates.Timings | None:
                return recent_timings(db, clip, plan=plan)

            def of_job(job: Job) -> estimates.Timings | None:
                by = job.plan if job.status is Status.RUNNING else None  # the next one may be another
                known = of_clip(estimates.clip_of(job.brief), by)
                agents = agents_seconds(db, job.brief, job.draft)
                return None if known is None or agents is None else known.model_copy(update={"agents": agents})

            known = estimates.finish_times(going, of_job, self._clock() if now is None else now)
        return {job.id: known.get(job.id) for job in jobs}

    def usage(self) -> dict[str, int]:
        """Bytes on disk by what: clips, uploads, database, logs, checkpoints, deleted."""
        with self._connect() as db:
            deleted = {row["id"] for row in db.execute("SELECT id FROM jobs WHERE deleted_at IS NOT NULL")}
        return shelf.sizes(self.data, deleted)

    def log(self, job_id: str, lines: int = 200) -> str:
        """The end of what the worker noted while it made this job."""
        file = self.data / shelf.JOBS / job_id / LOG
        if not (job_id.isalnum() and file.is_file()):
            return ""
        with file.open(encoding="utf-8", errors="replace") as stream:
            return "".join(deque(stream, maxlen=lines))

    def _seeded(self, brief: Brief, take: int) -> ClipSpec:
        seed = self._seed() if brief.random_seed else (brief.spec.seed + take) % (MAX_SEED + 1)
        return brief.spec.model_copy(update={"seed": seed})

    def _queue(self, made: list[tuple[str, Brief]], ticket: Ticket | None) -> Job:
        with self._connect() as db, transaction(db):
            if ticket and (before := known(db, ticket)):
                return before
            if ticket:
                keep_ticket(db, ticket, made[0][0])
            for job_id, brief in made:
                draft = Draft(first_frame=brief.first_frame, prompt=None if brief.full else brief.prompt)
                db.execute(
                    f"""INSERT INTO jobs (id, position, status, brief, draft, created_at)
                        VALUES (?, {LAST}, 'queued', ?, ?, ?)""",
                    (job_id, brief.model_dump_json(), draft.model_dump_json(), self._clock()),
                )
            return to_job(db.execute(f"{SELECT} WHERE id = ?", (made[0][0],)).fetchone())


def _condition(wanted: Wanted) -> tuple[str, tuple[Any, ...]]:
    clauses: list[str] = [HERE]
    values: list[Any] = []
    if wanted.states:
        clauses.append(f"status IN ({', '.join('?' * len(wanted.states))})")
        values += wanted.states
    if wanted.starred:
        clauses.append("starred = 1")
    if wanted.orientation:
        clauses.append("portrait = ?")
        values.append(wanted.orientation == "portrait")
    for word in wanted.text.casefold().split():
        clauses.append("instr(folded(prompt), ?) > 0")
        values.append(word)
    return " AND ".join(clauses), tuple(values)
