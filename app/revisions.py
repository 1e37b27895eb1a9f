"""What creators do with a job's steps: read every version, write one themselves, choose another, run on from there."""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app import shelf
from app.claims import Claims, keep_version
from app.jobs import BLANKS, CLOSED, INTERRUPTED, Brief, Draft, Job, Status, Step, Version
from app.records import HERE, SELECT, Model, to_job
from app.schema import transaction

# The position that a queued job gets at either end.
FIRST, LAST = "(SELECT MIN(position) - 1 FROM jobs)", "(SELECT COALESCE(MAX(position), 0) + 1 FROM jobs)"
COPIED = ("*.png",)  # what a copy of a finished job needs of its folder

Change = Callable[[Brief, Draft], tuple[Brief, Draft]]


class Revisions(Claims):
    """Changes to what a job's steps have brought about.

    A job that is queued or running is left alone. A finished one keeps its clip: the change is made to a copy of it,
    with the same files, which is given instead.
    """

    def versions(self, job_id: str) -> dict[Step, tuple[Version, ...]]:
        """What each step has brought about, the earliest first."""
        rows = self._all("SELECT version FROM versions WHERE job = ? ORDER BY number", (job_id,))
        found: dict[Step, tuple[Version, ...]] = {}
        for version in (Version.model_validate_json(row["version"]) for row in rows):
            found[version.step] = (*found.get(version.step, ()), version)
        return found

    def write(self, job_id: str, step: Step, text: str, **about: Any) -> Job | None:
        """Put the creator's own words in place of what a step wrote; ``about`` tells more of the version."""
        return self._fill(job_id, Version(step=step, text=text, **about), text)

    def use(self, job_id: str, version: Version) -> Job | None:
        """Put an earlier version back in force."""
        blank = version.pictures[0] if version.step is Step.FIRST_FRAME else version.text
        return self._fill(job_id, version, blank)

    def choose(self, job_id: str, path: str) -> Job | None:
        """Have another of the candidates as the first frame; it is in the job's folder."""

        def change(brief: Brief, draft: Draft) -> tuple[Brief, Draft]:
            return brief, _filled(brief, draft, Step.FIRST_FRAME, path)

        return self._change(job_id, change)

    def bring(self, job_id: str, picture: bytes) -> Job | None:
        """Have the creator's own picture as the first frame.

        Raises:
            PictureError: it can't be used.
        """
        name = f"frame-{uuid.uuid4().hex[:12]}.png"
        path = f"{shelf.JOBS}/{job_id}/{name}"
        shelf.keep_picture(picture, self.data / path)
        return self._fill(job_id, Version(step=Step.FIRST_FRAME, pictures=(path,)), path)

    def go_on(self, job_id: str) -> Job | None:
        """Let pass what is there, and run what is still blank, before whatever else waits."""

        def change(brief: Brief, draft: Draft) -> tuple[Brief, Draft]:
            filled = {step for step in brief.steps if draft.of(step) is not None}
            return brief, draft.model_copy(update={"passed": draft.passed | filled})

        return self._change(job_id, change, queue=True)

    def run_from(self, job_id: str, step: Step, *, again: bool = False, model: str | None = None) -> Job | None:
        """Run what comes after this step, with what it brought about; ``again``: this step too, by ``model`` if named.

        Everything before it is kept as it is.
        """

        def change(brief: Brief, draft: Draft) -> tuple[Brief, Draft]:
            kept = brief.steps[: brief.steps.index(step) + (not again)]
            changes: dict[str, Any] = {BLANKS[each]: None for each in brief.steps if each not in kept}
            changes |= {"passed": frozenset(kept), "stale": draft.stale & frozenset(kept)}
            if not again or model or any(made.step is not step for made in draft.unfinished):
                changes["unfinished"] = ()
            if model and brief.full:
                full = brief.full.model_copy(update={"models": {**brief.full.models, step: model}})
                brief = brief.model_copy(update={"full": full})
            return brief, draft.model_copy(update=changes)

        return self._change(job_id, change, queue=True)

    def _fill(self, job_id: str, version: Version, blank: str) -> Job | None:
        def change(brief: Brief, draft: Draft) -> tuple[Brief, Draft]:
            return brief, _filled(brief, draft, version.step, blank)

        return self._change(job_id, change, version.model_copy(update={"made_at": self._clock()}))

    def _change(self, job_id: str, change: Change, made: Version | None = None, *, queue: bool = False) -> Job | None:
        """Change a job, or a copy of it if it is done; None if it isn't there, or on its way."""
        with self._connect() as db, transaction(db):
            row = db.execute(f"{SELECT} WHERE id = ? AND {HERE}", (job_id,)).fetchone()
            job = to_job(row) if row else None
            if job is None or job.status.active:
                return None
            if job.status is Status.DONE:
                job = self._copy(db, job)
            brief, draft = change(job.brief, job.draft)
            for version in () if draft.unfinished else job.draft.unfinished:
                keep_version(db, job.id, version)  # what a step that failed has brought about all the same
            draft = _moved(draft.model_copy(update={"remote": None, "clip": None, "rendered": None}), job_id, job.id)
            made = made and _moved(made, job_id, job.id)
            ended = "'queued'" if queue else "'review'"
            db.execute(
                f"""UPDATE jobs SET brief = ?, draft = ?, status = {ended}, position = {FIRST}, cancel = 0,
                        failure = NULL, progress = NULL, started_at = NULL, reported_at = NULL, finished_at = ?
                    WHERE id = ?""",
                (brief.model_dump_json(), draft.model_dump_json(), None if queue else self._clock(), job.id),
            )
            if made:
                keep_version(db, job.id, made)
            return to_job(db.execute(f"{SELECT} WHERE id = ?", (job.id,)).fetchone())

    def _copy(self, db: sqlite3.Connection, job: Job) -> Job:
        """The same job once more, with its pictures and its versions, and without its clip."""
        new = uuid.uuid4().hex
        here, there = self.data / job.folder, self.data / shelf.JOBS / new
        there.mkdir(parents=True)
        for picture in (file for pattern in COPIED for file in here.glob(pattern)):
            _link(picture, there / picture.name)
        texts = (job.brief.model_dump_json(), job.draft.model_dump_json())
        db.execute(
            f"""INSERT INTO jobs (id, position, status, brief, draft, created_at)
                VALUES (?, {LAST}, 'review', ?, ?, ?)""",
            (new, *(text.replace(job.id, new) for text in texts), self._clock()),
        )
        db.execute(
            """INSERT INTO versions (job, step, version)
               SELECT ?, step, replace(version, ?, ?) FROM versions WHERE job = ? ORDER BY number""",
            (new, job.id, new, job.id),
        )
        return to_job(db.execute(f"{SELECT} WHERE id = ?", (new,)).fetchone())

    def put_back(self, since: float, *, running: bool) -> list[str]:
        """Queue again, in its place, what was claimed since then and its worker's end has interrupted; the ids.

        ``running``: and what it left running. Only for one that holds the folder's lock: nobody runs anything then.
        """
        rows = self._all(
            f"""UPDATE jobs SET finished_at = CASE cancel WHEN 1 THEN ? END,
                    status = CASE cancel WHEN 1 THEN 'cancelled' ELSE 'queued' END,
                    failure = NULL, progress = NULL, started_at = NULL, reported_at = NULL
                WHERE started_at >= ? AND ((status = 'running' AND ?)
                    OR (status = 'interrupted' AND failure IN (?, ?) AND {HERE})) RETURNING id, status""",
            (self._clock(), since, running, CLOSED.model_dump_json(), INTERRUPTED.model_dump_json()),
        )
        return [row["id"] for row in rows if row["status"] == Status.QUEUED]


def _filled(brief: Brief, draft: Draft, step: Step, blank: str) -> Draft:
    """The draft with that blank filled anew; what later steps made of the old one is stale."""
    steps = brief.steps
    later = frozenset(each for each in steps[steps.index(step) + 1 :] if draft.of(each) is not None)
    return draft.model_copy(
        update={
            BLANKS[step]: blank,
            "stale": (draft.stale | later) - {step},
            "passed": draft.passed - later,
            "unfinished": (),
        }
    )


def _moved(value: Model, old: str, new: str) -> Model:
    """The value with the paths into one job's folder leading into another's."""
    return type(value).model_validate_json(value.model_dump_json().replace(old, new)) if old != new else value


def _link(source: Path, target: Path) -> None:
    """The same file under another name, as far as the disk can do that; else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
