"""An error that ended a job, made a failure in the creator's words: what happened, and what to do."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Sequence
from pathlib import Path

from app.jobs import Failure, Kind
from app.remote import RemoteError
from app.stages import StepError
from mova.layout import CheckpointError
from mova.picture import PictureError
from mova.plan import DoesNotFit

REMOVED = "…"  # what stands where a key stood


def explain(error: Exception, checkpoint: Path | None = None, secrets: Sequence[str] = ()) -> Failure:
    """A failure in the creator's words. ``checkpoint`` is the folder that was used; no secret stands in the failure."""
    if isinstance(error, StepError):
        failure = Failure(kind=error.cause.trouble, sentence=str(error), remedy=_ANOTHER, step=error.step)
    else:
        failure = _explained(error, checkpoint)
    details = "".join(traceback.format_exception(error))
    return failure.model_copy(
        update={"sentence": without(failure.sentence, secrets), "details": without(details, secrets)}
    )


def without(text: str, secrets: Sequence[str]) -> str:
    """``text`` with every secret taken out."""
    for secret in secrets:
        text = text.replace(secret, REMOVED)
    return text


def _explained(error: Exception, checkpoint: Path | None) -> Failure:
    said = str(error).strip() or type(error).__name__
    kind, remedy = Kind.UNKNOWN, "Try again; if it happens again, the details below belong in a bug report."
    match error:
        case _ if _disk_full(error):
            kind, said, remedy = Kind.DISK_FULL, "The disk is full.", "Make room on the disk of the data folder."
        case RemoteError():
            kind, remedy = error.kind, _REMOTE.get(error.kind, "Change what it names, then try again.")
        case CheckpointError() | OSError() if checkpoint and not checkpoint.is_dir():
            kind, said = Kind.GONE, f"The checkpoint's folder {checkpoint} has gone."
            remedy = "Put it back, or choose another checkpoint."
        case CheckpointError():
            kind, remedy = Kind.CHECKPOINT, "Mend the checkpoint or choose another one, then try again."
        case PictureError():
            kind, remedy = Kind.PICTURE, "Choose another picture."
        case DoesNotFit():
            kind, remedy = Kind.DOES_NOT_FIT, " ".join(map(str, error.remedies)) or _SMALLER
            said = said.removesuffix(remedy).rstrip()
        case ValueError() if str(error):  # a setting that this machine can't follow, such as a device it doesn't have
            kind, remedy = Kind.SETTING, "Change what it names, then try again."
        case _ if _gpu_memory(error):
            kind, said, remedy = Kind.GPU_MEMORY, "The GPU ran out of memory.", _SMALLER
        case _ if _memory(error):
            kind, said, remedy = Kind.MEMORY, "This machine ran out of memory.", _SMALLER
        case _ if type(error).__name__ == "MediaError":  # mova's, which would bring FFmpeg with it
            kind = Kind.MEDIA
        case _ if type(error).__module__.partition(".")[0] != "mova":  # whose errors are sentences
            said = f"The worker met an error that it doesn't know ({type(error).__name__}: {said.splitlines()[0]})."
    return Failure(kind=kind, sentence=said.splitlines()[0], remedy=remedy)


_ANOTHER = "Try again, choose another model for this step, or write it yourself."
_SERVER = "See in Settings how the servers stand, then try again, or choose this machine."
_REMOTE = {
    Kind.REMOTE_NONE: _SERVER,
    Kind.REMOTE_UNREACHABLE: "See that it runs and can be reached, then try again: a clip that it has is fetched.",
    Kind.REMOTE_TOO_OLD: "Install SGLang 0.5.10 or newer on it, 0.5.23 at best.",
    Kind.REMOTE_UNHEALTHY: "Restart that server, then try again.",
    Kind.REMOTE_REFUSED: "Change what it names, then try again.",
    Kind.REMOTE_FAILED: "Try again; if it happens again, that server's log says more.",
    Kind.REMOTE_MEMORY: "Make the clip shorter, or give that server more GPUs or offload.",
    Kind.REMOTE_LOST: "Start it again.",
    Kind.REMOTE_TIMEOUT: "Try again to go on waiting; if the server hangs, restart it first.",
    Kind.REMOTE_BAD_CLIP: "Try again; if it happens again, that server's log says more.",
}
_SMALLER = "Make the clip shorter, take a lighter preset under Advanced, or close other programs."


def _disk_full(error: BaseException) -> bool:
    cause = error.__cause__
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or (cause is not None and _disk_full(cause))


def _gpu_memory(error: Exception) -> bool:
    """By name and text: torch is not imported here, and some of its errors have no class of their own."""
    return type(error).__name__ == "OutOfMemoryError" or "CUDA error: out of memory" in str(error)


def _memory(error: Exception) -> bool:
    refused = isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "bad_alloc" in str(error))
    return isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM or refused
