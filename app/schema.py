"""The store's file: its schema in versions, and what SQLite says turned into sentences."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock

DATABASE = "studio.db"

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
    (
        "ALTER TABLE jobs ADD COLUMN starred INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN deleted_at REAL",
        "ALTER TABLE jobs ADD COLUMN reported_at REAL",
        "ALTER TABLE jobs ADD COLUMN machine TEXT",
        "ALTER TABLE jobs ADD COLUMN prompt TEXT AS (json_extract(brief, '$.prompt')) VIRTUAL",
        """ALTER TABLE jobs ADD COLUMN portrait INTEGER
            AS (json_extract(brief, '$.spec.height') > json_extract(brief, '$.spec.width')) VIRTUAL""",
        "CREATE INDEX jobs_by_position ON jobs (position)",
        "CREATE INDEX jobs_here ON jobs (number) WHERE deleted_at IS NULL",
        "CREATE TABLE studio (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        """CREATE TABLE timings (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            checkpoint TEXT NOT NULL,
            width INTEGER NOT NULL,
            height INTEGER NOT NULL,
            num_frames INTEGER NOT NULL,
            offload TEXT NOT NULL,
            device TEXT NOT NULL,
            timings TEXT NOT NULL
        )""",
        """CREATE INDEX timings_by_clip ON timings (checkpoint, width, height, num_frames, offload, device)""",
    ),
    (
        """CREATE TABLE versions (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            job TEXT NOT NULL,
            step TEXT NOT NULL,
            version TEXT NOT NULL
        )""",
        "CREATE INDEX versions_by_job ON versions (job, number)",
    ),
    (
        """CREATE TABLE intake (
            job TEXT PRIMARY KEY,
            key TEXT UNIQUE,
            digest TEXT NOT NULL,
            remix_of TEXT
        ) WITHOUT ROWID""",
    ),
    (
        "ALTER TABLE timings ADD COLUMN preset TEXT NOT NULL DEFAULT 'exact'",
        "ALTER TABLE timings ADD COLUMN plan TEXT NOT NULL DEFAULT ''",  # measured before there were plans
        "DROP INDEX timings_by_clip",
        "CREATE INDEX timings_by_clip ON timings (checkpoint, width, height, num_frames)",
    ),
)


class StoreError(Exception):
    """The store can't be used; the message is one sentence that names the file, and the remedy."""


class StoreBusy(StoreError):  # noqa: N818  (as sqlite calls it)
    """Another program holds the store's file; it may be let go of at any time."""


@contextmanager
def connected(data: Path, patience: float) -> Iterator[sqlite3.Connection]:
    """A connection for one short piece of work; waits ``patience`` seconds for another process's write.

    Raises:
        StoreError: instead of whatever SQLite raises.
    """
    file = data / DATABASE
    try:
        # isolation_level None: each statement is its own transaction, and takes its locks when it runs.
        with closing(sqlite3.connect(file, timeout=patience, isolation_level=None)) as db:
            db.row_factory = sqlite3.Row
            db.create_function("folded", 1, _folded, deterministic=True)
            yield db
    except sqlite3.Error as error:
        raise _explained(error, file) from error


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Several statements as one: all of it, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:  # a full disk has rolled it back already
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def migrate(db: sqlite3.Connection, file: Path) -> None:
    """Bring the file to the version of this studio.

    Raises:
        StoreError: it is of a newer one.
    """
    version = _version(db)
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{file} was written by a newer studio (schema {version}, this one knows {len(MIGRATIONS)}). "
            "Update the studio, or choose another folder with --data."
        )
    if version == len(MIGRATIONS):
        return
    with FileLock(file.with_name("studio.lock")):  # SQLite doesn't wait its turn to switch to WAL: it fails
        db.execute("PRAGMA journal_mode = WAL")
        with transaction(db):
            for statements in MIGRATIONS[_version(db) :]:  # another process may have been quicker
                for statement in statements:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _folded(text: str) -> str:
    return text.casefold()


def _explained(error: sqlite3.Error, file: Path) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(f"Another program holds {file} ({error}). Close it; the studio goes on by itself then.")
    if code == sqlite3.SQLITE_FULL:
        return StoreError(f"The disk of {file} is full. Make room, then try again.")
    return StoreError(
        f"{file} can't be opened ({error}). Check that the folder may be written to, or choose another one with --data."
    )
