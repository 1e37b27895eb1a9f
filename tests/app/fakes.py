"""Stand-ins for the engine: an honest one that writes a small real clip, and a worker program that uses it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import av
import numpy as np

from app import worker
from app.engines import OnStep
from app.jobs import Brief, Draft, Rendered

SAMPLE_RATE = 16_000


class FakeEngine:
    """Walks through the phases of the real engine, then writes grey pictures and a hum.

    A prompt that begins with "fail" fails in the middle; the seconds per step are given.
    """

    def __init__(self, step_seconds: float = 0.0) -> None:
        self._step_seconds = step_seconds

    def render(self, brief: Brief, draft: Draft, target: Path, on_step: OnStep) -> Rendered:
        spec = brief.spec
        for phase in ("loading", "text", "frame"):
            on_step(phase, 0, 1)
        for step in range(spec.num_inference_steps):
            on_step("denoising", step, spec.num_inference_steps)
            time.sleep(self._step_seconds)
            if (draft.prompt or "").startswith("fail") and step == 1:
                raise RuntimeError("the *fake* engine was told to fail")
        on_step("decoding", 0, 1)
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
    sys.exit(worker.main(sys.argv[2:], engine_factory=lambda: FakeEngine(float(sys.argv[1]))))
