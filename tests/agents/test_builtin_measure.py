"""The built-in's eye: pictures whose figures are known are measured as they are, and nothing else is said of them."""

from __future__ import annotations

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from agents.builtin.measure import CAVEAT, COLOURS, measured


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, kind)
    return file.getvalue()


def flat(*colour: int, height: int = 100, width: int = 200) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=float)


def seen(pixels: np.ndarray) -> dict[str, str]:
    return json.loads(measured(file_of(pixels)))


@pytest.mark.parametrize("name", COLOURS)
def test_a_colour_of_the_palette_is_called_by_its_name(name: str) -> None:
    found = seen(flat(*COLOURS[name]))
    assert found["style"].startswith(f"{name[:1].upper()}{name[1:]} (100 %);")
    assert f"{name[:1].upper()}{name[1:]} covers the whole picture." in found["elements"]


def test_red_and_blue_halves() -> None:
    halves = flat(220, 30, 30)
    halves[:, 100:] = (30, 60, 220)
    found = seen(halves)
    assert found["style"].startswith("Red (50 %) and blue (50 %);")
    assert "strong contrast and vivid colours" in found["style"]
    assert "Red covers the left part. Blue covers the right part." in found["elements"]
    assert "An upright edge crosses the picture 50 % from its left." in found["elements"]


def test_sky_above_ground_has_a_level_edge() -> None:
    picture = flat(150, 200, 235)
    picture[60:] = (60, 150, 60)
    found = seen(picture)["elements"]
    assert "Light blue covers the upper part. Green covers the lower part." in found
    assert "A level edge crosses the picture 60 % down from its top." in found


@pytest.mark.parametrize(
    ("level", "brightness"),
    [(0, "very dark"), (60, "dark"), (125, "of medium brightness"), (190, "bright"), (255, "very bright")],
)
def test_brightness_is_graded(level: int, brightness: str) -> None:
    found = seen(flat(level, level, level))
    assert f"; {brightness}, with hardly any contrast and no colours but greys." in found["style"]
    assert found["camera"].endswith("Even surfaces with hardly an edge.")
    assert "The ground is plain." in found["elements"]


@pytest.mark.parametrize(
    ("turn", "said"),
    [(0, "from left to right"), (1, "from bottom to top"), (2, "from right to left"), (3, "from top to bottom")],
)
def test_a_slope_of_brightness_has_its_direction(turn: int, said: str) -> None:
    ramp = np.repeat(np.tile(np.linspace(0, 255, 160), (160, 1))[:, :, None], 3, axis=2)
    assert f"It grows brighter {said}." in seen(np.rot90(ramp, turn))["elements"]


def test_noise_is_fine_detail_everywhere() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 200, 3)).astype(float)
    found = seen(noise)
    assert found["camera"].endswith("Fine detail everywhere.")
    assert "The ground has detail." in found["elements"]
    assert "edge crosses" not in found["elements"]


@pytest.mark.parametrize(
    ("top", "left", "where", "region"),
    [
        (5, 10, "in the upper left", "the upper left part"),
        (70, 165, "in the lower right", "the lower right part"),
        (38, 84, "in the centre", "the centre"),
        (70, 84, "in the lower centre", "the lower part"),
    ],
)
def test_where_the_detail_is(top: int, left: int, where: str, region: str) -> None:
    picture = flat(245, 245, 245)
    picture[top : top + 28, left : left + 32] = (210, 30, 30)
    found = seen(picture)
    assert found["camera"].endswith(f"The detail gathers {where}.")
    assert f"Red covers {region}." in found["elements"]


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (640, 352, "Landscape, 640 x 352."),
        (352, 640, "Portrait, 352 x 640."),
        (80, 80, "Square, 80 x 80."),
        (1, 1, "Square, 1 x 1."),
    ],
)
def test_the_format_is_told(width: int, height: int, said: str) -> None:
    assert seen(flat(9, 9, 9, height=height, width=width))["camera"].startswith(said)


def test_it_reads_no_text_names_nothing_and_says_so() -> None:
    found = json.loads(measured(file_of(flat(10, 20, 200))))
    assert found["text"] == []
    assert found["elements"].endswith(CAVEAT)


def test_jpeg_transparency_and_turned_pictures_are_read() -> None:
    assert json.loads(measured(file_of(flat(220, 30, 30), "JPEG")))["style"].startswith("Red (100 %)")
    file = BytesIO()
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(file, "PNG")
    assert json.loads(measured(file.getvalue()))["style"].startswith("White (100 %)")
    turned, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(turned, "JPEG", exif=exif)
    assert json.loads(measured(turned.getvalue()))["camera"].startswith("Portrait, 20 x 40.")
