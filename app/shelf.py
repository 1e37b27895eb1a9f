"""The files of a data folder: pictures kept, what is left over removed, and how much of the disk it all takes."""

from __future__ import annotations

import io
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from mova.picture import open_picture

DRAFTS, JOBS = "drafts", "jobs"
STRAY_SECONDS = 3600.0  # a folder without a job is a submit under way, until it is this old

_NAME = re.compile(r"([A-Za-z0-9_-]{1,64})(\.png)?")


def draft_path(name: str) -> str:
    """Where an upload of that name lies, relative to the data folder.

    Raises:
        ValueError: the name would lead elsewhere.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no name for an upload; use letters, digits, '-' and '_'.")
    return f"{DRAFTS}/{match[1]}.png"


def keep_picture(source: bytes | Path, target: Path) -> None:
    """Write a picture as PNG, upright, whole or not at all.

    Raises:
        PictureError: it can't be used.
    """
    buffer = io.BytesIO()
    open_picture(source).save(buffer, "PNG", compress_level=1)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")  # two may write the same one
    try:
        part.write_bytes(buffer.getvalue())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def drop_parts(data: Path) -> None:
    """Remove what was being written when a process died; a picture's part may be one of a submit under way."""
    for part in [*(data / JOBS).glob("*/*.part"), *(data / DRAFTS).glob("*.part")]:
        if ".png." not in part.name or _is_stray(part):
            part.unlink(missing_ok=True)


def drop_folders(data: Path, job_ids: Collection[str]) -> None:
    """Remove everything that these jobs have on disk."""
    for job_id in job_ids:
        shutil.rmtree(data / JOBS / job_id, ignore_errors=True)


def strays(data: Path, known: Collection[str]) -> list[str]:
    """Folders that belong to no job: a process died between making the folder and queueing the job."""
    return [folder.name for folder in (data / JOBS).iterdir() if folder.name not in known and _is_stray(folder)]


def sizes(data: Path, deleted: Collection[str]) -> dict[str, int]:
    """Bytes on disk by what they are: clips, uploads, database, logs, checkpoints, and what deleted jobs still hold."""
    found = dict.fromkeys(("clips", "uploads", "database", "logs", "checkpoints", "deleted"), 0)
    for name, size in _files(data):
        parts = name.parts
        if parts[0] == JOBS and len(parts) > 2:
            found["deleted" if parts[1] in deleted else _in_job(name)] += size
        elif parts[0] == DRAFTS:
            found["uploads"] += size
        elif parts[0] in ("logs", "checkpoints"):
            found[parts[0]] += size
        elif name.name.startswith("studio.db"):
            found["database"] += size
    return found


def _is_stray(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > STRAY_SECONDS
    except FileNotFoundError:
        return False


def _in_job(name: Path) -> str:
    return {".png": "uploads", ".log": "logs"}.get(name.suffix, "clips")


def _files(data: Path) -> Iterator[tuple[Path, int]]:
    for folder, _, names in os.walk(data):
        for name in names:
            file = Path(folder, name)
            with suppress(OSError):  # gone meanwhile
                yield file.relative_to(data), file.stat().st_size
