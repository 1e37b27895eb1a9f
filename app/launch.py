"""The command that starts an SGLang server for MOVA: the published ones don't start on releases from 0.5.10 on."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from app.servers import MODELS

# GPUs -> how a clip is split over them: (ring, ulysses). ulysses has to divide the towers' heads, 40 and 12.
SPLITS = {1: (1, 1), 2: (1, 2), 4: (1, 4), 8: (2, 4)}


@dataclass(frozen=True)
class Launch:
    """What a server is to run on. ``compiled``: a start that takes minutes, for faster clips after it."""

    model: str = next(iter(MODELS))
    gpus: int = 1
    port: int = 30000
    compiled: bool = False
    output: str = "outputs"


def command_of(launch: Launch) -> str:
    """For a shell, as 0.5.23 reads it; it listens on that machine alone, as the server asks nobody for a token."""
    ring, ulysses = SPLITS[launch.gpus]
    lines = [
        ["sglang", "serve", "--model-path", f"OpenMOSS-Team/{launch.model}"],
        ["--host", "127.0.0.1", "--port", str(launch.port), "--strict-ports"],
        ["--num-gpus", str(launch.gpus)],
    ]
    if launch.gpus > 1:
        lines[-1] += ["--tp-size", "1", "--ring-degree", str(ring), "--ulysses-degree", str(ulysses)]
    if ring > 1:
        lines.append(["--attention-backend", "fa"])  # ring attention runs on no other but sage_attn
    if launch.compiled:
        lines.append(["--enable-torch-compile"])
    lines.append(["--output-path", launch.output])
    return " \\\n  ".join(shlex.join(words) for words in lines)
