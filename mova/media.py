"""A clip as a file: encoded while it is decoded, its sound measured and levelled; never half a file."""

from __future__ import annotations

import errno
import math
import os
import warnings
import wave
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyloudnorm
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import minimum_filter1d, uniform_filter1d
from scipy.signal import resample, resample_poly

PEAK_CEILING = -1.0  # dBTP that a levelled clip never exceeds (EBU R 128)
LOUDNESS_RANGE = (-70.0, -5.0)  # LUFS; the lower end is the gate of EBU R 128, the upper one leaves only distortion
LEVEL_TOLERANCE = 0.2  # LU from the target at which levelling is content at once
GOOD_ENOUGH = 0.5  # LU from the target that don't justify a harder limiter
LEVEL_ATTEMPTS = 8
MAX_MAKEUP = 12.0  # dB of gain at most that is added for what the limiter took; more only distorts
LIMITER_REACHES = (0.01, 0.003, 0.001)  # s ahead and back; 0.01 is a half period of 50 Hz, so that bass keeps its shape
METER_RATE = 48000  # Hz; BS.1770-4 gives its weighting filters at this rate
GATING_BLOCK = 0.4  # s; BS.1770-4

# The rates of AAC (ISO 14496-3, table 1.18), Hz, highest first.
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
AAC_FRAME = 1024  # samples
AAC_BIT_RATE = 192_000
AAC_BITS_PER_SAMPLE = 6  # 6144 bits a frame and channel are the most that AAC permits

# Rounds to nearest and reads the colour of every pixel: half the error of swscale's default on a smooth picture.
_CONVERSION = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


class MediaError(Exception):
    """A clip can't be written or read; the message says why and what to do, the cause is kept."""


@dataclass(frozen=True)
class Loudness:
    """How loud a sound is. ``integrated`` in LUFS (EBU R 128, gated), ``true_peak`` in dBTP (4 x oversampled).

    ``integrated`` is None below 0.4 s or when all of it is silent, ``true_peak`` is None in digital silence.
    """

    integrated: float | None
    true_peak: float | None


@dataclass(frozen=True)
class ClipReport:
    """What was written. ``duration`` in seconds, ``sample_rate`` in Hz as in the file, ``gain_db`` 0 if not levelled.

    ``source`` is the sound as the model made it, ``delivered`` as it is in the file, measured after decoding the AAC.
    """

    path: Path
    num_frames: int
    width: int
    height: int
    fps: float
    duration: float
    sample_rate: int
    audio_samples: int
    source: Loudness
    delivered: Loudness
    gain_db: float


def check_loudness(target: float) -> float:
    """``target``, if sound can be levelled to it; MediaError with the nearest valid value otherwise."""
    if not math.isfinite(target):
        raise MediaError(f"A loudness of {target} LUFS is none; -14 suits the web, -16 podcasts, -23 broadcast.")
    if not LOUDNESS_RANGE[0] <= target <= LOUDNESS_RANGE[1]:
        nearest = LOUDNESS_RANGE[0] if target < LOUDNESS_RANGE[0] else LOUDNESS_RANGE[1]
        raise MediaError(f"A loudness of {target:g} LUFS is out of reach; nearest valid: {nearest:g}.")
    return target


def measure_loudness(audio: NDArray[np.floating[Any]], sample_rate: int) -> Loudness:
    """Integrated loudness (ITU-R BS.1770-4, gated) and true peak (its annex 2) of mono ``audio`` [samples]."""
    return Loudness(_integrated_loudness(audio, sample_rate), _true_peak(audio))


def write_clip(
    target: Path,
    frames: Iterable[NDArray[np.uint8]],
    audio: NDArray[np.float32],
    *,
    fps: float,
    num_frames: int,
    sample_rate: int,
    loudness: float | None = None,
    crf: int = 17,
    on_frame: Callable[[int, int], None] | None = None,
) -> ClipReport:
    """Write ``frames`` (each [H, W, 3], uint8, H and W even) and mono ``audio`` ([samples], -1 to 1) as an mp4.

    H.264 (BT.709) and AAC-LC. Each frame is encoded before the next one is pulled; after it, ``on_frame(done,
    num_frames)`` is called. The sound is trimmed or padded with silence to the length of the clip, and
    resampled if AAC doesn't know ``sample_rate``. With ``loudness`` (LUFS) it is levelled to that, with a true peak of
    -1 dBTP at most; otherwise it is only clipped to -1 to 1. The file appears at ``target`` when it is complete and was
    read back; until then, and after any exception, an earlier file there is untouched.

    Raises:
        MediaError: wrong frames, a wrong number of them, sound that isn't finite, a full disk.
    """
    sound = _prepare_sound(audio, sample_rate, num_frames, fps, loudness)
    duration = num_frames / fps
    clip = _ClipFile(target, sound, fps, crf)
    try:
        _add_all(clip, frames, num_frames, on_frame)
        clip.finish()
        check_clip(clip.part, num_frames=num_frames, duration=duration)
        clip.publish()
    finally:
        clip.discard()
    return ClipReport(
        path=target,
        num_frames=num_frames,
        width=clip.width,
        height=clip.height,
        fps=fps,
        duration=duration,
        sample_rate=sound.sample_rate,
        audio_samples=sound.samples,
        source=sound.source,
        delivered=sound.take.loudness,
        gain_db=sound.take.gain_db,
    )


def write_wav(target: Path, audio: NDArray[np.floating[Any]], sample_rate: int) -> None:
    """``audio`` [samples] or [channels, samples] in -1 to 1 as a 16-bit PCM file.

    Raises:
        MediaError: the file can't be written.
    """
    with _writing(target), wave.open(str(target), "wb") as file:
        file.setnchannels(1 if audio.ndim == 1 else len(audio))
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(to_pcm16(audio).tobytes())


def to_pcm16(audio: NDArray[np.floating[Any]]) -> NDArray[np.int16]:
    """``audio`` [samples] or [channels, samples], clipped and truncated toward zero; channels interleaved."""
    return (np.clip(audio, -1, 1) * 32767).T.reshape(-1).astype("<i2")


def read_frame(path: Path, index: int = 0) -> Image.Image:
    """Frame ``index`` of a clip (RGB); negative indices count from the end.

    Raises:
        MediaError: no readable clip, or no such frame.
    """
    with _reading(path), av.open(str(path)) as clip:
        video = _stream(clip.streams.video, path, "video")
        count, rate = video.frames, float(video.average_rate or 1)  # only a damaged clip has no rate
    if not -count <= index < count:
        raise MediaError(f"{path} has {count} frames; there is no frame {index}.")
    position = index % count
    reader_class = _moviepy_reader()
    with _reading(path), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # moviepy only warns when it repeats an earlier frame instead
        reader = reader_class(str(path))
        try:
            reader.fps = rate  # moviepy knows two decimals of it, which is too few to find a late frame
            pixels = reader.get_frame(position / rate)
        finally:
            reader.close()
    return Image.fromarray(pixels)


def check_clip(path: Path, *, num_frames: int, duration: float) -> None:
    """Read every packet of a finished clip and compare: ``num_frames`` pictures and sound, both ``duration`` s long.

    Raises:
        MediaError: unreadable or cut short, a stream missing, another number of frames or another length.
    """
    ends, counts = {"video": 0.0, "audio": 0.0}, {"video": 0, "audio": 0}
    with _reading(path), av.open(str(path)) as clip:
        video, audio = _stream(clip.streams.video, path, "video"), _stream(clip.streams.audio, path, "audio")
        promised = audio.frames
        # In an mp4 the sound is timed in samples.
        tolerances = {"video": duration / num_frames / 2, "audio": float(AAC_FRAME * audio.time_base)}
        for packet in clip.demux(video, audio):
            if packet.size and not packet.is_corrupt:
                kind = packet.stream.type
                counts[kind] += 1
                ends[kind] = max(ends[kind], float((packet.pts + packet.duration) * packet.time_base))
    if counts["video"] != num_frames:
        raise MediaError(f"{path} holds {counts['video']} frames instead of {num_frames}; write it again.")
    if counts["audio"] < promised:
        raise MediaError(
            f"{path} is cut short: {promised - counts['audio']} pieces of sound are missing. Write it again."
        )
    for kind, end in ends.items():
        if abs(end - duration) > tolerances[kind]:
            raise MediaError(f"The {kind} in {path} is {end:.3f} s long instead of {duration:.3f} s; write it again.")


@dataclass(frozen=True)
class _Take:
    """One encoding of the sound (an m4a file), how loud it is when decoded, and the gain it was given (dB)."""

    encoded: bytes
    loudness: Loudness
    gain_db: float


@dataclass(frozen=True)
class _Sound:
    """The sound of a clip, ready for its file; ``source`` is the loudness before anything was done to it."""

    take: _Take
    sample_rate: int
    samples: int
    source: Loudness


def _prepare_sound(
    audio: NDArray[np.float32], sample_rate: int, num_frames: int, fps: float, loudness: float | None
) -> _Sound:
    """``audio`` [samples] trimmed or padded to the length of the clip, clipped, levelled if asked for, and encoded."""
    if loudness is not None:
        check_loudness(loudness)
    if audio.ndim != 1:
        raise MediaError(f"The sound has the shape {audio.shape}; one row of samples is expected (mono).")
    if not np.isfinite(audio).all():
        raise MediaError("The sound holds values that are not finite (NaN or infinite). Render the clip again.")
    fitted = _fit_length(audio, int(sample_rate * num_frames / fps))
    source = measure_loudness(fitted, sample_rate)
    clipped = np.clip(fitted, -1, 1)
    file_rate = min((rate for rate in AAC_RATES if rate >= sample_rate), default=AAC_RATES[0])
    if file_rate != sample_rate:
        clipped = _fit_length(resample_poly(clipped, file_rate, sample_rate), int(file_rate * num_frames / fps))
    if loudness is None:
        take = _encode_take(clipped, file_rate, 0.0)
    else:
        take = _level(clipped, file_rate, source.integrated, loudness)
    return _Sound(take, file_rate, clipped.size, source)


def _fit_length(audio: NDArray[np.floating[Any]], samples: int) -> NDArray[np.floating[Any]]:
    return np.pad(audio[:samples], (0, max(0, samples - audio.size)))


def _level(audio: NDArray[np.floating[Any]], sample_rate: int, integrated: float | None, target: float) -> _Take:
    """``audio`` of ``integrated`` LUFS encoded at ``target`` LUFS, as near as ``PEAK_CEILING`` permits.

    A limiter that reaches far leaves steady tones clean, one that reaches little takes less loudness from spiky sound;
    so a shorter one is tried only where the longer one stays too far from the target. Without a loudness (None: too
    short, or silent) there is only the ceiling.
    """
    if integrated is None:
        return _approach(audio, sample_rate, 0.0, None, LIMITER_REACHES[0])
    takes: list[_Take] = []
    for reach in LIMITER_REACHES:
        takes.append(_approach(audio, sample_rate, target - integrated, target, reach))
        if _misses(takes[-1], target) <= (0.0, GOOD_ENOUGH):
            break
    return min(takes, key=lambda take: _misses(take, target))


def _approach(
    audio: NDArray[np.floating[Any]], sample_rate: int, gain: float, target: float | None, reach: float
) -> _Take:
    """Encode ``audio`` with ``gain`` dB and a limiter, decode and measure it, correct both, and encode it again.

    Only that shows what the limiter took from the loudness, and what the codec added to the peaks.
    """
    most, ceiling = gain + MAX_MAKEUP, PEAK_CEILING
    takes: list[_Take] = []
    for attempt in range(1, LEVEL_ATTEMPTS + 1):
        limited = _limit(audio * 10 ** (gain / 20), ceiling, round(reach * sample_rate))
        take = _encode_take(limited, sample_rate, gain)
        takes.append(take)
        over, off = _misses(take, target)
        delivered = take.loudness.integrated
        louder = gain if target is None or delivered is None else min(gain + target - delivered, most)
        if not over and (off <= LEVEL_TOLERANCE or louder == gain):
            break
        gain = louder
        if over:
            ceiling -= over + 0.05 * attempt  # a margin that grows, so that the last attempt certainly fits
    return min(takes, key=lambda take: _misses(take, target))


def _misses(take: _Take, target: float | None) -> tuple[float, float]:
    """How far a take is above the ceiling (dB, 0 when it fits) and how far from the target (LU)."""
    integrated, peak = take.loudness.integrated, take.loudness.true_peak
    over = 0.0 if peak is None else max(0.0, peak - PEAK_CEILING)
    return over, 0.0 if target is None or integrated is None else abs(target - integrated)


def _limit(audio: NDArray[np.floating[Any]], ceiling: float, reach: int) -> NDArray[np.floating[Any]]:
    """``audio`` with a gain that dips smoothly, over ``reach`` samples, where a true peak is above ``ceiling`` dBTP.

    The smoothing averages only over minima that reach as far as it does, so the gain is nowhere above the needed one.
    """
    peaks = _oversampled(audio).reshape(-1, 4).max(axis=1)
    needed = np.minimum(1, 10 ** (ceiling / 20) / np.maximum(peaks, 1e-9))
    width = 2 * (reach // 2) + 1
    lowest = minimum_filter1d(needed, 2 * width + 1, mode="nearest")
    gain: NDArray[np.float64] = uniform_filter1d(uniform_filter1d(lowest, width, mode="nearest"), width, mode="nearest")
    return audio * gain


def _integrated_loudness(audio: NDArray[np.floating[Any]], sample_rate: int) -> float | None:
    if audio.size < GATING_BLOCK * sample_rate:
        return None
    if sample_rate != METER_RATE:
        # By FFT: resample_poly's slope below half the rate costs white noise 0.2 LU.
        audio = resample(audio, round(audio.size * METER_RATE / sample_rate))
    loudness = float(pyloudnorm.Meter(METER_RATE).integrated_loudness(audio.astype(np.float64)))
    return loudness if math.isfinite(loudness) else None


def _true_peak(audio: NDArray[np.floating[Any]]) -> float | None:
    peak = float(_oversampled(audio).max(initial=0))
    return 20 * math.log10(peak) if peak else None


def _oversampled(audio: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The magnitudes of ``audio`` [samples] at four times its rate: [4 * samples]."""
    return np.abs(resample_poly(audio.astype(np.float64), 4, 1)) if audio.size else np.zeros(0)


def _encode_take(audio: NDArray[np.floating[Any]], sample_rate: int, gain_db: float) -> _Take:
    encoded = _encode_aac(audio.astype(np.float32), sample_rate)
    return _Take(encoded, measure_loudness(_decode_aac(encoded)[: audio.size], sample_rate), gain_db)


def _encode_aac(audio: NDArray[np.float32], sample_rate: int) -> bytes:
    """``audio`` [samples] as an m4a file."""
    buffer = BytesIO()
    # Noise substitution off: its noise, and so the true peak, would be another one in every decoder.
    options = {"aac_pns": "0"}
    bit_rate = min(AAC_BIT_RATE, AAC_BITS_PER_SAMPLE * sample_rate)
    with av.open(buffer, "w", format="mp4", options={"movie_timescale": str(sample_rate)}) as container:
        stream = container.add_stream("aac", rate=sample_rate, layout="mono", bit_rate=bit_rate, options=options)
        for start in range(0, audio.size, AAC_FRAME):
            block = av.AudioFrame.from_ndarray(audio[None, start : start + AAC_FRAME], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = sample_rate, start, Fraction(1, sample_rate)
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _decode_aac(encoded: bytes) -> NDArray[np.float32]:
    """[samples], without the encoder's priming; up to one AAC frame longer than what was encoded."""
    with av.open(BytesIO(encoded)) as container:
        return np.concatenate([block.to_ndarray()[0] for block in container.decode(audio=0)])


def _add_all(
    clip: _ClipFile,
    frames: Iterable[NDArray[np.uint8]],
    num_frames: int,
    on_frame: Callable[[int, int], None] | None,
) -> None:
    done = 0
    for frame in frames:
        if done == num_frames:
            raise MediaError(f"There are more than {num_frames} frames; the clip wasn't written.")
        clip.add(frame)
        done += 1
        if on_frame is not None:
            on_frame(done, num_frames)
    if done < num_frames:
        raise MediaError(f"There are only {done} of {num_frames} frames; the clip wasn't written.")


class _ClipFile:
    """An mp4 that grows in ``part``, beside ``target``: each picture as it comes, with the sound that is due before it.

    Opened by the first frame, which gives the size. ``finish`` completes it and ``publish`` puts it at its target;
    ``discard`` is always called at the end and removes what is still there.
    """

    def __init__(self, target: Path, sound: _Sound, fps: float, crf: int) -> None:
        self.target, self.part = target, target.with_name(target.name + ".part")
        self.height = self.width = 0
        self._rate = Fraction(fps).limit_denominator(1001)  # 24000/1001 from 23.976023976...
        self._sound, self._crf = sound, crf
        self._source: Any = None
        self._container: Any = None
        self._video: Any = None
        self._audio: Any = None
        self._waiting: deque[Any] = deque()
        self._frames = 0

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Encode one picture [H, W, 3]."""
        sides = frame.shape[:2]
        if frame.dtype != np.uint8 or frame.shape != (*sides, 3) or any(side % 2 for side in sides):
            raise MediaError(f"A frame is {frame.dtype} {frame.shape}; uint8 [H, W, 3] with even H and W is expected.")
        if self._frames and frame.shape != (self.height, self.width, 3):
            raise MediaError(
                f"Frame {self._frames} is {frame.shape}, those before it are {self.height} x {self.width}."
            )
        with _writing(self.target):
            if not self._frames:
                self._open(*sides)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=_CONVERSION,
            )
            picture.pts, picture.duration, picture.time_base = self._frames, 1, 1 / self._rate
            self._mux(self._video.encode(picture))
        self._frames += 1

    def finish(self) -> None:
        """Flush the encoder and complete the file on the disk."""
        with _writing(self.target):
            self._mux(self._video.encode(None))
            self._mux_sound(None)
            self._container.close()
            with self.part.open("r+b") as file:
                os.fsync(file.fileno())

    def publish(self) -> None:
        """Put the finished file in the place of whatever is at the target."""
        with _writing(self.target):
            self.part.replace(self.target)

    def discard(self) -> None:
        """Close and remove what isn't published; nothing to do after ``publish``."""
        for container in (self._container, self._source):
            if container is not None:
                with suppress(OSError, av.FFmpegError):  # what went wrong with the file is on its way up already
                    container.close()
        self.part.unlink(missing_ok=True)

    def _open(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._source = av.open(BytesIO(self._sound.take.encoded))
        template = self._source.streams.audio[0]
        self._waiting.extend(packet for packet in self._source.demux(template) if packet.size)
        # The default movie timescale of 1000 would round the length of both streams to milliseconds.
        options = {"movflags": "+faststart", "movie_timescale": str(self._sound.sample_rate)}
        self._container = av.open(str(self.part), "w", format="mp4", options=options)
        self._video = self._container.add_stream(
            "libx264", rate=self._rate, options={"crf": str(self._crf), "preset": "medium"}
        )
        encoder = self._video.codec_context
        encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "yuv420p", 1 / self._rate
        encoder.colorspace, encoder.color_range = Colorspace.ITU709, ColorRange.MPEG
        encoder.color_primaries, encoder.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        self._audio = self._container.add_stream_from_template(template)
        self._container.start_encoding()  # A folder that can't be written is told before the next frame is made.

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            self._mux_sound(packet.dts * packet.time_base)
            self._container.mux(packet)

    def _mux_sound(self, until: Fraction | None) -> None:
        """Write the sound that starts by ``until`` (s), so that a player finds picture and sound side by side."""
        while self._waiting and (until is None or self._waiting[0].dts * self._waiting[0].time_base <= until):
            packet = self._waiting.popleft()
            packet.stream = self._audio
            self._container.mux(packet)


def _stream(streams: Any, path: Path, kind: str) -> Any:
    if not streams:
        raise MediaError(f"{path} has no {kind} stream. Choose a clip with picture and sound.")
    return streams[0]


def _moviepy_reader() -> Any:
    """moviepy's reader. Importing moviepy loads the nearest .env into os.environ; keys must not get there."""
    before = set(os.environ)
    from moviepy.video.io.ffmpeg_reader import FFMPEG_VideoReader  # noqa: PLC0415

    for name in set(os.environ) - before:
        del os.environ[name]
    return FFMPEG_VideoReader


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MediaError(f"The disk is full; {target} wasn't written. Free some space and try again.") from error
        raise MediaError(f"{target} can't be written ({error.strerror}). Check its folder.") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError, UnicodeError, UserWarning) as error:
        raise MediaError(f"{path} can't be read as a clip ({error}). It may be damaged; write it again.") from error
