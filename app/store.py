"""The store: jobs in SQLite and a folder for each, the one thing that the pages, the API and the worker share."""

from __future__ import annotations

import io
import secrets
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel

from app.jobs import FIRST_FRAME, INTERRUPTED, LAST_FRAME, Brief, Draft, Failure, Job, Progress, Status
from mova.picture import open_picture

DATABASE = "studio.db"
BUSY_SECONDS = 30.0  # how long a call waits for another process's write

# What brings an empty file to version 1, version 1 to 2, and so on. Never edit a row that was released: add one.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE jobs (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            position INTEGER NOT NULL,
            status TEXT NOT NULL,
            cancel INTEGER NOT NULL DEFAULT 0,
            brief TEXT NOT NULL,
            draft TEXT NOT NULL,
            progress TEXT,
            failure TEXT,
            created_at REAL NOT NULL,
            started_at REAL,
            finished_at REAL
        )""",
        "CREATE INDEX jobs_by_status ON jobs (status, position)",
    ),
)


class StoreError(Exception):
    """The store cannot be opened; the message names the file and the remedy."""


def draw_seed() -> int:
    """A seed nobody chose, short enough to be written down."""
    return secrets.randbelow(2**32)


class JobStore:
    """The jobs of one data folder. Every method is one short transaction, safe from any process at any time."""

    def __init__(
        self, data: Path, *, clock: Callable[[], float] = time.time, seed: Callable[[], int] = draw_seed
    ) -> None:
        """Open the store, making or migrating its file.

        Raises:
            StoreError: the folder can't be written, or the file is no database or of a newer version.
        """
        self.data = data
        self._clock = clock
        self._seed = seed
        try:
            (data / "jobs").mkdir(parents=True, exist_ok=True)
            with self._connect() as db:
                _migrate(db, data / DATABASE)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"{data / DATABASE} can't be opened ({error}). Check that the folder may be written to, "
                "or choose another one with --data."
            ) from error

    def submit(self, brief: Brief, *, first_frame: bytes | None = None, last_frame: bytes | None = None) -> Job:
        """Queue a job. Uploaded frames are copied into its folder, upright, as PNG.

        Raises:
            PictureError: an upload is no picture that can be used.
        """
        job_id = uuid.uuid4().hex
        for name, field, upload in ((FIRST_FRAME, "first_frame", first_frame), (LAST_FRAME, "last_frame", last_frame)):
            if upload is not None:
                path = f"jobs/{job_id}/{name}"
                _keep_picture(upload, self.data / path)
                brief = brief.model_copy(update={field: path})
        if brief.random_seed:
            brief = brief.model_copy(update={"spec": brief.spec.model_copy(update={"seed": self._seed()})})
        draft = Draft(first_frame=brief.first_frame, prompt=brief.prompt)
        row = self._one(
            """INSERT INTO jobs (id, position, status, brief, draft, created_at)
               VALUES (?, (SELECT COALESCE(MAX(position), 0) + 1 FROM jobs), ?, ?, ?, ?) RETURNING *""",
            (job_id, Status.QUEUED, brief.model_dump_json(), draft.model_dump_json(), self._clock()),
        )
        assert row is not None
        return _job(row)

    def get(self, job_id: str) -> Job | None:
        """The job, or None if there is none of that id."""
        row = self._one("SELECT * FROM jobs WHERE id = ?", (job_id,))
        return _job(row) if row else None

    def history(self, limit: int = 50) -> list[Job]:
        """The jobs submitted last, newest first."""
        with self._connect() as db:
            return [_job(row) for row in db.execute("SELECT * FROM jobs ORDER BY number DESC LIMIT ?", (limit,))]

    def ahead(self, job_id: str) -> int:
        """How many jobs run before this queued one."""
        row = self._one(
            """SELECT COUNT(*) AS ahead FROM jobs WHERE status = 'running' OR
               (status = 'queued' AND position < (SELECT position FROM jobs WHERE id = ?))""",
            (job_id,),
        )
        return int(row["ahead"]) if row else 0

    def cancel(self, job_id: str) -> None:
        """Cancel a queued job at once, a running one at its next step; anything else stays as it is."""
        self._one(
            """UPDATE jobs SET cancel = 1,
                   finished_at = CASE status WHEN 'queued' THEN ? ELSE finished_at END,
                   status = CASE status WHEN 'queued' THEN 'cancelled' ELSE status END
               WHERE id = ? AND status IN ('queued', 'running') RETURNING id""",
            (self._clock(), job_id),
        )

    def requeue(self, job_id: str) -> None:
        """Put a job that ended without a clip at the end of the queue; what its draft holds stays."""
        self._one(
            """UPDATE jobs SET status = 'queued', cancel = 0, progress = NULL, failure = NULL, started_at = NULL,
                   finished_at = NULL, position = (SELECT MAX(position) + 1 FROM jobs)
               WHERE id = ? AND status IN ('failed', 'cancelled', 'interrupted') RETURNING id""",
            (job_id,),
        )

    def claim(self) -> Job | None:
        """Take the first queued job, as the only one to do so; None if the queue is empty."""
        row = self._one(
            """UPDATE jobs SET status = 'running', started_at = ?, finished_at = NULL
               WHERE number = (SELECT number FROM jobs WHERE status = 'queued' ORDER BY position LIMIT 1)
               RETURNING *""",
            (self._clock(),),
        )
        return _job(row) if row else None

    def report(self, job_id: str, progress: Progress) -> bool:
        """Note how far a running job is; True if it is to stop: cancelled, or no longer this worker's."""
        row = self._one(
            "UPDATE jobs SET progress = ? WHERE id = ? AND status = 'running' RETURNING cancel",
            (progress.model_dump_json(), job_id),
        )
        return row is None or bool(row["cancel"])

    def save(self, job_id: str, draft: Draft) -> None:
        """Keep what a finished stage has filled in."""
        self._one("UPDATE jobs SET draft = ? WHERE id = ? RETURNING id", (draft.model_dump_json(), job_id))

    def close(self, job_id: str, status: Status, failure: Failure | None = None) -> None:
        """End a running job."""
        self._one(
            """UPDATE jobs SET status = ?, failure = ?, finished_at = ?
               WHERE id = ? AND status = 'running' RETURNING id""",
            (status, failure.model_dump_json() if failure else None, self._clock(), job_id),
        )

    def recover(self) -> list[str]:
        """Close what a dead worker left running, and drop its half-written files; the ids.

        Only for a worker that holds the folder's lock: nobody else can be running anything then.
        """
        with self._connect() as db:
            rows = db.execute(
                """UPDATE jobs SET finished_at = ?, failure = CASE cancel WHEN 1 THEN NULL ELSE ? END,
                       status = CASE cancel WHEN 1 THEN 'cancelled' ELSE 'interrupted' END
                   WHERE status = 'running' RETURNING id""",
                (self._clock(), INTERRUPTED.model_dump_json()),
            ).fetchall()
        for row in rows:
            for part in (self.data / "jobs" / row["id"]).glob("*.part"):
                part.unlink(missing_ok=True)
        return [row["id"] for row in rows]

    def _one(self, statement: str, values: tuple[Any, ...]) -> sqlite3.Row | None:
        with self._connect() as db:
            rows: list[sqlite3.Row] = db.execute(statement, values).fetchall()
        return rows[0] if rows else None

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        # isolation_level None: each statement is its own transaction, and takes its locks when it runs.
        with closing(sqlite3.connect(self.data / DATABASE, timeout=BUSY_SECONDS, isolation_level=None)) as db:
            db.row_factory = sqlite3.Row
            yield db


def _migrate(db: sqlite3.Connection, file: Path) -> None:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{file} was written by a newer studio (schema {version}, this one knows {len(MIGRATIONS)}). "
            "Update the studio, or choose another folder with --data."
        )
    if version == len(MIGRATIONS):
        return
    with FileLock(file.with_name("studio.lock")):  # SQLite doesn't wait its turn to switch to WAL: it fails
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]  # another process may have been quicker
        for statement in (statement for statements in MIGRATIONS[version:] for statement in statements):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")


def _keep_picture(upload: bytes, target: Path) -> None:
    buffer = io.BytesIO()
    open_picture(upload).save(buffer, "PNG", compress_level=1)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.write_bytes(buffer.getvalue())
    part.replace(target)  # so that a half-written file is never seen


def _job(row: sqlite3.Row) -> Job:
    def value(model: type[BaseModel], column: str) -> Any:
        return model.model_validate_json(row[column]) if row[column] else None

    return Job(
        id=row["id"],
        status=Status(row["status"]),
        cancel=bool(row["cancel"]),
        brief=value(Brief, "brief"),
        draft=value(Draft, "draft"),
        progress=value(Progress, "progress"),
        failure=value(Failure, "failure"),
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )
