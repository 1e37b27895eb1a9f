"""Stand-ins for the engine: an honest one that writes a small real clip, and a worker program that uses it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import av
import numpy as np

from agents import providers
from app import worker
from app.engines import Keep, OnStep
from app.jobs import Brief, Draft, Machine, Rendered
from app.settings import ROOT
from mova import media

SAMPLE_RATE = 16_000
DEVICE = "a fake device"


class FakeEngine:
    """Walks through the phases of the real engine, then writes grey pictures and a hum.

    A prompt's first word makes it misbehave: "fail" fails in the middle, "hang" never reports again, "devour" asks for
    memory until there is none; "flood" writes a clip of noise, some megabytes, by the real writer. The seconds per step
    are given.
    """

    def __init__(self, step_seconds: float = 0.0) -> None:
        self._step_seconds = step_seconds
        self.loads = 0
        self.loaded = False

    def render(self, brief: Brief, draft: Draft, target: Path, on_step: OnStep, keep: Keep) -> Rendered:
        spec = brief.spec
        if not self.loaded:
            on_step("loading", 0, 1)
            self.loads, self.loaded = self.loads + 1, True
        for phase in ("text", "frame"):
            on_step(phase, 0, 1)
        for step in range(spec.num_inference_steps):
            on_step("denoising", step, spec.num_inference_steps)
            time.sleep(self._step_seconds)
            if step == 1:
                self._misbehave((draft.prompt or "").split(" ")[0])
        on_step("decoding", 0, 1)
        if (draft.prompt or "").startswith("flood"):
            flood(target)
        part = target.with_name(target.name + ".part")
        write_clip(part, spec.width, spec.height, spec.num_frames, spec.fps)
        on_step("writing", 1, 1)
        part.replace(target)
        return Rendered(
            width=spec.width,
            height=spec.height,
            num_frames=spec.num_frames,
            fps=spec.fps,
            duration=spec.duration,
            sample_rate=SAMPLE_RATE,
            loudness=-23.1,
            true_peak=-6.0,
            notes=("A note from the engine.",),
        )

    def free(self) -> None:
        self.loaded = False

    def machine(self) -> Machine:
        return Machine(engine="fake", device=DEVICE, peak_memory={"rss": 1 << 20}, checkpoint_id="fake")

    def _misbehave(self, how: str) -> None:
        if how == "fail":
            raise RuntimeError("the *fake* engine was told to fail")
        if how == "hang":
            time.sleep(3600)
        if how == "devour":
            hoard = [bytearray(1 << 26) for _ in range(1 << 14)]  # a tebibyte
            raise AssertionError(f"there were {len(hoard)} pieces")


def flood(target: Path) -> None:
    """A clip that doesn't compress."""
    noise = np.random.default_rng(0)
    frames = (noise.integers(0, 256, (352, 640, 3), dtype=np.uint8) for _ in range(49))
    media.write_clip(target, frames, np.zeros(SAMPLE_RATE, np.float32), fps=24, num_frames=49, sample_rate=SAMPLE_RATE)


def write_clip(target: Path, width: int, height: int, num_frames: int, fps: float) -> None:
    """A real mp4: H.264 and AAC."""
    with av.open(str(target), "w", format="mp4", options={"movflags": "faststart"}) as container:
        video = container.add_stream("libx264", rate=round(fps))
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for index in range(num_frames):
            pixels = np.full((height, width, 3), 40 + 160 * index // num_frames, dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        samples = np.sin(np.arange(int(SAMPLE_RATE * num_frames / fps)) * 0.1).astype(np.float32)[None] * 0.1
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(audio.encode(frame))
        container.mux(audio.encode())


if __name__ == "__main__":  # python -m tests.app.fakes SECONDS --data DIR …: a real worker with the fake engine
    providers.__path__.append(str(ROOT / "tests" / "providers"))
    sys.exit(worker.main(sys.argv[2:], engine_factory=lambda: FakeEngine(float(sys.argv[1]))))
