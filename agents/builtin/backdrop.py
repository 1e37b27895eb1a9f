"""What lies behind and beneath the things of a picture: sky, place, ground, weather."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from PIL import Image, ImageDraw, ImageFilter

from agents.builtin.scene import Colour, Surface
from agents.builtin.shapes import darker, lighter, mix

SKIES: dict[str, tuple[Colour, Colour]] = {
    "": ((122, 188, 236), (222, 240, 248)),
    "day": ((92, 172, 238), (212, 238, 250)),
    "overcast": ((128, 142, 160), (198, 206, 212)),
    "dawn": ((132, 152, 212), (255, 208, 172)),
    "dusk": ((84, 66, 128), (252, 154, 92)),
    "night": ((12, 18, 48), (44, 58, 108)),
}
TINTS: dict[str, tuple[float, float, float]] = {
    "": (1.0, 1.0, 1.0),
    "day": (1.0, 1.0, 1.0),
    "overcast": (0.88, 0.9, 0.94),
    "dawn": (1.0, 0.94, 0.9),
    "dusk": (0.97, 0.84, 0.78),
    "night": (0.52, 0.57, 0.78),
}
WALLS: tuple[Colour, ...] = ((232, 224, 210), (214, 222, 226), (226, 216, 222), (216, 224, 208), (238, 226, 198))
GROUND_COLOURS: dict[str, Colour] = {
    "floor": (196, 186, 172),
    "wood": (186, 132, 84),
    "table": (160, 106, 66),
    "grass": (112, 172, 84),
    "sand": (232, 206, 150),
    "snow": (240, 245, 250),
    "water": (52, 122, 172),
    "roof": (150, 92, 78),
    "lake": (70, 132, 160),
    "road": (104, 106, 114),
    "stone": (142, 140, 142),
    "earth": (150, 112, 78),
    "carpet": (164, 82, 84),
}
MATERIAL_COLOURS: dict[str, Colour] = {
    "wood": (178, 122, 74),
    "glass": (176, 214, 226),
    "metal": (158, 166, 176),
    "rubber": (66, 66, 72),
}


@dataclass
class Canvas:
    """A picture under way: the image, how to draw on it, its horizon in pixels and its source of variety."""

    image: Image.Image  # RGB
    horizon: int
    light: str
    random: Random

    @property
    def draw(self) -> ImageDraw.ImageDraw:
        """Draws on the image, translucent colours included."""
        return ImageDraw.Draw(self.image, "RGBA")

    @property
    def unit(self) -> int:
        """The shorter side, by which sizes are measured."""
        return min(self.image.size)

    def tinted(self, colour: Colour) -> Colour:
        """A colour in the light of the picture."""
        red, green, blue = (round(value * part) for value, part in zip(colour, TINTS[self.light], strict=True))
        return red, green, blue


def gradient(canvas: Canvas, top: int, bottom: int, start: Colour, end: Colour) -> None:
    """Fill the rows from ``top`` to ``bottom``, from one colour to the other."""
    width = canvas.image.width
    column = Image.new("RGB", (1, 256))
    for row in range(256):
        column.putpixel((0, row), mix(start, end, row / 255))
    canvas.image.paste(column.resize((width, max(1, bottom - top)), Image.Resampling.BILINEAR), (0, top))


def paint_place(canvas: Canvas, place: str, surface: Surface | None) -> None:
    """What is behind: a wall, or a sky with what stands before it."""
    if place in ("room", "plain"):
        _wall(canvas, surface, plain=place == "plain")
        return
    if place in ("space", "underwater"):
        _space(canvas) if place == "space" else _depths(canvas)
        return
    above, below = SKIES[canvas.light]
    if surface and surface.name == "sky" and surface.colour:
        above, below = canvas.tinted(surface.colour), lighter(canvas.tinted(surface.colour), 0.55)
    gradient(canvas, 0, canvas.horizon + 2, above, below)
    if canvas.light == "night":
        _stars(canvas, 70, canvas.horizon)
    behind = {"forest": _forest, "city": _city, "mountains": _mountains, "hills": _hills}.get(place)
    if behind:
        behind(canvas)


def paint_ground(canvas: Canvas, ground: Surface) -> None:
    """What is beneath, from the horizon to the lower edge."""
    base = ground.colour or MATERIAL_COLOURS.get(ground.material) or GROUND_COLOURS[ground.name]
    base = canvas.tinted(base)
    gradient(canvas, canvas.horizon, canvas.image.height, lighter(base, 0.14), darker(base, 0.1))
    wooden = ground.name == "wood" or ground.material == "wood"
    if wooden and ground.name in ("floor", "wood"):
        _planks(canvas, base)
    elif ground.name == "floor":
        _tiles(canvas, base)
    elif ground.name == "table":
        _table(canvas, base)
    else:
        details = {
            "grass": _tufts,
            "sand": _grains,
            "snow": _drifts,
            "water": _waves,
            "roof": _tiles,
            "lake": _waves,
            "road": _lane,
            "stone": _slabs,
            "earth": _grains,
        }
        details.get(ground.name, _nothing)(canvas, base)


def paint_weather(canvas: Canvas, weather: str) -> None:
    """Rain, snowfall or fog in front of everything."""
    width, height, unit = *canvas.image.size, canvas.unit
    draw, random = canvas.draw, canvas.random
    for _ in range({"rain": 170, "snowfall": 130}.get(weather, 0)):
        x, y = random.uniform(-0.05, 1.05) * width, random.uniform(0, 1) * height
        if weather == "rain":
            long = random.uniform(0.04, 0.09) * unit
            draw.line([(x, y), (x - long * 0.25, y + long)], (226, 236, 248, 130), max(1, unit // 300))
        else:
            radius = random.uniform(0.004, 0.012) * unit
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], (255, 255, 255, 225))
    if weather == "fog":
        veil = Image.new("L", (1, 3))
        for row, level in enumerate((90, 165, 120)):
            veil.putpixel((0, row), level)
        canvas.image.paste(
            canvas.tinted((230, 234, 238)), (0, 0), veil.resize((width, height), Image.Resampling.BICUBIC)
        )


def _wall(canvas: Canvas, surface: Surface | None, *, plain: bool) -> None:
    colour = canvas.random.choice(WALLS)
    if surface:
        colour = surface.colour or MATERIAL_COLOURS.get(surface.material) or colour
    colour = canvas.tinted(colour)
    gradient(canvas, 0, canvas.horizon, lighter(colour, 0.22), colour)
    width, unit, draw = canvas.image.width, canvas.unit, canvas.draw
    if surface and surface.material in ("wood", "glass", "metal"):
        step = width / (9 if surface.material == "wood" else 4)
        for index in range(1, 9):
            draw.line(
                [(index * step, 0), (index * step, canvas.horizon)], (*darker(colour, 0.25), 150), max(1, unit // 160)
            )
    if surface and surface.material == "glass":
        for left in (0.1, 0.45, 0.72):
            x, wide = left * width, 0.07 * width
            draw.polygon(
                [(x, canvas.horizon), (x + wide, canvas.horizon), (x + 3 * wide, 0), (x + 2 * wide, 0)],
                (255, 255, 255, 70),
            )
    if not plain:
        draw.rectangle([0, canvas.horizon - unit * 0.035, width, canvas.horizon], (*lighter(colour, 0.45), 255))
        draw.line([(0, canvas.horizon), (width, canvas.horizon)], (*darker(colour, 0.4), 255), max(1, unit // 200))


def _space(canvas: Canvas) -> None:
    gradient(canvas, 0, canvas.image.height, (8, 8, 28), (34, 20, 62))
    _stars(canvas, 190, canvas.image.height)
    unit, random, (width, height) = canvas.unit, canvas.random, canvas.image.size
    radius, x, y = unit * 0.13, random.choice((0.16, 0.84)) * width, 0.2 * height
    canvas.draw.ellipse([x - radius, y - radius, x + radius, y + radius], (196, 132, 108, 255))
    canvas.draw.ellipse([x - radius, y - radius, x + radius * 0.55, y + radius * 0.55], (222, 160, 128, 255))


def _depths(canvas: Canvas) -> None:
    width, height = canvas.image.size
    gradient(canvas, 0, height, (72, 178, 204), (12, 66, 116))
    for _ in range(4):
        x, wide = canvas.random.uniform(0, 1) * width, canvas.random.uniform(0.05, 0.12) * width
        canvas.draw.polygon(
            [(x, 0), (x + wide, 0), (x - wide * 0.6, height), (x - wide * 2.4, height)], (255, 255, 255, 22)
        )
    floor = int(height * 0.86)
    canvas.draw.polygon(_wavy(canvas, floor, 0.02), (204, 184, 136, 255))
    for side in (0.08, 0.14, 0.88, 0.94):
        foot = side * width
        weed = [
            (foot + math.sin(step * 1.1) * canvas.unit * 0.02, height - step * canvas.unit * 0.05) for step in range(8)
        ]
        canvas.draw.line(weed, (38, 128, 96, 255), max(2, canvas.unit // 45), joint="curve")
    for _ in range(14):
        x, y, radius = (
            canvas.random.uniform(0, width),
            canvas.random.uniform(0, floor),
            canvas.random.uniform(0.005, 0.016) * canvas.unit,
        )
        canvas.draw.ellipse([x - radius, y - radius, x + radius, y + radius], (255, 255, 255, 90))


def _stars(canvas: Canvas, count: int, bottom: int) -> None:
    for _ in range(count):
        x, y = canvas.random.uniform(0, canvas.image.width), canvas.random.uniform(0, bottom)
        radius = canvas.random.uniform(0.0012, 0.0042) * canvas.unit
        canvas.draw.ellipse(
            [x - radius, y - radius, x + radius, y + radius], (255, 252, 232, canvas.random.randint(120, 255))
        )


def _wavy(canvas: Canvas, level: float, height: float) -> list[tuple[float, float]]:
    """An outline that rolls about ``level`` and closes along the lower edge."""
    width, bottom = canvas.image.size
    start, swing = canvas.random.uniform(0, math.tau), height * canvas.image.height
    steps = [(index / 60, start + index / 60 * 7.5) for index in range(61)]
    top = [(part * width, level + swing * (math.sin(angle) + 0.5 * math.sin(2.3 * angle))) for part, angle in steps]
    return [*top, (width, bottom), (0, bottom)]


def _hills(canvas: Canvas) -> None:
    sky = SKIES[canvas.light][1]
    for lift, part in ((0.11, 0.5), (0.05, 0.28)):
        colour = mix(canvas.tinted((104, 158, 104)), sky, part)
        canvas.draw.polygon(_wavy(canvas, canvas.horizon - lift * canvas.image.height, 0.025), colour)


def _mountains(canvas: Canvas) -> None:
    width, height = canvas.image.size
    sky = SKIES[canvas.light][1]
    for part, tall, wide in ((0.55, 0.42, 0.3), (0.25, 0.3, 0.24)):
        colour = mix(canvas.tinted((96, 110, 140)), sky, part)
        for index in range(-1, 5):
            x = (index * 0.27 + canvas.random.uniform(-0.06, 0.06)) * width
            peak = canvas.horizon - tall * height * canvas.random.uniform(0.65, 1.0)
            draw, half = canvas.draw, wide * width
            draw.polygon([(x - half, canvas.horizon), (x, peak), (x + half, canvas.horizon)], colour)
            draw.polygon(
                [(x, peak), (x + half, canvas.horizon), (x + half * 0.25, canvas.horizon)], darker(colour, 0.12)
            )
            cap, fall = 0.2, (canvas.horizon - peak)
            draw.polygon(
                [
                    (x, peak),
                    (x - half * cap, peak + fall * cap),
                    (x, peak + fall * cap * 0.7),
                    (x + half * cap, peak + fall * cap),
                ],
                lighter(colour, 0.75),
            )


def _forest(canvas: Canvas) -> None:
    width, height = canvas.image.size
    sky = SKIES[canvas.light][1]
    for part, tall, count in ((0.5, 0.44, 15), (0.2, 0.34, 12)):
        colour = mix(canvas.tinted((44, 104, 70)), sky, part)
        for index in range(count + 1):
            x = (index + canvas.random.uniform(-0.3, 0.3)) / count * width
            top = canvas.horizon - tall * height * canvas.random.uniform(0.7, 1.05)
            half = width / count * 0.75
            for tier in range(3):
                low = canvas.horizon - (canvas.horizon - top) * (0.56 - tier * 0.28) * 0.95
                high = top + (canvas.horizon - top) * (0.0 + tier * 0.2)
                wide = half * (0.6 + 0.2 * tier)
                canvas.draw.polygon([(x - wide, low), (x, high), (x + wide, low)], colour)
            canvas.draw.rectangle([x - half * 0.1, top, x + half * 0.1, canvas.horizon], colour)


def _city(canvas: Canvas) -> None:
    width, height = canvas.image.size
    sky, lit = SKIES[canvas.light][1], canvas.light in ("night", "dusk")
    for part, tall in ((0.5, 0.5), (0.2, 0.36)):
        colour = mix(canvas.tinted((84, 94, 122)), sky, part)
        x = -0.03 * width
        while x < width:
            wide = canvas.random.uniform(0.06, 0.11) * max(width, height)
            top = canvas.horizon - tall * height * canvas.random.uniform(0.45, 1.0)
            canvas.draw.rectangle([x, top, x + wide, canvas.horizon], colour)
            step, pane = wide / 5, wide / 11
            for column in range(4):
                for row in range(int((canvas.horizon - top) / step) - 1):
                    left, high = x + step * (column + 0.7), top + step * (row + 0.6)
                    glow = (255, 222, 140) if lit and canvas.random.random() < 0.55 else lighter(colour, 0.22)
                    canvas.draw.rectangle([left, high, left + pane, high + pane * 1.3], glow)
            x += wide * canvas.random.uniform(1.0, 1.2)


def _planks(canvas: Canvas, base: Colour) -> None:
    width, height = canvas.image.size
    deep, seam = height - canvas.horizon, (*darker(base, 0.3), 190)
    edges = [canvas.horizon + deep * (index / 6) ** 1.5 for index in range(7)]
    for low, high in pairwise(edges):
        shift = canvas.random.uniform(-0.1, 0.1)
        tone = lighter(base, shift) if shift > 0 else darker(base, -shift)
        canvas.draw.rectangle([0, low, width, high], (*tone, 130))
        canvas.draw.line([(0, high), (width, high)], seam, max(1, canvas.unit // 170))
        long = (high - low) * 5 + 0.2 * width
        x = canvas.random.uniform(-0.5, 0) * long
        while x < width:
            canvas.draw.line([(x, low), (x, high)], seam, max(1, canvas.unit // 190))
            for grain in (0.35, 0.7):
                y = low + (high - low) * grain
                canvas.draw.line(
                    [(x + long * 0.15, y), (x + long * canvas.random.uniform(0.4, 0.8), y)],
                    (*darker(base, 0.2), 70),
                    max(1, canvas.unit // 260),
                )
            x += long


def _tiles(canvas: Canvas, base: Colour) -> None:
    width, height = canvas.image.size
    seam, wide = (*darker(base, 0.25), 90), max(1, canvas.unit // 220)
    for index in range(1, 6):
        y = canvas.horizon + (height - canvas.horizon) * (index / 5.5) ** 1.6
        canvas.draw.line([(0, y), (width, y)], seam, wide)
    for index in range(-12, 13):
        canvas.draw.line(
            [(width / 2 + index * width * 0.09, canvas.horizon), (width / 2 + index * width * 0.22, height)], seam, wide
        )


def _table(canvas: Canvas, base: Colour) -> None:
    width, height = canvas.image.size
    edge = height - (height - canvas.horizon) * 0.2
    canvas.draw.rectangle([0, edge, width, height], darker(base, 0.35))
    canvas.draw.line([(0, edge), (width, edge)], lighter(base, 0.3), max(1, canvas.unit // 140))
    for _ in range(14):
        x, y = (
            canvas.random.uniform(-0.2, 1) * width,
            canvas.random.uniform(canvas.horizon + 0.02 * height, edge - 0.01 * height),
        )
        canvas.draw.line(
            [(x, y), (x + canvas.random.uniform(0.1, 0.35) * width, y)],
            (*darker(base, 0.2), 80),
            max(1, canvas.unit // 240),
        )


def _tufts(canvas: Canvas, base: Colour) -> None:
    width, height = canvas.image.size
    for _ in range(90):
        x, part = canvas.random.uniform(0, width), canvas.random.uniform(0.05, 1)
        y, tall = canvas.horizon + (height - canvas.horizon) * part, canvas.unit * (0.012 + 0.026 * part)
        tone = darker(base, 0.16) if canvas.random.random() < 0.6 else lighter(base, 0.2)
        for lean in (-0.5, 0, 0.5):
            canvas.draw.line([(x, y), (x + lean * tall, y - tall)], (*tone, 200), max(1, canvas.unit // 200))


def _grains(canvas: Canvas, base: Colour) -> None:
    width, height = canvas.image.size
    for lift, tone in ((0.3, lighter(base, 0.16)), (0.62, darker(base, 0.06))):
        canvas.draw.polygon(_wavy(canvas, canvas.horizon + lift * (height - canvas.horizon), 0.018), (*tone, 150))
    for _ in range(110):
        x, y = canvas.random.uniform(0, width), canvas.random.uniform(canvas.horizon, height)
        radius = canvas.unit * 0.0022
        canvas.draw.ellipse([x - radius, y - radius, x + radius, y + radius], (*darker(base, 0.2), 130))


def _drifts(canvas: Canvas, base: Colour) -> None:
    for lift, tone in ((0.12, darker(base, 0.05)), (0.4, lighter(base, 0.4)), (0.7, darker(base, 0.04))):
        canvas.draw.polygon(_wavy(canvas, canvas.horizon + lift * (canvas.image.height - canvas.horizon), 0.02), tone)


def _waves(canvas: Canvas, base: Colour) -> None:
    width, height = canvas.image.size
    glint = mix(lighter(base, 0.35), SKIES[canvas.light][1], 0.35)
    for _ in range(46):
        part = canvas.random.uniform(0.02, 1)
        x, y = canvas.random.uniform(-0.1, 1) * width, canvas.horizon + (height - canvas.horizon) * part
        long = canvas.unit * (0.05 + 0.16 * part)
        canvas.draw.line([(x, y), (x + long, y)], (*glint, 150), max(1, round(canvas.unit * (0.003 + 0.005 * part))))


def _lane(canvas: Canvas, base: Colour) -> None:
    width, height = canvas.image.size
    deep = height - canvas.horizon
    canvas.draw.rectangle([0, canvas.horizon, width, canvas.horizon + deep * 0.16], lighter(base, 0.4))
    kerb = canvas.horizon + deep * 0.16
    canvas.draw.line([(0, kerb), (width, kerb)], darker(base, 0.3), max(1, canvas.unit // 120))
    y, long = canvas.horizon + deep * 0.78, width * 0.13
    for index in range(6):
        x = index * long * 1.7 - canvas.random.uniform(0, 0.02) * width
        canvas.draw.polygon(
            [(x, y), (x + long, y), (x + long, y + deep * 0.05), (x, y + deep * 0.05)],
            (*canvas.tinted((246, 240, 214)), 230),
        )


def _slabs(canvas: Canvas, base: Colour) -> None:
    width, height = canvas.image.size
    for _ in range(26):
        part = canvas.random.uniform(0.05, 1)
        x, y = canvas.random.uniform(0, width), canvas.horizon + (height - canvas.horizon) * part
        wide, high = canvas.unit * (0.03 + 0.09 * part), canvas.unit * (0.008 + 0.024 * part)
        tone = darker(base, 0.12) if canvas.random.random() < 0.5 else lighter(base, 0.14)
        canvas.draw.ellipse([x - wide, y - high, x + wide, y + high], (*tone, 160))


def _nothing(canvas: Canvas, base: Colour) -> None:
    pass


def soft_shadow(canvas: Canvas, x: float, y: float, wide: float, high: float) -> None:
    """A blurred shadow on the ground."""
    left, top = int(x - wide * 1.5), int(y - high * 2.5)
    mask = Image.new("L", (max(1, int(wide * 3)), max(1, int(high * 5))))
    ImageDraw.Draw(mask).ellipse([wide * 0.5, high * 1.5, wide * 2.5, high * 3.5], 105)
    canvas.image.paste((14, 14, 34), (left, top), mask.filter(ImageFilter.GaussianBlur(high * 0.45)))
