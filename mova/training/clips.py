"""Clips to learn from: a folder of videos with captions beside them, each decoded whole, with what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from mova.spec import FRAME_GROUP, SIZE_MULTIPLE, nearest
from mova.training.errors import ClipError

SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi"})
CAPTIONS = "captions.jsonl"
SILENCE = 1e-3  # -60 dBFS: below it a peak is noise
MISSING_SOUND = 0.1  # seconds that a sound may end before the picture: encoders cut at their own frames


@dataclass(frozen=True)
class CaptionedClip:
    """A video file and what is seen and heard in it."""

    path: Path
    caption: str


@dataclass(frozen=True, eq=False)
class RawClip:
    """A clip decoded."""

    frames: NDArray[np.uint8]  # [F, H, W, 3]
    audio: NDArray[np.float32]  # [samples], mono, -1 to 1, as long as the picture
    fps: float


def find_clips(folder: Path) -> list[CaptionedClip]:
    """The clips of ``folder`` in the order of their names, each with its caption.

    The caption of ``ball.mp4`` is in ``ball.txt``, or in a line {"file": "ball.mp4", "caption": "..."} of
    captions.jsonl; the text file goes first.

    Raises:
        ClipError: no such folder, no clip in it, or clips without a caption, all of them named.
    """
    if not folder.is_dir():
        raise ClipError(f"{folder} is not a folder. Name the one that holds the clips.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ClipError(
            f"{folder} holds no clip ({', '.join(sorted(SUFFIXES))}). Put some there, each with its caption."
        )
    listed = _listed(folder / CAPTIONS)
    found = [CaptionedClip(path, _beside(path) or listed.get(path.name, "")) for path in paths]
    if bare := [clip.path.name for clip in found if not clip.caption]:
        raise ClipError(
            f"No caption for {', '.join(bare)}. Write what is seen and heard into a text file of the same name "
            f"({Path(bare[0]).stem}.txt), or into {CAPTIONS}."
        )
    return found


def read_clip(path: Path, sample_rate: int, *, allow_silent: bool = False) -> RawClip:
    """Decode a clip, its sound mixed to one channel at ``sample_rate``.

    Args:
        path: the file.
        sample_rate: samples per second that the audio VAE wants.
        allow_silent: take a clip whose sound is silence; one that has no sound at all is refused still.

    Raises:
        ClipError: unreadable, no picture, no sound, silent, or of a size or length that the model doesn't take.
    """
    with _reading(path), av.open(str(path)) as container:
        if not container.streams.video and not container.streams.audio:
            raise _damaged(path, "nothing is in it")
        for kind, streams in (("picture", container.streams.video), ("sound", container.streams.audio)):
            if not streams:
                raise ClipError(f"{path.name} has no {kind}. MOVA learns both together; take it out, or add one.")
        fps = float(container.streams.video[0].average_rate or 0)
        promised = container.streams.video[0].frames  # 0 where the format doesn't say
        frames, pieces, delay = _decode(container, sample_rate)
    if not len(frames) or not fps:
        raise ClipError(f"{path.name} has no picture. Take it out, or write it again.")
    if len(frames) < promised:
        raise _damaged(path, f"{len(frames)} of its {promised} frames are there")
    _check_shape(path, len(frames), *frames[0].shape[:2])
    wanted = int(sample_rate * len(frames) / fps)
    audio = _placed(pieces, round(delay * sample_rate))
    _check_sound(path, audio[:wanted], (wanted - len(audio)) / sample_rate, allow_silent)
    return RawClip(np.stack(frames), np.pad(audio[:wanted], (0, max(0, wanted - len(audio)))), fps)


def _listed(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    captions = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            captions[str(entry["file"])] = str(entry["caption"]).strip()
        except (ValueError, TypeError, KeyError) as error:
            raise ClipError(
                f'{file} line {number} is not of the form {{"file": "ball.mp4", "caption": "..."}} ({error}).'
            ) from error
    return captions


def _beside(clip: Path) -> str:
    file = clip.with_suffix(".txt")
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def _decode(container: Any, sample_rate: int) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.float32]], float]:
    """Pictures [H, W, 3], pieces of sound [samples], and by how many seconds the sound begins after the picture."""
    video, sound = container.streams.video[0], container.streams.audio[0]
    video.thread_type = "AUTO"
    resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
    frames: list[NDArray[np.uint8]] = []
    pieces: list[NDArray[np.float32]] = []
    begins: dict[str, float] = {}
    for decoded in container.decode(video, sound):
        kind = type(decoded).__name__
        begins.setdefault(kind, float(decoded.time or 0))
        if isinstance(decoded, av.VideoFrame):
            frames.append(decoded.to_ndarray(format="rgb24"))
        else:
            pieces += [block.to_ndarray()[0] for block in resampler.resample(decoded)]
    pieces += [block.to_ndarray()[0] for block in resampler.resample(None)]
    return frames, pieces, begins.get("AudioFrame", 0.0) - begins.get("VideoFrame", 0.0)


def _placed(pieces: list[NDArray[np.float32]], delay: int) -> NDArray[np.float32]:
    """The sound from the moment of the first picture on; ``delay`` in samples, negative where it begins before."""
    audio = np.concatenate([np.zeros(max(0, delay), np.float32), *pieces])
    return audio[max(0, -delay) :]


def _check_shape(path: Path, num_frames: int, height: int, width: int) -> None:
    for side, value in (("high", height), ("wide", width)):
        if value % SIZE_MULTIPLE:
            valid = " and ".join(str(size) for size in nearest(value, SIZE_MULTIPLE, lowest=SIZE_MULTIPLE))
            raise ClipError(
                f"{path.name} is {value} pixels {side}, which is no multiple of {SIZE_MULTIPLE}. "
                f"Crop or scale it; nearest: {valid}."
            )
    if num_frames % FRAME_GROUP != 1:
        valid = " and ".join(str(count) for count in nearest(num_frames, FRAME_GROUP, 1))
        raise ClipError(f"{path.name} has {num_frames} frames, which is not 4n + 1. Cut it; nearest: {valid}.")


def _check_sound(path: Path, audio: NDArray[np.float32], missing: float, allow_silent: bool) -> None:
    if missing > MISSING_SOUND:
        raise ClipError(f"The sound of {path.name} ends {missing:.2f} s before the picture. Cut the picture there.")
    peak = float(np.abs(audio).max(initial=0.0))
    if peak < SILENCE and not allow_silent:
        raise ClipError(
            f"{path.name} is silent: its sound never rises above -60 dBFS. Take it out, or allow silent clips if its "
            "caption says that there is no sound."
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise _damaged(path, str(error.strerror or error)) from error


def _damaged(path: Path, reason: str) -> ClipError:
    return ClipError(
        f"{path.name} can't be read as a clip ({reason}). It may be damaged; write it again, or take it out."
    )
