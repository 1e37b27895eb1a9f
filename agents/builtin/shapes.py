"""Things as flat shapes, each drawn with a pen into a square of -1 to 1, its foot at the lower edge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from agents.builtin.scene import Colour

Point = tuple[float, float]
INK = (44, 42, 52)
SKIN = (241, 196, 160)
LEAF, BARK = (70, 140, 76), (110, 76, 50)


class Pen:
    """Draws on a transparent square; x to the right and y down, both from -1 to 1."""

    def __init__(self, side: int) -> None:
        self.image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._half = side / 2

    def ellipse(self, x: float, y: float, wide: float, high: float, colour: Colour) -> None:
        """An ellipse by its centre and its half axes."""
        self._draw.ellipse([*self._at(x - wide, y - high), *self._at(x + wide, y + high)], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, round_by: float = 0.0) -> None:
        """A rectangle, its corners rounded."""
        place = [*self._at(left, top), *self._at(right, bottom)]
        self._draw.rounded_rectangle(place, round_by * self._half, fill=colour)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""
        self._draw.polygon([self._at(*point) for point in points], fill=colour)

    def line(self, points: Sequence[Point], colour: Colour, wide: float) -> None:
        """A line of that width with round ends."""
        self._draw.line([self._at(*point) for point in points], colour, round(wide * self._half), joint="curve")
        for x, y in points:
            self.ellipse(x, y, wide / 2, wide / 2, colour)

    def arc(self, x: float, y: float, radius: float, start: float, end: float, colour: Colour, wide: float) -> None:
        """A part of a circle's line, in degrees from the right, clockwise; the line lies within the radius."""
        place = [*self._at(x - radius, y - radius), *self._at(x + radius, y + radius)]
        self._draw.arc(place, start, end, colour, max(1, round(wide * self._half)))

    def clear(self, x: float, y: float, wide: float, high: float) -> None:
        """Make an ellipse transparent again."""
        self._draw.ellipse([*self._at(x - wide, y - high), *self._at(x + wide, y + high)], fill=(0, 0, 0, 0))

    def _at(self, x: float, y: float) -> Point:
        return (x + 1) * self._half, (y + 1) * self._half


def mix(colour: Colour, other: Colour, part: float) -> Colour:
    """A colour on its way to another."""
    red, green, blue = (round(own + (goal - own) * part) for own, goal in zip(colour, other, strict=True))
    return red, green, blue


def lighter(colour: Colour, part: float = 0.3) -> Colour:
    """Towards white."""
    return mix(colour, (255, 255, 255), part)


def darker(colour: Colour, part: float = 0.25) -> Colour:
    """Towards a dark blue, as shadows are."""
    return mix(colour, (18, 16, 40), part)


def _ball(pen: Pen, colour: Colour) -> None:
    for step in range(40):
        part = step / 39
        radius = 0.98 * (1 - part * 0.72)
        pen.ellipse(-0.2 * part, -0.24 * part, radius, radius, mix(darker(colour, 0.2), lighter(colour, 0.2), part))
    pen.ellipse(-0.34, -0.46, 0.15, 0.1, lighter(colour, 0.72))


def _disc(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0, 0, 0.98, 0.98, darker(colour, 0.12))
    pen.ellipse(0, 0, 0.88, 0.88, colour)


def _cube(pen: Pen, colour: Colour) -> None:
    pen.polygon([(-0.95, -0.45), (-0.42, -0.92), (0.95, -0.92), (0.5, -0.45)], lighter(colour, 0.32))
    pen.polygon([(0.5, -0.45), (0.95, -0.92), (0.95, 0.48), (0.5, 0.98)], darker(colour, 0.3))
    pen.box(-0.95, -0.45, 0.5, 0.98, colour)


def _ring(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0, 0, 0.98, 0.98, darker(colour, 0.22))
    pen.ellipse(-0.01, -0.02, 0.93, 0.93, colour)
    pen.ellipse(0, 0, 0.6, 0.6, darker(colour, 0.3))
    pen.clear(0.01, 0.02, 0.57, 0.57)
    pen.arc(0, 0, 0.82, 195, 265, lighter(colour, 0.6), 0.07)


def _triangle(pen: Pen, colour: Colour) -> None:
    pen.polygon([(0, -0.95), (0.98, 0.98), (-0.98, 0.98)], colour)
    pen.polygon([(0, -0.95), (0.98, 0.98), (0.3, 0.98)], darker(colour, 0.22))


def _star(pen: Pen, colour: Colour) -> None:
    corners = [_polar(index * 36 - 90, 0.98 if index % 2 == 0 else 0.42) for index in range(10)]
    pen.polygon(corners, colour)
    for index in range(0, 10, 2):
        pen.polygon([(0, 0), corners[index], corners[(index + 1) % 10]], lighter(colour, 0.22))


def _heart(pen: Pen, colour: Colour) -> None:
    def at(angle: float) -> Point:
        x = 16 * math.sin(angle) ** 3
        y = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
        return x / 17, -(y + 2.5) / 17

    pen.polygon([at(math.tau * index / 120) for index in range(120)], colour)
    pen.ellipse(-0.45, -0.42, 0.16, 0.11, lighter(colour, 0.55))


def _person(pen: Pen, colour: Colour) -> None:
    for side in (-1, 1):
        pen.line([(side * 0.13, 0.4), (side * 0.16, 0.93)], INK, 0.17)
        pen.line([(side * 0.26, -0.28), (side * 0.4, 0.22)], darker(colour, 0.18), 0.14)
        pen.ellipse(side * 0.41, 0.27, 0.075, 0.075, SKIN)
    pen.polygon([(-0.27, -0.34), (0.27, -0.34), (0.36, 0.5), (-0.36, 0.5)], colour)
    pen.ellipse(0, -0.32, 0.27, 0.1, colour)
    pen.box(-0.07, -0.5, 0.07, -0.34, darker(SKIN, 0.12))
    pen.ellipse(0, -0.67, 0.24, 0.26, INK)
    pen.ellipse(0, -0.61, 0.2, 0.22, SKIN)
    pen.ellipse(-0.08, -0.62, 0.022, 0.03, INK)
    pen.ellipse(0.08, -0.62, 0.022, 0.03, INK)
    pen.arc(0, -0.56, 0.09, 25, 155, darker(SKIN, 0.5), 0.02)


def _woman(pen: Pen, colour: Colour) -> None:
    hair = (92, 58, 44)
    pen.ellipse(0, -0.58, 0.28, 0.36, hair)
    for side in (-1, 1):
        pen.line([(side * 0.09, 0.6), (side * 0.1, 0.93)], SKIN, 0.09)
        pen.ellipse(side * 0.12, 0.95, 0.1, 0.04, INK)
        pen.line([(side * 0.19, -0.2), (side * 0.36, 0.24)], darker(colour, 0.18), 0.12)
        pen.ellipse(side * 0.37, 0.28, 0.06, 0.06, SKIN)
    pen.polygon([(-0.19, -0.3), (0.19, -0.3), (0.2, 0.05), (0.42, 0.68), (-0.42, 0.68), (-0.2, 0.05)], colour)
    pen.box(-0.06, -0.42, 0.06, -0.28, SKIN)
    pen.ellipse(0, -0.6, 0.19, 0.23, SKIN)
    pen.polygon([(-0.21, -0.62), (-0.12, -0.86), (0.18, -0.84), (0.22, -0.58), (0.05, -0.74)], hair)
    pen.ellipse(-0.07, -0.58, 0.02, 0.028, INK)
    pen.ellipse(0.07, -0.58, 0.02, 0.028, INK)
    pen.arc(0, -0.54, 0.08, 25, 155, (190, 84, 84), 0.025)


def _robot(pen: Pen, colour: Colour) -> None:
    pen.line([(0, -0.95), (0, -0.7)], INK, 0.04)
    pen.ellipse(0, -0.93, 0.06, 0.06, (230, 80, 70))
    for side in (-1, 1):
        pen.line([(side * 0.5, -0.02), (side * 0.66, 0.4)], darker(colour, 0.3), 0.14)
        pen.box(side * 0.24 - 0.12, 0.5, side * 0.24 + 0.12, 0.98, darker(colour, 0.3), 0.05)
    pen.box(-0.42, -0.76, 0.42, -0.2, colour, 0.12)
    pen.box(-0.5, -0.14, 0.5, 0.58, colour, 0.1)
    for side in (-1, 1):
        pen.ellipse(side * 0.17, -0.5, 0.1, 0.1, (250, 250, 240))
        pen.ellipse(side * 0.17, -0.5, 0.05, 0.05, INK)
    pen.box(-0.28, 0.02, 0.28, 0.3, lighter(colour, 0.5), 0.05)


def _tree(pen: Pen, colour: Colour) -> None:
    pen.polygon([(-0.1, 0.05), (0.1, 0.05), (0.15, 0.98), (-0.15, 0.98)], BARK)
    for side in (-1, 1):
        pen.ellipse(side * 0.41, -0.05, 0.4, 0.38, darker(colour, 0.15))
    pen.ellipse(0, -0.45, 0.52, 0.49, colour)
    pen.ellipse(-0.18, -0.5, 0.3, 0.28, lighter(colour, 0.12))


def _house(pen: Pen, colour: Colour) -> None:
    roof = (150, 62, 54) if colour[0] < 190 or colour[1] > 120 else (88, 74, 92)
    pen.box(0.36, -0.8, 0.56, -0.3, darker(roof, 0.2))
    pen.box(-0.74, -0.12, 0.74, 0.98, colour)
    pen.polygon([(-0.95, -0.08), (0, -0.92), (0.95, -0.08)], roof)
    pen.box(-0.16, 0.36, 0.18, 0.98, darker(roof, 0.3))
    for left in (-0.58, 0.34):
        pen.box(left, 0.16, left + 0.26, 0.44, (252, 232, 160))
        pen.line([(left + 0.13, 0.17), (left + 0.13, 0.43)], lighter(colour), 0.03)


def _boat(pen: Pen, colour: Colour) -> None:
    pen.line([(0, 0.5), (0, -0.95)], BARK, 0.06)
    pen.polygon([(0.07, -0.9), (0.72, 0.36), (0.07, 0.36)], (250, 248, 240))
    pen.polygon([(-0.07, -0.7), (-0.52, 0.36), (-0.07, 0.36)], (232, 228, 216))
    pen.polygon([(-0.92, 0.48), (0.92, 0.48), (0.62, 0.95), (-0.62, 0.95)], colour)
    pen.polygon([(-0.92, 0.48), (0.92, 0.48), (0.87, 0.57), (-0.87, 0.57)], lighter(colour, 0.45))


def _rowboat(pen: Pen, colour: Colour) -> None:
    for side in (-1, 1):
        pen.line([(side * 0.2, 0.42), (side * 0.94, 0.84)], BARK, 0.045)
        pen.ellipse(side * 0.92, 0.83, 0.09, 0.05, BARK)
    pen.polygon([(-0.98, 0.44), (0.98, 0.44), (0.66, 0.94), (-0.66, 0.94)], colour)
    pen.polygon([(-0.98, 0.44), (0.98, 0.44), (0.93, 0.54), (-0.93, 0.54)], lighter(colour, 0.4))
    pen.line([(-0.74, 0.72), (0.74, 0.72)], darker(colour, 0.2), 0.025)


def _lighthouse(pen: Pen, colour: Colour) -> None:
    def half(y: float) -> float:
        return 0.2 + 0.13 * (y + 0.5) / 1.48

    pen.polygon([(-half(-0.5), -0.5), (half(-0.5), -0.5), (half(0.98), 0.98), (-half(0.98), 0.98)], (250, 248, 242))
    for top in (-0.3, 0.14, 0.58):
        low = top + 0.22
        pen.polygon([(-half(top), top), (half(top), top), (half(low), low), (-half(low), low)], colour)
    pen.box(-0.28, -0.56, 0.28, -0.48, INK)
    pen.box(-0.14, -0.78, 0.14, -0.56, (255, 226, 120))
    pen.polygon([(-0.2, -0.78), (0, -0.97), (0.2, -0.78)], colour)
    pen.box(-0.07, 0.82, 0.07, 0.98, INK)


def _sun(pen: Pen, colour: Colour) -> None:
    for index in range(12):
        pen.line([_polar(index * 30, 0.72), _polar(index * 30, 0.93)], colour, 0.09)
    pen.ellipse(0, 0, 0.58, 0.58, colour)
    pen.ellipse(0, 0, 0.46, 0.46, lighter(colour, 0.25))


def _moon(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0, 0, 0.9, 0.9, colour)
    for x, y, radius in ((-0.3, -0.25, 0.18), (0.32, 0.1, 0.24), (-0.15, 0.42, 0.13), (0.25, -0.45, 0.1)):
        pen.ellipse(x, y, radius, radius, darker(colour, 0.1))


def _cloud(pen: Pen, colour: Colour) -> None:
    for x, y, radius in ((-0.5, 0.15, 0.34), (0.52, 0.18, 0.3), (-0.12, -0.08, 0.44), (0.24, 0.02, 0.36)):
        pen.ellipse(x, y, radius, radius, colour)
    pen.box(-0.55, 0.1, 0.55, 0.49, colour, 0.18)


def _car(pen: Pen, colour: Colour) -> None:
    pen.polygon([(-0.5, 0.32), (-0.32, -0.12), (0.28, -0.12), (0.56, 0.32)], colour)
    pen.polygon([(-0.38, 0.28), (-0.26, -0.02), (-0.04, -0.02), (-0.04, 0.28)], (196, 226, 238))
    pen.polygon([(0.04, 0.28), (0.04, -0.02), (0.24, -0.02), (0.42, 0.28)], (196, 226, 238))
    pen.box(-0.96, 0.28, 0.96, 0.76, colour, 0.16)
    pen.box(-0.95, 0.56, 0.95, 0.64, darker(colour, 0.25))
    for x in (-0.55, 0.55):
        pen.ellipse(x, 0.76, 0.22, 0.22, INK)
        pen.ellipse(x, 0.76, 0.1, 0.1, (200, 204, 210))
    pen.ellipse(0.88, 0.44, 0.06, 0.07, (255, 240, 170))


def _train(pen: Pen, colour: Colour) -> None:
    pen.box(-0.96, -0.3, 0.2, 0.62, colour, 0.06)
    pen.box(0.1, 0.0, 0.86, 0.62, darker(colour, 0.12), 0.08)
    pen.box(0.5, -0.34, 0.68, 0.04, INK)
    pen.box(-1.0, -0.4, 0.26, -0.28, darker(colour, 0.35), 0.04)
    for left in (-0.82, -0.42, -0.02):
        pen.box(left, -0.14, left + 0.22 if left < -0.1 else 0.1, 0.16, (250, 236, 180))
    for x, radius in ((-0.68, 0.2), (-0.2, 0.2), (0.3, 0.16), (0.68, 0.16)):
        pen.ellipse(x, 0.98 - radius, radius, radius, INK)
        pen.ellipse(x, 0.98 - radius, radius * 0.45, radius * 0.45, (200, 204, 210))


def _bird(pen: Pen, colour: Colour) -> None:
    pen.polygon([(-0.5, 0.1), (-0.98, -0.12), (-0.9, 0.3)], darker(colour, 0.2))
    pen.ellipse(-0.05, 0.1, 0.58, 0.36, colour)
    pen.ellipse(0.5, -0.22, 0.26, 0.25, colour)
    pen.polygon([(0.72, -0.28), (0.98, -0.17), (0.72, -0.1)], (240, 160, 50))
    pen.polygon([(-0.28, 0.06), (0.22, 0.04), (-0.28, -0.72)], darker(colour, 0.25))
    pen.ellipse(0.56, -0.27, 0.05, 0.05, INK)


def _butterfly(pen: Pen, colour: Colour) -> None:
    for side in (-1, 1):
        pen.ellipse(side * 0.48, -0.3, 0.44, 0.44, colour)
        pen.ellipse(side * 0.38, 0.38, 0.32, 0.34, lighter(colour, 0.25))
        pen.ellipse(side * 0.52, -0.32, 0.18, 0.18, lighter(colour, 0.6))
        pen.line([(0, -0.45), (side * 0.2, -0.86)], INK, 0.03)
    pen.ellipse(0, 0.05, 0.08, 0.56, INK)


def _fish(pen: Pen, colour: Colour) -> None:
    pen.polygon([(-0.5, 0), (-0.97, -0.4), (-0.84, 0), (-0.97, 0.4)], darker(colour, 0.18))
    pen.polygon([(-0.2, -0.3), (0.2, -0.66), (0.3, -0.28)], darker(colour, 0.18))
    pen.ellipse(0.12, 0, 0.74, 0.42, colour)
    pen.ellipse(0.1, 0.16, 0.56, 0.22, lighter(colour, 0.28))
    pen.arc(0.28, 0, 0.34, 120, 240, darker(colour, 0.25), 0.04)
    pen.ellipse(0.56, -0.1, 0.1, 0.1, (250, 250, 248))
    pen.ellipse(0.58, -0.1, 0.05, 0.05, INK)


def _cat(pen: Pen, colour: Colour) -> None:
    pen.line([(0.4, 0.82), (0.78, 0.7), (0.76, 0.3)], darker(colour, 0.12), 0.14)
    pen.ellipse(0, 0.52, 0.44, 0.48, colour)
    for side in (-1, 1):
        pen.polygon([(side * 0.4, -0.92), (side * 0.42, -0.36), (side * 0.08, -0.6)], colour)
        pen.polygon([(side * 0.35, -0.76), (side * 0.36, -0.5), (side * 0.2, -0.6)], (240, 160, 165))
    pen.ellipse(0, -0.28, 0.46, 0.4, colour)
    for side in (-1, 1):
        pen.ellipse(side * 0.18, -0.32, 0.07, 0.09, (248, 238, 180))
        pen.ellipse(side * 0.18, -0.32, 0.03, 0.08, INK)
        pen.line([(side * 0.14, -0.12), (side * 0.5, -0.16)], darker(colour, 0.5), 0.015)
        pen.ellipse(side * 0.2, 0.92, 0.15, 0.08, lighter(colour, 0.3))
    pen.polygon([(-0.06, -0.18), (0.06, -0.18), (0, -0.1)], (220, 120, 130))


def _dog(pen: Pen, colour: Colour) -> None:
    pen.line([(0.36, 0.78), (0.72, 0.42)], colour, 0.13)
    pen.ellipse(0, 0.54, 0.42, 0.46, colour)
    pen.ellipse(0, 0.56, 0.22, 0.34, lighter(colour, 0.4))
    pen.ellipse(0, -0.32, 0.42, 0.42, colour)
    for side in (-1, 1):
        pen.ellipse(side * 0.42, -0.3, 0.16, 0.38, darker(colour, 0.32))
        pen.ellipse(side * 0.16, -0.4, 0.055, 0.065, INK)
        pen.ellipse(side * 0.2, 0.92, 0.16, 0.08, lighter(colour, 0.3))
    pen.ellipse(0, -0.14, 0.22, 0.18, lighter(colour, 0.45))
    pen.ellipse(0, -0.22, 0.09, 0.065, INK)
    pen.arc(0, -0.12, 0.1, 20, 160, INK, 0.03)


def _fox(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0.58, 0.6, 0.34, 0.2, colour)
    pen.ellipse(0.8, 0.52, 0.15, 0.13, (250, 246, 238))
    pen.ellipse(0, 0.52, 0.38, 0.46, colour)
    pen.ellipse(0, 0.58, 0.2, 0.34, (250, 246, 238))
    for side in (-1, 1):
        pen.polygon([(side * 0.46, -0.98), (side * 0.46, -0.36), (side * 0.06, -0.58)], colour)
        pen.polygon([(side * 0.41, -0.84), (side * 0.4, -0.5), (side * 0.2, -0.6)], INK)
        pen.ellipse(side * 0.16, 0.92, 0.13, 0.08, INK)
    pen.polygon([(-0.52, -0.42), (0, -0.66), (0.52, -0.42), (0.06, 0.16), (-0.06, 0.16)], colour)
    for side in (-1, 1):
        pen.polygon([(side * 0.5, -0.4), (side * 0.14, -0.24), (side * 0.05, 0.14)], (250, 246, 238))
        pen.ellipse(side * 0.18, -0.34, 0.05, 0.06, INK)
    pen.ellipse(0, 0.12, 0.08, 0.07, INK)


def _horse(pen: Pen, colour: Colour) -> None:
    mane = darker(colour, 0.5)
    pen.line([(-0.6, 0.0), (-0.84, 0.2), (-0.88, 0.58)], mane, 0.13)
    for x, tone in ((-0.5, 0.22), (-0.34, 0.0), (0.22, 0.22), (0.36, 0.0)):
        pen.box(x - 0.07, 0.2, x + 0.07, 0.92, darker(colour, tone))
        pen.box(x - 0.09, 0.88, x + 0.09, 0.98, INK)
    pen.ellipse(-0.08, 0.12, 0.58, 0.3, colour)
    pen.polygon([(0.16, 0.1), (0.44, -0.66), (0.72, -0.56), (0.5, 0.22)], colour)
    pen.line([(0.2, -0.04), (0.34, -0.42), (0.5, -0.74)], mane, 0.13)
    pen.polygon([(0.48, -0.8), (0.52, -0.98), (0.62, -0.76)], colour)
    pen.polygon([(0.42, -0.66), (0.62, -0.8), (0.98, -0.4), (0.9, -0.24), (0.78, -0.26), (0.56, -0.42)], colour)
    pen.ellipse(0.66, -0.6, 0.04, 0.045, INK)
    pen.ellipse(0.9, -0.36, 0.03, 0.025, INK)


def _piano(pen: Pen, colour: Colour) -> None:
    for x in (-0.8, 0.8):
        pen.box(x - 0.08, 0.2, x + 0.08, 0.98, darker(colour, 0.3))
    pen.box(-0.94, -0.72, 0.94, 0.8, colour, 0.05)
    pen.box(-0.98, -0.8, 0.98, -0.68, lighter(colour, 0.2), 0.03)
    pen.box(-0.6, -0.5, 0.6, -0.1, lighter(colour, 0.12), 0.04)
    pen.box(-0.98, 0.26, 0.98, 0.44, darker(colour, 0.3))
    pen.box(-0.86, 0.06, 0.86, 0.3, (250, 248, 242))
    for index in range(1, 14):
        x = -0.86 + index * 1.72 / 14
        pen.line([(x, 0.07), (x, 0.29)], (150, 148, 146), 0.012)
        if index % 7 not in (0, 3):
            pen.box(x - 0.032, 0.06, x + 0.032, 0.2, (20, 20, 24))


def _bookshelf(pen: Pen, colour: Colour) -> None:
    spines = ((178, 62, 58), (64, 104, 150), (222, 178, 82), (82, 134, 92), (122, 84, 140), (226, 214, 190))
    pen.box(-0.7, -0.98, 0.7, 0.98, colour)
    for row in range(4):
        top = -0.9 + row * 0.46
        pen.box(-0.62, top, 0.62, top + 0.38, darker(colour, 0.45))
        x, index = -0.6, row * 2
        while x < 0.5:
            wide = 0.09 + 0.03 * (index * 7 % 3)
            pen.box(x, top + 0.04 + 0.04 * (index * 5 % 3), x + wide, top + 0.38, spines[index % len(spines)])
            x, index = x + wide + 0.012, index + 1


def _sofa(pen: Pen, colour: Colour) -> None:
    for x in (-0.76, 0.76):
        pen.box(x - 0.06, 0.8, x + 0.06, 0.98, BARK)
    pen.box(-0.84, -0.18, 0.84, 0.6, darker(colour, 0.12), 0.16)
    for left in (-0.74, 0.02):
        pen.box(left, 0.28, left + 0.72, 0.62, lighter(colour, 0.14), 0.1)
    pen.box(-0.8, 0.54, 0.8, 0.86, colour, 0.06)
    for side in (-1, 1):
        middle = side * 0.84
        pen.box(middle - 0.14, 0.1, middle + 0.14, 0.86, darker(colour, 0.05), 0.13)


def _flower(pen: Pen, colour: Colour) -> None:
    pen.line([(0, 0), (0.03, 0.96)], LEAF, 0.07)
    pen.ellipse(0.22, 0.58, 0.22, 0.09, LEAF)
    pen.ellipse(-0.2, 0.72, 0.2, 0.08, darker(LEAF, 0.1))
    for index in range(8):
        x, y = _polar(index * 45, 0.36)
        pen.ellipse(x, y - 0.36, 0.23, 0.23, colour if index % 2 else lighter(colour, 0.2))
    heart = (247, 200, 60) if colour[0] < 235 or colour[2] > 90 else (110, 70, 40)
    pen.ellipse(0, -0.36, 0.23, 0.23, heart)


def _mountain(pen: Pen, colour: Colour) -> None:
    pen.polygon([(-0.98, 0.98), (-0.1, -0.9), (0.98, 0.98)], colour)
    pen.polygon([(-0.1, -0.9), (0.98, 0.98), (0.15, 0.98)], darker(colour, 0.2))
    snow = [(-0.1, -0.9), (-0.34, -0.4), (-0.18, -0.5), (-0.06, -0.36), (0.06, -0.5), (0.19, -0.4)]
    pen.polygon(snow, (250, 250, 252))


def _balloon(pen: Pen, colour: Colour) -> None:
    pen.line([(0, 0.4), (0.05, 0.66), (-0.03, 0.96)], (120, 116, 120), 0.025)
    pen.ellipse(0, -0.3, 0.56, 0.66, colour)
    pen.polygon([(0, 0.32), (0.09, 0.45), (-0.09, 0.45)], darker(colour, 0.15))
    pen.ellipse(-0.2, -0.58, 0.1, 0.16, lighter(colour, 0.6))


def _cup(pen: Pen, colour: Colour) -> None:
    pen.arc(0.5, 0.3, 0.4, 0, 360, darker(colour, 0.12), 0.12)
    pen.polygon([(-0.7, -0.25), (0.55, -0.25), (0.42, 0.92), (-0.57, 0.92)], colour)
    pen.ellipse(-0.075, 0.92, 0.495, 0.06, colour)
    pen.ellipse(-0.075, -0.25, 0.63, 0.13, lighter(colour, 0.3))
    pen.ellipse(-0.075, -0.23, 0.54, 0.09, (96, 60, 40))


def _bell(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0, -0.84, 0.1, 0.1, darker(colour, 0.2))
    pen.ellipse(0, 0.8, 0.15, 0.15, darker(colour, 0.4))
    pen.ellipse(0, -0.3, 0.48, 0.5, colour)
    pen.polygon([(-0.48, -0.3), (0.48, -0.3), (0.6, 0.4), (0.82, 0.72), (-0.82, 0.72), (-0.6, 0.4)], colour)
    pen.box(-0.86, 0.62, 0.86, 0.76, darker(colour, 0.18), 0.06)
    pen.line([(-0.3, -0.4), (-0.38, 0.36)], lighter(colour, 0.5), 0.07)


def _clock(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0, 0, 0.97, 0.97, colour)
    pen.ellipse(0, 0, 0.8, 0.8, (252, 250, 244))
    for index in range(12):
        pen.line([_polar(index * 30, 0.66), _polar(index * 30, 0.73)], INK, 0.04)
    pen.line([(0, 0), _polar(-60, 0.4)], INK, 0.07)
    pen.line([(0, 0), _polar(-150, 0.58)], INK, 0.05)
    pen.ellipse(0, 0, 0.06, 0.06, (214, 60, 50))


def _candle(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0, -0.62, 0.2, 0.32, (255, 190, 70))
    pen.ellipse(0, -0.54, 0.1, 0.2, (255, 240, 190))
    pen.line([(0, -0.4), (0, -0.24)], INK, 0.035)
    pen.box(-0.26, -0.25, 0.26, 0.9, colour, 0.06)
    pen.box(-0.44, 0.86, 0.44, 0.98, (150, 116, 70), 0.04)


def _umbrella(pen: Pen, colour: Colour) -> None:
    pen.line([(0, -0.9), (0, 0.8)], BARK, 0.05)
    pen.arc(0.13, 0.8, 0.155, 0, 180, BARK, 0.05)
    for wide, tone in ((0.97, colour), (0.36, lighter(colour, 0.25))):
        dome = [_polar(180 + index * 4.5, 1.0) for index in range(41)]
        pen.polygon([(wide * x, 0.02 + 0.86 * y) for x, y in dome], tone)
    for x in (-0.66, 0, 0.66):
        pen.ellipse(x, 0.02, 0.31, 0.09, darker(colour, 0.3))


def _apple(pen: Pen, colour: Colour) -> None:
    pen.ellipse(-0.32, 0.16, 0.56, 0.74, colour)
    pen.ellipse(0.32, 0.16, 0.56, 0.74, colour)
    pen.line([(0, -0.4), (0.1, -0.84)], BARK, 0.07)
    pen.polygon([(0.1, -0.62), (0.36, -0.88), (0.6, -0.8), (0.4, -0.6)], LEAF)
    pen.ellipse(-0.46, -0.14, 0.1, 0.17, lighter(colour, 0.5))


def _rocket(pen: Pen, colour: Colour) -> None:
    pen.polygon([(-0.18, 0.6), (0.18, 0.6), (0, 0.98)], (255, 176, 60))
    for side in (-1, 1):
        pen.polygon([(side * 0.26, 0.2), (side * 0.58, 0.68), (side * 0.24, 0.6)], darker(colour, 0.3))
    pen.ellipse(0, -0.1, 0.32, 0.86, colour)
    pen.box(-0.24, 0.5, 0.24, 0.64, darker(colour, 0.4))
    pen.ellipse(0, -0.3, 0.16, 0.16, (250, 250, 250))
    pen.ellipse(0, -0.3, 0.11, 0.11, (110, 180, 220))


def _book(pen: Pen, colour: Colour) -> None:
    pen.polygon([(-0.96, -0.24), (0, -0.06), (0.96, -0.24), (0.96, 0.72), (0, 0.92), (-0.96, 0.72)], colour)
    pen.polygon([(-0.88, -0.36), (-0.02, -0.14), (-0.02, 0.78), (-0.88, 0.6)], (252, 248, 236))
    pen.polygon([(0.88, -0.36), (0.02, -0.14), (0.02, 0.78), (0.88, 0.6)], (242, 236, 222))
    for row in range(4):
        y = -0.12 + row * 0.18
        pen.line([(-0.74, y), (-0.16, y + 0.13)], (176, 170, 164), 0.025)
        pen.line([(0.74, y), (0.16, y + 0.13)], (176, 170, 164), 0.025)


def _sign(pen: Pen, colour: Colour) -> None:
    for x in (-0.6, 0.6):
        pen.box(x - 0.06, 0.3, x + 0.06, 0.98, BARK)
    pen.box(-0.97, -0.6, 0.97, 0.42, darker(colour, 0.35), 0.1)
    pen.box(-0.88, -0.51, 0.88, 0.33, colour, 0.06)


def _lamp(pen: Pen, colour: Colour) -> None:
    pen.line([(0, -0.2), (0, 0.9)], INK, 0.07)
    pen.box(-0.4, 0.88, 0.4, 0.98, INK, 0.05)
    pen.ellipse(0, -0.1, 0.22, 0.16, (255, 244, 190))
    pen.polygon([(-0.32, -0.86), (0.32, -0.86), (0.66, -0.1), (-0.66, -0.1)], colour)


def _polar(degrees: float, radius: float) -> Point:
    return radius * math.cos(math.radians(degrees)), radius * math.sin(math.radians(degrees))


# Each thing: how it is drawn, the colour that it has of itself, its size against a ball's, and where it belongs.
Shape = tuple[Callable[[Pen, Colour], None], Colour, float, str]
SHAPES: dict[str, Shape] = {
    "ball": (_ball, (214, 92, 70), 1.0, "ground"),
    "disc": (_disc, (214, 92, 70), 1.0, "ground"),
    "cube": (_cube, (92, 122, 168), 1.0, "ground"),
    "ring": (_ring, (222, 170, 48), 1.05, "ground"),
    "triangle": (_triangle, (232, 156, 60), 1.05, "ground"),
    "star": (_star, (247, 205, 70), 1.05, "air"),
    "heart": (_heart, (220, 62, 76), 1.05, "air"),
    "person": (_person, (70, 120, 168), 1.75, "ground"),
    "woman": (_woman, (186, 74, 108), 1.7, "ground"),
    "child": (_person, (232, 156, 60), 1.25, "ground"),
    "robot": (_robot, (150, 172, 190), 1.4, "ground"),
    "tree": (_tree, LEAF, 1.75, "outside"),
    "house": (_house, (236, 208, 168), 1.7, "outside"),
    "boat": (_boat, (176, 70, 58), 1.15, "water"),
    "rowboat": (_rowboat, (150, 98, 60), 1.5, "water"),
    "lighthouse": (_lighthouse, (206, 58, 52), 2.1, "coast"),
    "sun": (_sun, (253, 196, 62), 0.7, "sky"),
    "moon": (_moon, (246, 238, 206), 0.55, "night"),
    "cloud": (_cloud, (250, 252, 254), 0.8, "sky"),
    "car": (_car, (206, 58, 52), 1.35, "street"),
    "train": (_train, (52, 104, 96), 1.7, "street"),
    "bird": (_bird, (86, 132, 178), 0.7, "sky"),
    "butterfly": (_butterfly, (238, 146, 60), 0.65, "sky"),
    "fish": (_fish, (242, 140, 58), 0.95, "underwater"),
    "cat": (_cat, (222, 152, 88), 1.1, "ground"),
    "dog": (_dog, (188, 132, 82), 1.1, "ground"),
    "fox": (_fox, (222, 112, 48), 1.1, "ground"),
    "horse": (_horse, (140, 92, 60), 1.6, "outside"),
    "flower": (_flower, (232, 96, 124), 1.15, "outside"),
    "sunflower": (_flower, (248, 200, 52), 1.3, "outside"),
    "mountain": (_mountain, (112, 124, 146), 1.9, "outside"),
    "balloon": (_balloon, (222, 66, 66), 1.0, "sky"),
    "cup": (_cup, (232, 226, 214), 0.85, "ground"),
    "bell": (_bell, (222, 170, 48), 0.95, "ground"),
    "clock": (_clock, (70, 96, 120), 0.95, "ground"),
    "candle": (_candle, (246, 236, 214), 1.0, "ground"),
    "umbrella": (_umbrella, (206, 58, 72), 1.15, "ground"),
    "apple": (_apple, (206, 46, 50), 0.8, "ground"),
    "rocket": (_rocket, (236, 238, 242), 1.4, "space"),
    "book": (_book, (64, 96, 150), 0.95, "ground"),
    "piano": (_piano, (52, 44, 48), 1.4, "indoors"),
    "bookshelf": (_bookshelf, (150, 104, 66), 1.75, "indoors"),
    "sofa": (_sofa, (92, 122, 140), 1.5, "indoors"),
    "sign": (_sign, (250, 244, 226), 1.2, "ground"),
    "lamp": (_lamp, (240, 196, 110), 1.2, "ground"),
}
