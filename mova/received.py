"""A clip that was made elsewhere: decoded whole, its sound measured, and levelled if that is asked for."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from mova.media import ClipReport, MediaError, measure_loudness, write_clip

PICTURE = np.zeros((16, 16, 3), np.uint8)  # stands for the pictures where only sound is encoded


def receive_clip(path: Path, *, num_frames: int, loudness: float | None = None) -> ClipReport:
    """See that a clip plays from end to end with picture and sound, and what it is.

    With ``loudness`` (LUFS) its sound is levelled as ``write_clip`` does it; the pictures stay as they are.

    Raises:
        MediaError: unreadable, damaged, cut short of ``num_frames``, without a picture or a sound.
    """
    with _reading():
        report, audio = _read(path)
    if report.num_frames < num_frames:
        raise MediaError(f"It holds {report.num_frames} frames instead of {num_frames}.")
    return report if loudness is None else _levelled(path, audio, report, loudness)


def _read(path: Path) -> tuple[ClipReport, NDArray[np.float32]]:
    """What the file holds, every picture and every sample decoded; the sound as mono [samples]."""
    with av.open(str(path)) as clip:
        for kind, streams in (("picture", clip.streams.video), ("sound", clip.streams.audio)):
            if not streams:
                raise MediaError(f"It has no {kind}.")
        video, sound = clip.streams.video[0], clip.streams.audio[0]
        video.thread_type = "AUTO"
        frames, pieces = 0, [np.zeros(0, np.float32)]
        for decoded in clip.decode(video, sound):
            if isinstance(decoded, av.VideoFrame):
                if decoded.is_corrupt:
                    raise MediaError(f"Its picture {frames} is damaged.")
                frames += 1
            else:
                pieces.append(_mono(decoded))
        rate = float(video.average_rate or 0)
        if not frames or not rate:
            raise MediaError("It has no picture.")
        audio = np.concatenate(pieces)[: int(sound.rate * frames / rate)]
        if not audio.size:
            raise MediaError("Its sound is empty.")
        measured = measure_loudness(audio, sound.rate)
        report = ClipReport(
            path=path,
            num_frames=frames,
            width=video.width,
            height=video.height,
            fps=rate,
            duration=frames / rate,
            sample_rate=sound.rate,
            audio_samples=audio.size,
            source=measured,
            delivered=measured,
            gain_db=0.0,
        )
    return report, audio


def _mono(frame: Any) -> NDArray[np.float32]:
    """[samples], the mean of the channels."""
    resampled = av.AudioResampler(format="fltp", layout=frame.layout, rate=frame.sample_rate).resample(frame)
    blocks = [block.to_ndarray().mean(axis=0, dtype=np.float32) for block in resampled]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _levelled(path: Path, audio: NDArray[np.float32], report: ClipReport, loudness: float) -> ClipReport:
    """The clip with its sound levelled; the pictures' packets are copied."""
    sound, both = (path.with_name(f"{path.name}.{which}.part") for which in ("sound", "both"))
    try:
        levelled = write_clip(
            sound,
            (PICTURE for _ in range(report.num_frames)),
            audio,
            fps=report.fps,
            num_frames=report.num_frames,
            sample_rate=report.sample_rate,
            loudness=loudness,
        )
        with _reading():
            _join(path, sound, both)
        both.replace(path)
    finally:
        sound.unlink(missing_ok=True)
        both.unlink(missing_ok=True)
    return replace(
        report,
        sample_rate=levelled.sample_rate,
        audio_samples=levelled.audio_samples,
        delivered=levelled.delivered,
        gain_db=levelled.gain_db,
    )


def _join(pictures: Path, sound: Path, target: Path) -> None:
    options = {"movflags": "+faststart"}
    with (
        av.open(str(pictures)) as first,
        av.open(str(sound)) as second,
        av.open(str(target), "w", format="mp4", options=options) as container,
    ):
        sources = [first.streams.video[0], second.streams.audio[0]]
        targets = {id(source): container.add_stream_from_template(source) for source in sources}
        packets = [packet for source in sources for packet in source.container.demux(source) if packet.dts is not None]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            packet.stream = targets[id(packet.stream)]
            container.mux(packet)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MediaError("The disk is full. Free some space and try again.") from error
        raise MediaError(f"It can't be played ({error.strerror or error}).") from error
