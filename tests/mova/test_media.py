"""Clips as files: written while they are made, read back with PyAV, levelled, and never half there."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mova import media
from mova.media import ClipReport, Loudness, MediaError, check_clip, measure_loudness, read_frame, write_clip

HEIGHT, WIDTH, FPS, RATE = 48, 64, 24, 48000
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def grey(index: int) -> np.ndarray:
    """A frame that tells its index."""
    return np.full((HEIGHT, WIDTH, 3), 8 * index % 256, np.uint8)


def greys(count: int) -> Iterator[np.ndarray]:
    return (grey(index) for index in range(count))


def noisy(count: int) -> Iterator[np.ndarray]:
    """Frames that don't compress."""
    random = np.random.default_rng(0)
    return (random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(count))


def noise(seconds: float, decibels: float, sample_rate: int = RATE) -> np.ndarray:
    """White noise of that RMS (dBFS), clipped to -1 to 1."""
    samples = np.random.default_rng(1).standard_normal(int(seconds * sample_rate)) * 10 ** (decibels / 20)
    return np.clip(samples, -1, 1).astype(np.float32)


def sine(frequency: float, decibels: float, seconds: float = 1.0, phase: float = 0.0, rate: int = RATE) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return (10 ** (decibels / 20) * np.sin(2 * np.pi * frequency * time + phase)).astype(np.float32)


def spiky(seconds: float) -> np.ndarray:
    """Bursts of band-limited noise, four a second: peaks 20 dB above the loudness, as close speech has them."""
    samples = np.random.default_rng(2).standard_normal(int(seconds * RATE))
    samples = np.convolve(samples, np.hanning(24), "same")
    burst = np.maximum(0, np.sin(2 * np.pi * 2 * np.arange(samples.size) / RATE)) ** 6
    return (samples * burst * 0.02).astype(np.float32)


def write(target: Path, count: int = 12, audio: np.ndarray | None = None, **options: Any) -> ClipReport:
    """``count`` grey frames and silence, unless told otherwise."""
    options = {"frames": greys(count), "num_frames": count, "fps": FPS, "sample_rate": RATE, **options}
    return write_clip(target, audio=np.zeros(0, np.float32) if audio is None else audio, **options)


def decode_sound(path: Path) -> np.ndarray:
    with av.open(str(path)) as clip:
        return np.concatenate([block.to_ndarray()[0] for block in clip.decode(audio=0)])


def decode_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as clip:
        return [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A Python of its own, in ``folder``."""
    environment = os.environ | {"PYTHONPATH": str(Path(media.__file__).parents[1])}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The file


def test_the_file_is_what_players_expect(tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        video, audio = clip.streams.video[0], clip.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (video.codec_context.width, video.codec_context.height) == (WIDTH, HEIGHT)
        tags = ("colorspace", "color_primaries", "color_trc", "color_range")
        assert [getattr(video.codec_context, tag) for tag in tags] == [1, 1, 1, 1]  # BT.709, limited range
        assert (audio.codec_context.name, audio.codec_context.profile, audio.codec_context.channels) == ("aac", "LC", 1)
        assert audio.codec_context.sample_rate == RATE
    data = (tmp_path / "clip.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # faststart


@pytest.mark.parametrize(
    ("count", "fps", "rate"),
    [(12, 24, 48000), (1, 24, 48000), (13, 23.976, 44100), (5, 12.5, 8000), (9, 30000 / 1001, 48000)],
)
def test_picture_and_sound_last_as_long(tmp_path: Path, count: int, fps: float, rate: int) -> None:
    report = write(tmp_path / "clip.mp4", count, noise(2, -20, rate), fps=fps, sample_rate=rate)
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        video, audio = clip.streams.video[0], clip.streams.audio[0]
        assert video.frames == len(decode_frames(tmp_path / "clip.mp4")) == count
        assert float(video.duration * video.time_base) == pytest.approx(count / fps, abs=1e-4)
        assert audio.duration * audio.time_base * rate == int(rate * count / fps)  # to the sample
        assert (video.start_time, audio.start_time) == (0, 0)
        assert float(video.average_rate) == pytest.approx(fps, rel=1e-6)
    assert report.audio_samples == int(rate * count / fps)
    assert report.duration == count / fps


def test_the_report_tells_what_was_written(tmp_path: Path) -> None:
    report = write(tmp_path / "clip.mp4", 12, sine(1000, -20))
    assert (report.path, report.num_frames, report.fps) == (tmp_path / "clip.mp4", 12, FPS)
    assert (report.width, report.height, report.sample_rate) == (WIDTH, HEIGHT, RATE)
    assert report.gain_db == 0
    in_the_file = measure_loudness(decode_sound(report.path)[: report.audio_samples], RATE)
    assert report.delivered == in_the_file
    assert report.source == measure_loudness(sine(1000, -20)[: report.audio_samples], RATE)


def test_frames_come_back_in_order_and_colour(tmp_path: Path) -> None:
    colours = [RED, GREEN, BLUE, (255, 255, 255), (0, 0, 0), (200, 100, 50)]
    frames = [np.full((HEIGHT, WIDTH, 3), colour, np.uint8) for colour in colours]
    write(tmp_path / "clip.mp4", len(colours), frames=frames)
    for frame, colour in zip(decode_frames(tmp_path / "clip.mp4"), colours, strict=True):
        assert np.abs(frame.reshape(-1, 3).mean(axis=0) - colour).max() < 3


def test_an_impulse_stays_where_it_is(tmp_path: Path) -> None:
    for rate, place in ((RATE, 12345), (2000, 250)):
        audio = np.zeros(rate, np.float32)
        audio[place] = 0.9
        report = write(tmp_path / "clip.mp4", 24, audio, sample_rate=rate)
        heard = int(np.abs(decode_sound(tmp_path / "clip.mp4")).argmax())
        assert abs(heard / report.sample_rate - place / rate) <= 1 / report.sample_rate


def test_sound_and_picture_lie_side_by_side(tmp_path: Path) -> None:
    """FFmpeg's muxer would do it by itself, but not over more than 10 s."""
    write(tmp_path / "clip.mp4", 30, noise(30, -20, 8000), fps=1, sample_rate=8000)
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        packets = [(p.pos, p.stream.type, float(p.dts * p.time_base)) for p in clip.demux() if p.size]
    heard = 0.0
    for _, kind, seconds in sorted(packets):
        if kind == "audio":
            heard = seconds
        assert abs(heard - max(0, seconds)) < 0.5  # the first pictures are decoded before they are due


def test_crf_trades_size_for_quality(tmp_path: Path) -> None:
    sizes = []
    for crf in (10, 40):
        write(tmp_path / "clip.mp4", 6, frames=noisy(6), crf=crf)
        sizes.append((tmp_path / "clip.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def test_a_rate_that_aac_lacks_is_resampled_up(tmp_path: Path) -> None:
    report = write(tmp_path / "clip.mp4", 24, sine(200, -6, rate=2000), sample_rate=2000)
    assert (report.sample_rate, report.audio_samples) == (7350, 7350)
    spectrum = np.abs(np.fft.rfft(decode_sound(tmp_path / "clip.mp4")[:7350]))
    assert int(spectrum.argmax()) == 200


# Frame by frame


def test_a_frame_is_encoded_before_the_next_but_one_is_made(tmp_path: Path) -> None:
    made: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for index in range(30):
            alive.append(sum(frame() is not None for frame in made))
            frame = grey(index)
            made.append(weakref.ref(frame))
            yield frame
            del frame

    write(tmp_path / "clip.mp4", 30, frames=frames())
    assert max(alive) <= 1


def test_progress_follows_every_frame(tmp_path: Path) -> None:
    made: list[int] = []
    told: list[tuple[int, int, int]] = []

    def frames() -> Iterator[np.ndarray]:
        for index in range(5):
            made.append(index)
            yield grey(index)

    write(tmp_path / "clip.mp4", 5, frames=frames(), on_frame=lambda done, total: told.append((done, total, len(made))))
    assert told == [(done, 5, done) for done in range(1, 6)]


@pytest.mark.parametrize(("count", "sentence"), [(4, "only 4 of 5"), (0, "only 0 of 5"), (6, "more than 5")])
def test_a_wrong_number_of_frames_is_refused(tmp_path: Path, count: int, sentence: str) -> None:
    with pytest.raises(MediaError, match=sentence):
        write(tmp_path / "clip.mp4", 5, frames=greys(count))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((HEIGHT, WIDTH + 2, 3), np.uint8),
        np.zeros((HEIGHT + 1, WIDTH, 3), np.uint8),
        np.zeros((HEIGHT, WIDTH), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.float32),
    ],
)
def test_a_frame_of_another_kind_is_refused(tmp_path: Path, frame: np.ndarray) -> None:
    with pytest.raises(MediaError, match="rame"):
        write(tmp_path / "clip.mp4", 2, frames=[grey(0), frame])
    assert names(tmp_path) == []


@pytest.mark.parametrize("audio", [np.array([0.1, np.nan]), np.array([np.inf, 0.1]), np.zeros((1, 1, 9))])
def test_sound_that_is_none_is_refused(tmp_path: Path, audio: np.ndarray) -> None:
    with pytest.raises(MediaError, match="sound"):
        write(tmp_path / "clip.mp4", audio=audio.astype(np.float32))


# Never half a file


class Cancelled(BaseException):
    pass


@pytest.mark.parametrize("error", [Cancelled(), KeyboardInterrupt(), OSError(errno.EIO, "a decoder's own")])
def test_what_the_frames_raise_goes_on_unchanged(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "clip.mp4"
    target.write_bytes(b"an earlier clip")
    seen: list[list[str]] = []

    def frames() -> Iterator[np.ndarray]:
        yield from noisy(3)
        seen.append(names(tmp_path))
        raise error

    with pytest.raises(type(error)) as raised:
        write(target, 5, frames=frames())
    assert raised.value is error
    assert seen == [["clip.mp4", "clip.mp4.part"]]
    assert names(tmp_path) == ["clip.mp4"]
    assert target.read_bytes() == b"an earlier clip"


def test_a_cancel_from_the_progress_leaves_nothing(tmp_path: Path) -> None:
    def cancel(done: int, total: int) -> None:
        if done == total:  # everything is encoded, nothing published
            raise Cancelled

    with pytest.raises(Cancelled):
        write(tmp_path / "clip.mp4", 5, on_frame=cancel)
    assert names(tmp_path) == []


def test_an_earlier_clip_and_an_earlier_rest_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"an earlier clip")
    (tmp_path / "clip.mp4.part").write_bytes(b"x" * 100_000)
    write(tmp_path / "clip.mp4")
    assert names(tmp_path) == ["clip.mp4"]
    check_clip(tmp_path / "clip.mp4", num_frames=12, duration=0.5)


def test_the_file_is_checked_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def spoil(path: Path, **expected: Any) -> None:
        seen.append(names(tmp_path))
        path.write_bytes(path.read_bytes()[:-3000])
        check_clip(path, **expected)

    monkeypatch.setattr(media, "check_clip", spoil)
    with pytest.raises(MediaError):
        write(tmp_path / "clip.mp4", 6, frames=noisy(6))
    assert seen == [["clip.mp4.part"]]
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
@pytest.mark.parametrize("count", [1, 60])  # all of it fits into a buffer, or it overflows on the way
def test_a_full_disk_is_told(tmp_path: Path, count: int) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"an earlier clip")
    (tmp_path / "clip.mp4.part").symlink_to("/dev/full")
    with pytest.raises(MediaError, match="The disk is full") as raised:
        write(tmp_path / "clip.mp4", count, frames=noisy(count))
    assert isinstance(raised.value.__cause__, OSError)
    assert names(tmp_path) == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == b"an earlier clip"


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of a process")
def test_a_file_that_may_not_grow_is_told(tmp_path: Path) -> None:
    script = """
import pathlib, resource, numpy
from mova.media import MediaError, write_clip
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
frames = numpy.random.default_rng(0).integers(0, 256, (150, 48, 64, 3), numpy.uint8)
try:
    write_clip(pathlib.Path("clip.mp4"), frames, numpy.zeros(9, "f4"), fps=24, num_frames=150, sample_rate=48000)
except MediaError as error:
    print(error, error.__cause__.errno)
"""
    done = run(script, tmp_path)
    assert done.stdout == f"clip.mp4 can't be written (File too large). Check its folder. {errno.EFBIG}\n", done.stderr
    assert names(tmp_path) == []


def test_a_missing_folder_is_told_before_the_second_frame(tmp_path: Path) -> None:
    frames = greys(5)
    with pytest.raises(MediaError, match="can't be written"):
        write(tmp_path / "nowhere" / "clip.mp4", 5, frames=frames)
    assert len(list(frames)) == 4


# Reading


def test_any_frame_can_be_read(tmp_path: Path) -> None:
    for fps in (24, 12.344):  # moviepy takes the second for 12.34, which is a frame off after some time
        write(tmp_path / "clip.mp4", 210, fps=fps)
        for index in (0, 1, 101, 209, -1, -210):
            picture = read_frame(tmp_path / "clip.mp4", index)
            assert (picture.mode, picture.size) == ("RGB", (WIDTH, HEIGHT))
            assert abs(picture.getpixel((5, 5))[0] - 8 * (index % 210) % 256) <= 2


def test_the_read_frame_has_its_colours(tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4", 2, frames=[np.full((HEIGHT, WIDTH, 3), (200, 30, 90), np.uint8)] * 2)
    assert np.abs(np.array(read_frame(tmp_path / "clip.mp4").getpixel((9, 9))) - (200, 30, 90)).max() < 4


def test_a_frame_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4", 3)
    for index in (3, -4):
        with pytest.raises(MediaError, match="has 3 frames"):
            read_frame(tmp_path / "clip.mp4", index)
    (tmp_path / "text.mp4").write_text("no clip")
    for path in (tmp_path / "text.mp4", tmp_path / "nowhere.mp4"):
        with pytest.raises(MediaError, match="can't be read"):
            read_frame(path)


def test_a_frame_that_is_cut_off_is_not_replaced_by_another(tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4", 20, frames=noisy(20))
    data = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match="can't be read"):
        read_frame(tmp_path / "clip.mp4", -1)


def test_reading_keeps_keys_out_of_the_environment(tmp_path: Path) -> None:
    """moviepy loads the nearest .env into os.environ when it is imported; in an interactive Python from the folder."""
    write(tmp_path / "clip.mp4", 2)
    (tmp_path / ".env").write_text("STUDIO_TEST_KEY=secret")
    script = (
        "import os, pathlib; from mova.media import read_frame; before = dict(os.environ); "
        "read_frame(pathlib.Path('clip.mp4')); import moviepy.config; "
        "assert moviepy.config.DOTENV, 'moviepy found no .env'; assert dict(os.environ) == before, 'a key came in'"
    )
    done = run(script, tmp_path)
    assert done.returncode == 0, done.stderr


def test_check_clip_finds_every_cut(tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4", 6, noise(1, -10), frames=noisy(6))
    check_clip(tmp_path / "clip.mp4", num_frames=6, duration=0.25)
    data = (tmp_path / "clip.mp4").read_bytes()
    for cut in (1, 100, 700, 3000, len(data) - 500, len(data)):
        (tmp_path / "cut.mp4").write_bytes(data[: len(data) - cut])
        with pytest.raises(MediaError):
            check_clip(tmp_path / "cut.mp4", num_frames=6, duration=0.25)


def test_check_clip_compares(tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4", 6)
    with pytest.raises(MediaError, match="6 frames instead of 7"):
        check_clip(tmp_path / "clip.mp4", num_frames=7, duration=0.25)
    with pytest.raises(MediaError, match=r"0\.250 s long instead of 0\.300 s"):
        check_clip(tmp_path / "clip.mp4", num_frames=6, duration=0.3)


def test_check_clip_wants_both_streams(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "mute.mp4"), "w") as clip:
        stream = clip.add_stream("libx264", rate=24, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
        for packet in [*stream.encode(av.VideoFrame.from_ndarray(grey(3))), *stream.encode(None)]:
            clip.mux(packet)
    with pytest.raises(MediaError, match="no audio stream"):
        check_clip(tmp_path / "mute.mp4", num_frames=1, duration=1 / 24)


# Loudness


def test_loudness_of_known_signals() -> None:
    """BS.1770-4: a 997 Hz sine of 0 dBFS in one channel reads -3.01 LKFS."""
    for rate in (16000, 44100, RATE):
        measured = measure_loudness(sine(997, -20, seconds=2, rate=rate), rate)
        assert measured.integrated == pytest.approx(-23.01, abs=0.1)
        assert measured.true_peak == pytest.approx(-20, abs=0.1)


def test_the_true_peak_lies_between_the_samples() -> None:
    between = sine(RATE / 4, 0, phase=math.pi / 4)  # its samples are all at -3 dBFS
    assert 20 * math.log10(float(np.abs(between).max())) == pytest.approx(-3.01, abs=0.01)
    middle = measure_loudness(between * np.hanning(between.size).astype(np.float32), RATE)
    assert middle.true_peak == pytest.approx(0, abs=0.1)


def test_silence_is_gated_out() -> None:
    quiet_half = np.concatenate([sine(997, -20, seconds=2), np.zeros(2 * RATE, np.float32)])
    assert measure_loudness(quiet_half, RATE).integrated == pytest.approx(-23, abs=0.5)


def test_what_has_no_loudness() -> None:
    assert measure_loudness(np.zeros(RATE, np.float32), RATE) == Loudness(None, None)
    short = measure_loudness(sine(1000, -20, seconds=0.39), RATE)
    assert short.integrated is None
    assert short.true_peak == pytest.approx(-20, abs=0.1)
    assert measure_loudness(sine(997, -20, seconds=0.4), RATE).integrated is not None


@pytest.mark.parametrize("target", [-14, -23])
@pytest.mark.parametrize(
    ("audio", "within"),
    [(noise(1, -3), 0.5), (noise(1, -50), 0.5), (sine(60, -30), 0.5), (spiky(2), 0.5)],
    ids=["loud", "faint", "bass", "spiky"],
)
def test_levelling_reaches_the_target(tmp_path: Path, audio: np.ndarray, within: float, target: float) -> None:
    report = write(tmp_path / "clip.mp4", audio.size * FPS // RATE, audio, loudness=target)
    heard = measure_loudness(decode_sound(report.path)[: report.audio_samples], RATE)
    assert heard == report.delivered
    assert heard.integrated == pytest.approx(target, abs=within)
    assert heard.true_peak is not None
    assert heard.true_peak <= -1
    assert report.source.integrated == pytest.approx(target - report.gain_db, abs=13)


def test_levelling_turns_loud_down_and_quiet_up(tmp_path: Path) -> None:
    assert write(tmp_path / "clip.mp4", 24, noise(1, -3), loudness=-14).gain_db < -5
    assert write(tmp_path / "clip.mp4", 24, noise(1, -50), loudness=-14).gain_db > 20


def test_what_cannot_be_that_loud_keeps_its_peaks_below_the_ceiling(tmp_path: Path) -> None:
    clicks = np.zeros(RATE, np.float32)
    clicks[::9600] = 1
    report = write(tmp_path / "clip.mp4", 24, clicks, loudness=-14)
    assert report.delivered.integrated is not None
    assert report.delivered.integrated < -20
    assert report.delivered.true_peak is not None
    assert -3 < report.delivered.true_peak <= -1


def test_without_a_loudness_to_reach_only_the_ceiling_is_kept(tmp_path: Path) -> None:
    short = write(tmp_path / "clip.mp4", 8, noise(0.3, 0), loudness=-30)
    assert (short.source.integrated, short.gain_db) == (None, 0)
    assert short.delivered.true_peak is not None
    assert -3 < short.delivered.true_peak <= -1
    silent = write(tmp_path / "clip.mp4", 24, loudness=-14)
    assert (silent.source, silent.delivered, silent.gain_db) == (Loudness(None, None), Loudness(None, None), 0)


def test_without_levelling_the_sound_is_only_clipped(tmp_path: Path) -> None:
    quiet, loud = sine(440, -12, seconds=0.5), sine(440, 6, seconds=0.5)
    write(tmp_path / "clip.mp4", 12, quiet)
    error = decode_sound(tmp_path / "clip.mp4")[: quiet.size] - quiet
    assert float(np.sqrt((error[2048:-2048] ** 2).mean())) < 0.001
    report = write(tmp_path / "clip.mp4", 12, loud)
    heard = decode_sound(report.path)[4800:19200]  # 0.3 s: 440 Hz is bin 132
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(heard.size)))
    assert spectrum[396] > 0.1 * spectrum[132]  # flat tops have a third harmonic
    assert report.source.true_peak == pytest.approx(6, abs=0.1)  # as the model made it


def test_the_limiter_leaves_a_steady_tone_clean(tmp_path: Path) -> None:
    report = write(tmp_path / "clip.mp4", 9, sine(60, 0, seconds=0.375), loudness=-14)  # too short for a loudness
    assert report.delivered.true_peak is not None
    assert report.delivered.true_peak <= -1
    heard = decode_sound(report.path)[2400:16800]  # 0.3 s: 60 Hz is bin 18
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(heard.size))) ** 2
    assert spectrum.sum() - spectrum[12:25].sum() < 1e-6 * spectrum.sum()


def test_pcm_is_clipped_truncated_and_interleaved() -> None:
    audio = np.array([[0.0, 2.0, -2.0], [0.5, -0.5, 1e-6]], np.float32)
    assert media.to_pcm16(audio).tolist() == [0, 16383, 32767, -16383, -32767, 0]
    assert media.to_pcm16(audio[1]).tolist() == [16383, -16383, 0]
