"""How the store reads and writes its rows, and a row made a job."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from app import shelf
from app.jobs import Brief, Draft, Failure, Job, Machine, Progress
from app.schema import DATABASE, StoreError, connected, migrate

BUSY_SECONDS = 10.0  # how long a call waits for another process's write

_NAMES = (
    *("number", "id", "position", "status", "cancel", "starred", "brief", "draft", "progress", "failure", "machine"),
    *("created_at", "started_at", "reported_at", "finished_at", "deleted_at"),
)
COLUMNS = ", ".join(_NAMES)
SELECT = f"SELECT {COLUMNS} FROM jobs"
HERE = "deleted_at IS NULL"
KEEP = "INSERT OR REPLACE INTO studio (name, value) VALUES (?, ?)"  # what there is one of in a data folder

Model = TypeVar("Model", bound=BaseModel)


class Records:
    """The rows of one data folder's store. Every call is a connection and a transaction of its own.

    Any of them may raise ``StoreError``: a disk that is full, a file that another program holds.
    """

    def __init__(self, data: Path, *, clock: Callable[[], float] = time.time, patience: float = BUSY_SECONDS) -> None:
        """Open the store, making or migrating its file. ``patience``: seconds to wait for another process's write.

        Raises:
            StoreError: the folder can't be written, or the file is no database or of a newer version.
        """
        self.data = data
        self._clock = clock
        self._patience = patience
        try:
            (data / shelf.JOBS).mkdir(parents=True, exist_ok=True)
            probe = data / f".{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"{data} can't be written to ({error.strerror or error}). Check that the folder may be written to, "
                "or choose another one with --data."
            ) from error
        with self._connect() as db:
            migrate(db, data / DATABASE)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        with connected(self.data, self._patience) as db:
            yield db

    def _all(self, statement: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        with self._connect() as db:
            return db.execute(statement, values).fetchall()

    def _one(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Row | None:
        rows = self._all(statement, values)
        return rows[0] if rows else None

    def _kept(self, name: str) -> str | None:
        row = self._one("SELECT value FROM studio WHERE name = ?", (name,))
        return str(row["value"]) if row else None


def to_job(row: sqlite3.Row) -> Job:
    """The job that a row of ``SELECT`` describes."""
    return _to_job(tuple(row))


@lru_cache(maxsize=4096)  # a frozen value, and a long queue is read every second
def _to_job(values: tuple[Any, ...]) -> Job:
    row = dict(zip(_NAMES, values, strict=True))
    machine = _read(Machine, row.pop("machine"))
    models: dict[str, type[BaseModel]] = {"brief": Brief, "draft": Draft, "progress": Progress, "failure": Failure}
    return Job(
        **row | {name: _read(model, row[name]) for name, model in models.items()}, **(dict(machine) if machine else {})
    )


def _read(model: type[Model], text: str | None) -> Model | None:
    return model.model_validate_json(text) if text else None
