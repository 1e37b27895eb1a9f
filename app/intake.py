"""The programs' side of the store: an order is queued once however often it is sent, and lists come by cursor."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Literal

from pydantic import BaseModel

from app.jobs import Job
from app.records import HERE, SELECT, to_job
from app.revisions import Revisions

Direction = Literal["asc", "desc"]


class KeyReused(Exception):  # noqa: N818  (what happened)
    """The key of an order belongs to another one."""


class Ticket(BaseModel, frozen=True):
    """What comes with an order: the program's own key, if it gave one, a digest of all it sent, the job it remixes."""

    key: str | None = None
    digest: str = ""
    remix_of: str | None = None


class Intake(Revisions):
    """What programs ask of a data folder."""

    def before(self, ticket: Ticket) -> Job | None:
        """The job that was queued for this ticket.

        Raises:
            KeyReused: its key was another order's.
        """
        with self._connect() as db:
            return known(db, ticket)

    def listed(self, after: str | None, limit: int, direction: Direction) -> tuple[list[Job], bool] | None:
        """At most ``limit`` jobs that come after that one, and whether there are more; None: there is no such job."""
        sign, end = ("<", "DESC") if direction == "desc" else (">", "ASC")
        where, values = HERE, tuple[int, ...]()
        with self._connect() as db:
            if after is not None:
                row = db.execute("SELECT number FROM jobs WHERE id = ?", (after,)).fetchone()
                if row is None:
                    return None
                where, values = f"{HERE} AND number {sign} ?", (row["number"],)
            rows = db.execute(f"{SELECT} WHERE {where} ORDER BY number {end} LIMIT ?", (*values, limit + 1)).fetchall()
        return [to_job(row) for row in rows[:limit]], len(rows) > limit

    def remixes(self, job_ids: Collection[str]) -> dict[str, str]:
        """Those of these jobs that remix another, and which."""
        marks = ", ".join("?" * len(job_ids))
        rows = self._all(f"SELECT job, remix_of FROM intake WHERE job IN ({marks})", tuple(job_ids))
        return {row["job"]: row["remix_of"] for row in rows if row["remix_of"]}


def known(db: sqlite3.Connection, ticket: Ticket) -> Job | None:
    """The job that was queued for this ticket. A key is known for as long as its job is there to be asked for.

    Raises:
        KeyReused: its key was another order's.
    """
    if ticket.key is None:
        return None
    row = db.execute("SELECT job, digest FROM intake WHERE key = ?", (ticket.key,)).fetchone()
    found = db.execute(f"{SELECT} WHERE id = ? AND {HERE}", (row["job"],)).fetchone() if row else None
    if found is None:
        return None
    if row["digest"] != ticket.digest:
        raise KeyReused
    return to_job(found)


def keep_ticket(db: sqlite3.Connection, ticket: Ticket, job_id: str) -> None:
    """Note that the ticket is this job's; what jobs that are gone had is forgotten, and a deleted one's same key."""
    db.execute("DELETE FROM intake WHERE job NOT IN (SELECT id FROM jobs)")
    if ticket.key is not None:
        db.execute("UPDATE intake SET key = NULL WHERE key = ?", (ticket.key,))  # it may be restored, as a remix too
    db.execute(
        "INSERT INTO intake (job, key, digest, remix_of) VALUES (?, ?, ?, ?)",
        (job_id, ticket.key, ticket.digest, ticket.remix_of),
    )
