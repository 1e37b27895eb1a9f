"""What can be measured in a picture: palette, brightness, framing, edges. It names nothing else."""

from __future__ import annotations

import json
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

CAVEAT = "Measured by the built-in, which can't name things or read text."
SIDE = 192  # pixels of the longer side that is measured
COLOURS = {
    "black": (18, 18, 20),
    "dark grey": (70, 70, 72),
    "grey": (128, 128, 128),
    "light grey": (195, 195, 197),
    "white": (248, 248, 248),
    "red": (205, 35, 35),
    "dark red": (110, 20, 25),
    "orange": (240, 135, 35),
    "yellow": (245, 215, 55),
    "beige": (225, 205, 170),
    "brown": (135, 88, 50),
    "dark brown": (70, 45, 30),
    "green": (60, 150, 60),
    "light green": (150, 205, 120),
    "dark green": (25, 75, 40),
    "teal": (30, 140, 140),
    "light blue": (150, 200, 235),
    "blue": (45, 95, 205),
    "dark blue": (25, 40, 90),
    "purple": (120, 60, 165),
    "pink": (240, 150, 185),
}

Plane = NDArray[np.float64]  # [height, width], 0 to 1


def measured(picture: bytes) -> str:
    """The elements of a picture file as a JSON object: style, camera, elements, text.

    Raises:
        OSError: Pillow can't open it.
    """
    with Image.open(BytesIO(picture)) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    width, height = image.size
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    rgb = np.asarray(image, dtype=np.float64) / 255  # [height, width, 3]
    luma = rgb @ np.array([0.2126, 0.7152, 0.0722])
    shares = _shares(_named(rgb))
    return json.dumps(
        {
            "style": _style(rgb, luma, shares),
            "camera": f"{_format(width, height)}. {_detail(rgb)}.",
            "elements": " ".join([*_regions(_named(rgb), shares), *_borders(rgb, luma), CAVEAT]),
            "text": [],
        },
        ensure_ascii=False,
    )


def _oklab(rgb: Plane) -> Plane:
    """sRGB (0 to 1) in Oklab, where distances are as they look (Björn Ottosson, 2020). [..., 3]"""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt(
        linear
        @ np.array(
            [
                [0.4122214708, 0.2119034982, 0.0883024619],
                [0.5363325363, 0.6806995451, 0.2817188376],
                [0.0514459929, 0.1073969566, 0.6299787005],
            ]
        )
    )
    lab: Plane = cones @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
    return lab


def _named(rgb: Plane) -> NDArray[np.intp]:
    """The number in ``COLOURS`` of each pixel's nearest colour; hue counts more than lightness. [height, width]"""
    weights = np.array([0.8, 1.6, 1.6])
    palette = _oklab(np.array(list(COLOURS.values())) / 255) * weights
    pixels = _oklab(rgb) * weights
    nearest: NDArray[np.intp] = np.argmin(((pixels[:, :, None, :] - palette) ** 2).sum(axis=-1), axis=-1)
    return nearest


def _shares(names: NDArray[np.intp]) -> dict[str, float]:
    """The colours that take 4 % or more of the picture, the largest first, six at most."""
    counts = np.bincount(names.ravel(), minlength=len(COLOURS)) / names.size
    order = np.argsort(-counts, kind="stable")[:6]
    found = {list(COLOURS)[index]: float(counts[index]) for index in order if counts[index] >= 0.04}
    return found or {list(COLOURS)[order[0]]: float(counts[order[0]])}


def _style(rgb: Plane, luma: Plane, shares: dict[str, float]) -> str:
    palette = _listed([f"{name} ({_percent(share)})" for name, share in shares.items()])
    brightness = _grade(
        float(luma.mean()),
        ((0.12, "very dark"), (0.32, "dark"), (0.6, "of medium brightness"), (0.85, "bright")),
        "very bright",
    )
    contrast = _grade(
        _spread(rgb),
        ((0.03, "hardly any contrast"), (0.12, "soft contrast"), (0.25, "clear contrast")),
        "strong contrast",
    )
    chroma = float((rgb.max(axis=2) - rgb.min(axis=2)).mean())
    colour = _grade(
        chroma, ((0.03, "no colours but greys"), (0.18, "muted colours"), (0.4, "clear colours")), "vivid colours"
    )
    return f"{palette[:1].upper()}{palette[1:]}; {brightness}, with {contrast} and {colour}."


def _spread(rgb: Plane) -> float:
    """How far the pixels lie from their mean colour, 0 to 0.5."""
    return float(np.sqrt(((rgb - rgb.mean(axis=(0, 1))) ** 2).mean()))


def _grade(value: float, steps: tuple[tuple[float, str], ...], beyond: str) -> str:
    return next((word for limit, word in steps if value < limit), beyond)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _format(width: int, height: int) -> str:
    kind = "Square" if width == height else "Landscape" if width > height else "Portrait"
    return f"{kind}, {width} x {height}"


def _edges(rgb: Plane) -> tuple[Plane, Plane]:
    """How far a pixel differs from the next pixel, across and down. [height, width]"""
    across = np.abs(np.diff(rgb, axis=1, append=rgb[:, -1:])).max(axis=2)
    down = np.abs(np.diff(rgb, axis=0, append=rgb[-1:])).max(axis=2)
    return across, down


def _detail(rgb: Plane) -> str:
    """Where the edges gather, by the third of the picture that has clearly more than its share of them."""
    across, down = _edges(rgb)
    edges = across + down
    if float((edges > 0.06).mean()) < 0.004:
        return "Even surfaces with hardly an edge"
    if float((edges > 0.06).mean()) > 0.6:
        return "Fine detail everywhere"
    total = edges.sum()
    columns = [float(part.sum() / total) for part in np.array_split(edges, 3, axis=1)]
    rows = [float(part.sum() / total) for part in np.array_split(edges, 3, axis=0)]
    side = ("left", "centre", "right")[int(np.argmax(columns))] if max(columns) > 0.45 else ""
    level = ("upper", "middle", "lower")[int(np.argmax(rows))] if max(rows) > 0.45 else ""
    if side in ("", "centre") and level in ("", "middle"):
        return "The detail gathers in the centre" if side or level else "The detail is spread evenly"
    words = [word for word in (level, side) if word and word != "middle"]
    return f"The detail gathers in the {' '.join(words)}" + (" part" if words[-1] in ("upper", "lower") else "")


def _regions(names: NDArray[np.intp], shares: dict[str, float]) -> list[str]:
    """Where each colour of the palette lies."""
    numbers = list(COLOURS)
    found = []
    for name, share in shares.items():
        where = "the whole picture" if share > 0.97 else _place(names == numbers.index(name))
        found.append(f"{name[:1].upper()}{name[1:]} covers {where}.")
    return found


def _place(mask: NDArray[np.bool_]) -> str:
    rows, columns = np.nonzero(mask)
    down, across = (rows + 0.5) / mask.shape[0], (columns + 0.5) / mask.shape[1]
    if _central(across) and _central(down):
        return "the centre"
    level = _half(down, "upper", "lower")
    side = _half(across, "left", "right")
    if not level and not side:
        return "parts all over the picture"
    return f"the {' '.join(word for word in (level, side) if word)} part"


def _central(place: Plane) -> bool:
    return bool(abs(float(place.mean()) - 0.5) < 0.1 and float(place.std()) < 0.16)


def _half(place: Plane, first: str, second: str) -> str:
    share = float((place < 0.5).mean())
    return first if share > 0.8 else second if share < 0.2 else ""


def _borders(rgb: Plane, luma: Plane) -> list[str]:
    """Edges that cross the whole picture, a slope of brightness, and whether the ground is plain."""
    across, down = _edges(rgb)
    found = []
    line, upright = (down > 0.04).mean(axis=1), (across > 0.04).mean(axis=0)
    if float(line.max()) > 0.6 and float(np.median(line)) < 0.3:
        place = _percent((int(np.argmax(line)) + 1) / luma.shape[0])
        found.append(f"A level edge crosses the picture {place} down from its top.")
    if float(upright.max()) > 0.6 and float(np.median(upright)) < 0.3:
        place = _percent((int(np.argmax(upright)) + 1) / luma.shape[1])
        found.append(f"An upright edge crosses the picture {place} from its left.")
    if not found:
        found += _slope(luma)
    ground = (across + down)[-max(1, luma.shape[0] // 4) :]
    found.append("The ground is plain." if float((ground > 0.06).mean()) < 0.05 else "The ground has detail.")
    return found


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _slope(luma: Plane) -> list[str]:
    if float(luma.std()) < 0.04:
        return []
    rows, columns = np.mgrid[0 : luma.shape[0], 0 : luma.shape[1]]
    for places, low, high in ((columns, "left", "right"), (rows, "top", "bottom")):
        if places.std() and abs(slope := float(np.corrcoef(places.ravel(), luma.ravel())[0, 1])) > 0.8:
            start, end = (low, high) if slope > 0 else (high, low)
            return [f"It grows brighter from {start} to {end}."]
    return []
