"""A tiny real checkpoint and a pipeline over it; nothing here is mocked."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mova.eightbit import KINDS
from mova.pipeline import MovaPipeline
from mova.playground import make_playground
from mova.quantise import ensure_quantised
from mova.spec import ClipSpec

TINY = ClipSpec(height=32, width=48, num_frames=5, fps=12, num_inference_steps=3, seed=7)


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_playground(tmp_path_factory.mktemp("checkpoints") / "MOVA-playground")


@pytest.fixture(scope="session")
def pipeline(playground: Path) -> MovaPipeline:
    return MovaPipeline.from_pretrained(playground, device="cpu")


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A red square on a blue gradient, the size of a TINY clip."""
    image = Image.linear_gradient("L").resize((48, 32)).convert("RGB")
    image.paste((200, 40, 30), (10, 8, 26, 24))
    return image


@pytest.fixture(scope="session")
def stores(playground: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind -> a store with the playground's 8-bit weights."""
    store = tmp_path_factory.mktemp("stores")
    return {kind: ensure_quantised(playground, kind, store=store) for kind in KINDS}
