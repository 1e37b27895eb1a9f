"""The worker's side of the store: take a job, tell how it goes, end it; and close what a dead worker left."""

from __future__ import annotations

import sqlite3
from statistics import median

from app import estimates, shelf
from app.jobs import (
    HUNG,
    INTERRUPTED,
    Brief,
    Draft,
    Failure,
    Job,
    Kind,
    Machine,
    Progress,
    Status,
    Step,
    Version,
    Worker,
)
from app.records import COLUMNS, HERE, KEEP, SELECT, Records, to_job
from app.schema import transaction

RUNS = 9  # how many of the last runs an estimate is made from

_SIZED = ("checkpoint", "width", "height", "num_frames")
_CLIP = (*_SIZED, "offload", "preset")
_NEXT = f"""SELECT number FROM jobs WHERE status = 'queued' AND {HERE}
    AND NOT EXISTS (SELECT 1 FROM studio WHERE name = 'mode') ORDER BY position LIMIT 1"""  # 'mode': paused, finishing


# What the end of a worker has interrupted while a server made it: the server goes on, and the next worker fetches it.
# But not where the worker may have died of the clip itself: of that, a worker that was told to end says nothing.
_PICK_UP = f"""UPDATE jobs SET status = 'queued', failure = NULL, finished_at = NULL, reported_at = NULL
    WHERE status = 'interrupted' AND json_extract(failure, '$.kind') = ? AND {HERE}
        AND json_extract(draft, '$.remote') IS NOT NULL AND (json_extract(failure, '$.kind') = '{Kind.CLOSED}'
            OR COALESCE(json_extract(progress, '$.phase'), '') <> 'writing')"""


class Claims(Records):
    """What a worker does with the jobs of a data folder."""

    def claim(self) -> Job | None:
        """Take the first queued job, as the only one to do so; None if there is none, or if the queue is paused."""
        if self._one(_NEXT) is None:  # a look costs no lock
            return None
        row = self._one(
            f"""UPDATE jobs SET status = 'running', started_at = ?, reported_at = ?, finished_at = NULL
                WHERE number = ({_NEXT}) RETURNING {COLUMNS}""",
            (now := self._clock(), now),
        )
        return to_job(row) if row else None

    def report(self, job_id: str, progress: Progress, machine: Machine | None = None) -> bool:
        """Note how far a running job is; True if it is to stop: cancelled, or no longer this worker's."""
        row = self._one(
            """UPDATE jobs SET progress = ?, machine = COALESCE(?, machine), reported_at = ?
               WHERE id = ? AND status = 'running' RETURNING cancel""",
            (progress.model_dump_json(), machine and machine.model_dump_json(), self._clock(), job_id),
        )
        return row is None or bool(row["cancel"])

    def save(self, job_id: str, draft: Draft, made: Version | None = None) -> None:
        """Keep what is known of a job so far, and what a step has just brought about."""
        with self._connect() as db, transaction(db):
            db.execute(  # one that its creator has taken back meanwhile has a draft of its own
                "UPDATE jobs SET draft = ? WHERE id = ? AND status IN ('running', 'queued')",
                (draft.model_dump_json(), job_id),
            )
            if made:
                keep_version(db, job_id, made)

    def close(self, job_id: str, status: Status, failure: Failure | None = None) -> None:
        """End a running job. What a done one took is kept for estimates."""
        with self._connect() as db, transaction(db):
            row = db.execute(
                """UPDATE jobs SET status = ?, failure = ?, finished_at = ?
                   WHERE id = ? AND status = 'running' RETURNING id""",
                (status, failure.model_dump_json() if failure else None, self._clock(), job_id),
            ).fetchone()
            if status is Status.INTERRUPTED and failure:
                db.execute(_PICK_UP, (failure.kind,))
            if row and status is Status.DONE:
                _keep_timings(db, to_job(db.execute(f"{SELECT} WHERE id = ?", (job_id,)).fetchone()))

    def recover(self) -> list[str]:
        """Close what a dead worker left running, and drop its half-written files; the ids.

        What a server was asked for waits in its place in the queue again, to be fetched. Only for a worker that holds
        the folder's lock: nobody else can be running anything then.
        """
        with self._connect() as db, transaction(db):
            failure = HUNG if _end_is_wanted(db) else INTERRUPTED
            rows = db.execute(
                """UPDATE jobs SET finished_at = ?, failure = CASE cancel WHEN 1 THEN NULL ELSE ? END,
                       status = CASE cancel WHEN 1 THEN 'cancelled' ELSE 'interrupted' END
                   WHERE status = 'running' RETURNING id""",
                (self._clock(), failure.model_dump_json()),
            ).fetchall()
            if failure is INTERRUPTED:
                db.execute(_PICK_UP, (INTERRUPTED.kind,))
            db.execute("DELETE FROM studio WHERE name IN ('worker', 'end')")
        shelf.drop_parts(self.data)
        return [row["id"] for row in rows]

    def present(self, worker: Worker | None) -> None:
        """Note which process the worker is, what it is on and what it holds; None: there is none any more."""
        if worker is None:
            self._one("DELETE FROM studio WHERE name = 'worker' RETURNING name")
        else:
            self._one(f"{KEEP} RETURNING name", ("worker", worker.model_dump_json()))

    def take_free(self) -> bool:
        """Whether the engine is to be freed; asking answers the wish."""
        if self._kept("free") is None:
            return False
        return self._one("DELETE FROM studio WHERE name = 'free' RETURNING name") is not None

    def ending(self) -> Worker | None:
        """The worker that somebody wants killed; None if nobody does, or if it has moved on since."""
        with self._connect() as db:
            return Worker.model_validate_json(wanted) if (wanted := _end_is_wanted(db)) else None

    def _job(self, job_id: str) -> Job | None:
        row = self._one(f"{SELECT} WHERE id = ?", (job_id,))
        return to_job(row) if row else None


def keep_version(db: sqlite3.Connection, job_id: str, version: Version) -> None:
    """Keep what a step of this job has brought about, or what its creator wrote instead."""
    db.execute(
        "INSERT INTO versions (job, step, version) VALUES (?, ?, ?)", (job_id, version.step, version.model_dump_json())
    )


def recent_timings(
    db: sqlite3.Connection, clip: estimates.Clip, device: str | None = None, plan: str | None = None
) -> estimates.Timings | None:
    """What the last runs of such a clip took, on that device or the latest, by that plan or the latest."""
    rows = db.execute(
        f"""SELECT offload, preset, plan, device, timings FROM timings WHERE ({", ".join(_SIZED)}) = (?, ?, ?, ?)
            ORDER BY number DESC LIMIT 200""",
        clip[:4],
    ).fetchall()
    rows = _alike(rows, clip, plan)
    device = device or (rows[0]["device"] if rows else None)
    runs = [estimates.Timings.model_validate_json(row["timings"]) for row in rows if row["device"] == device]
    return estimates.typical(runs[:RUNS])


def plans_measured(db: sqlite3.Connection, clip: estimates.Clip) -> dict[str, estimates.Timings]:
    """Key of a plan -> what the last runs by it took, for clips of this checkpoint and size."""
    rows = db.execute(
        f"""SELECT plan, timings FROM timings WHERE ({", ".join(_SIZED)}) = (?, ?, ?, ?) AND plan <> ''
            ORDER BY number DESC LIMIT 200""",
        clip[:4],
    ).fetchall()
    runs: dict[str, list[estimates.Timings]] = {}
    for row in rows:
        runs.setdefault(row["plan"], []).append(estimates.Timings.model_validate_json(row["timings"]))
    return {plan: found for plan, each in runs.items() if (found := estimates.typical(each[:RUNS]))}


def agents_seconds(db: sqlite3.Connection, brief: Brief, draft: Draft) -> float | None:
    """What the steps that are still blank took lately, by the same models; None: one was never measured."""
    total = 0.0
    for step in brief.steps:
        needless = step is Step.IMAGE_PROMPT and draft.first_frame is not None
        if brief.full is None or needless or draft.of(step) is not None:
            continue
        rows = db.execute(
            """SELECT json_extract(version, '$.seconds') AS seconds FROM versions
               WHERE step = ? AND json_extract(version, '$.model') = ? ORDER BY number DESC LIMIT ?""",
            (step, brief.full.models.get(step), RUNS),
        ).fetchall()
        if not rows:
            return None
        total += median(row["seconds"] for row in rows)
    return total


def _alike(rows: list[sqlite3.Row], clip: estimates.Clip, plan: str | None) -> list[sqlite3.Row]:
    """Those of these runs, newest first, that tell of that plan; else of one that was asked for in the same words.

    Runs from before there were plans have none: they tell of the mode that they were asked for, and of *auto* for as
    long as nothing else does.
    """
    if plan and (same := [row for row in rows if row["plan"] == plan]):
        return same
    same = [row for row in rows if (row["offload"], row["preset"]) == (clip.offload, clip.preset)]
    if plan:
        return [row for row in same if not row["plan"]]
    if not same and clip.offload == "auto":
        same = [row for row in rows if not row["plan"] and row["preset"] == clip.preset]
    return [row for row in same if (row["offload"], row["plan"]) == (same[0]["offload"], same[0]["plan"])]


def _keep_timings(db: sqlite3.Connection, job: Job) -> None:
    timings = estimates.measured(job.progress, job.brief)
    if timings is None or job.device is None:
        return
    db.execute(
        f"INSERT INTO timings ({', '.join(_CLIP)}, device, plan, timings) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*estimates.clip_of(job.brief), job.device, job.plan or "", timings.model_dump_json()),
    )


def _end_is_wanted(db: sqlite3.Connection) -> str | None:
    """The wish names the worker as it was: one that has gone on to another job isn't meant."""
    row = db.execute(
        "SELECT value FROM studio WHERE name = 'end' AND value = (SELECT value FROM studio WHERE name = 'worker')"
    ).fetchone()
    return str(row["value"]) if row else None
