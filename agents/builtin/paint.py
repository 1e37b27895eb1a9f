"""A simple first frame of what a prompt names: one composition for a seed, another for another."""

from __future__ import annotations

import colorsys
from dataclasses import replace
from random import Random

from PIL import Image, ImageChops

from agents.builtin.backdrop import (
    MATERIAL_COLOURS,
    Canvas,
    gradient,
    paint_ground,
    paint_place,
    paint_weather,
    soft_shadow,
)
from agents.builtin.scene import MOST_THINGS, Colour, Scene, Surface, Thing, scene
from agents.builtin.shapes import SHAPES, Pen, lighter, mix

SMOOTH = 1_200_000  # pixels; up to here a picture is drawn three times as large, beyond it at twice or its own size
PLACE_OF_GROUND = {
    "grass": "hills",
    "sand": "sky",
    "snow": "hills",
    "water": "sky",
    "lake": "hills",
    "roof": "city",
    "road": "city",
    "stone": "sky",
    "earth": "hills",
    "floor": "room",
    "wood": "room",
    "table": "room",
    "carpet": "room",
}
GROUND_OF_PLACE = {
    "room": "floor",
    "beach": "sand",
    "sky": "grass",
    "forest": "grass",
    "city": "road",
    "mountains": "grass",
}
# Where a thing belongs: the place and the ground that are painted if the prompt names none.
HOMES = {
    "outside": ("hills", "grass"),
    "water": ("sky", "water"),
    "coast": ("sky", "water"),
    "street": ("city", "road"),
    "indoors": ("room", "floor"),
    "sky": ("hills", "grass"),
    "night": ("hills", "grass"),
    "underwater": ("underwater", ""),
    "space": ("space", ""),
}


LUMINOUS = frozenset(("sun", "moon", "cloud", "star", "candle", "lamp"))  # not darkened at night
GLOWS = {"sun": 0.5, "moon": 0.5, "candle": 0.2, "lamp": 0.4, "lighthouse": 0.17}  # how far down a thing its light is
SHORES = {"water": "sand", "lake": "grass"}  # where on these what isn't afloat stands
CREW = frozenset(("person", "woman", "child", "robot"))
ON_LAND = frozenset(
    (
        *("person", "woman", "child", "robot", "cat", "dog", "fox", "horse", "house", "tree", "flower", "car", "train"),
        *("lamp", "sign", "book", "piano", "bookshelf", "sofa"),
    )
)


def painted(prompt: str, width: int, height: int, seed: int) -> Image.Image:
    """A picture (RGB) of exactly that size; white where nothing in the prompt is known."""
    found = scene(prompt)
    if found.empty:
        return Image.new("RGB", (width, height), "white")
    random = Random(seed)
    scale = 3 if width * height <= SMOOTH else 2 if width * height <= 4 * SMOOTH else 1
    image = Image.new("RGB", (width * scale, height * scale), "white")
    canvas = Canvas(image, int(image.height * random.uniform(0.58, 0.66)), _light(found), random)
    if not found.things and not found.place and not found.ground and found.colours:
        _bands(canvas, found.colours)
    else:
        _scenery(canvas, found)
        _things(canvas, found)
    if not _indoors(found):
        paint_weather(canvas, found.weather)
    return canvas.image.resize((width, height), Image.Resampling.LANCZOS)


def _light(found: Scene) -> str:
    names = {thing.name for thing in found.things}
    light = found.light or ("night" if "moon" in names else "")
    return "overcast" if found.weather in ("rain", "snowfall") and light in ("", "day") else light


def _scenery(canvas: Canvas, found: Scene) -> None:
    """The place and the ground: those that are named, or else those where the things belong."""
    place, ground = _where(found)
    paint_place(canvas, place, found.place)
    if found.place and found.place.name == "beach":
        sea = replace(canvas, horizon=canvas.horizon - canvas.image.height // 9)
        paint_ground(sea, Surface("water"))
    if ground:
        paint_ground(canvas, ground)
    ashore = [thing for thing in found.things if thing.name in ON_LAND and not (_aboard(found) and thing.name in CREW)]
    if ground and ground.name in SHORES and ashore:
        deep = canvas.image.height - canvas.horizon
        paint_ground(replace(canvas, horizon=canvas.horizon + round(deep * 0.3)), Surface(SHORES[ground.name]))


def _where(found: Scene) -> tuple[str, Surface | None]:
    homes = [HOMES[home] for thing in found.things if (home := SHAPES[thing.name][3]) in HOMES]
    if found.place and found.place.name in ("space", "underwater"):
        return found.place.name, None
    if found.ground:
        return (found.place.name if found.place else PLACE_OF_GROUND[found.ground.name]), found.ground
    if found.weather == "snowfall" and not _indoors(found) and ("sky", "water") not in homes:
        return (found.place.name if found.place else homes[0][0] if homes else "hills"), Surface("snow")
    if found.place:
        afloat = found.place.name == "sky" and any(ground == "water" for _, ground in homes)
        return found.place.name, Surface("water" if afloat else GROUND_OF_PLACE[found.place.name])
    return _at_home(found, homes)


def _at_home(found: Scene, homes: list[tuple[str, str]]) -> tuple[str, Surface | None]:
    """Where neither a place nor a ground is named: where the first thing belongs that belongs anywhere."""
    if homes:
        place, name = homes[0]
        return place, Surface(name) if name else None
    if found.light or found.weather:
        return "hills", Surface("grass")
    return "plain", Surface("floor", _studio(found))


def _indoors(found: Scene) -> bool:
    """Whether the place is a room: what falls outside isn't seen there."""
    if found.place:
        return found.place.name == "room"
    homes = {SHAPES[thing.name][3] for thing in found.things}
    return "indoors" in homes and not found.ground


def _aboard(found: Scene) -> bool:
    """Whether somebody sits in a rowing boat."""
    names = {thing.name for thing in found.things}
    return "rowboat" in names and bool(names & CREW)


def _studio(found: Scene) -> Colour:
    """A ground that a thing stands out from: pale, with a little of the colour opposite to it."""
    own = next((thing.colours[0] for thing in found.things if thing.colours), None)
    if own is None:
        return 214, 206, 196
    return mix((222, 216, 206), (255 - own[0], 255 - own[1], 255 - own[2]), 0.1)


def _things(canvas: Canvas, found: Scene) -> None:
    """Each thing in its place: those of the sky first, those on the ground from left to right."""
    each = [replace(thing, count=1) for thing in found.things for _ in range(thing.count)][:MOST_THINGS]
    aloft = [thing for thing in each if _aloft(thing, found)]
    standing = [thing for thing in each if thing not in aloft]
    rower = next((thing for thing in standing if thing.name in CREW), None) if _aboard(found) else None
    standing = [thing for thing in standing if thing is not rower]
    for index, thing in enumerate(aloft):
        _fly(canvas, thing, index, len(aloft), alone=not standing)
    crowd = min(1.0, 2.35 / max(1, len(standing)) * (0.72 if canvas.image.width < canvas.image.height else 1.0))
    for index, thing in enumerate(standing):
        across = (index + 0.5 + canvas.random.uniform(-0.16, 0.16)) / len(standing)
        _stand(canvas, thing, across, crowd, rower if thing.name == "rowboat" else None)


def _aloft(thing: Thing, found: Scene) -> bool:
    home = SHAPES[thing.name][3]
    nowhere = found.place is not None and found.place.name in ("space", "underwater")
    return home in ("sky", "night", "air", "underwater", "space") or nowhere


def _fly(canvas: Canvas, thing: Thing, index: int, count: int, *, alone: bool) -> None:
    small = thing.name in ("sun", "moon", "cloud")
    width, height = canvas.image.size
    side = _side(canvas, thing) * (1.35 if alone and not small else 1.0) / max(1.0, count / 2.2)
    down = canvas.random.uniform(*((0.13, 0.22) if small else (0.34, 0.46) if alone else (0.18, 0.3)))
    across = (index + 0.5) / count + canvas.random.uniform(-0.12, 0.12) / count
    if count == 1:
        across = canvas.random.choice((0.22, 0.78)) if small or not alone else 0.5 + canvas.random.uniform(-0.08, 0.08)
    _place_thing(canvas, thing, across * width - side / 2, max(down * height, side * 0.55) - side / 2, side)


def _stand(canvas: Canvas, thing: Thing, across: float, crowd: float, rower: Thing | None = None) -> None:
    width, height = canvas.image.size
    side = min(_side(canvas, thing) * crowd, height * 0.72)
    x = min(max(across * width, side * 0.5), width - side * 0.5)
    foot = canvas.horizon + (height - canvas.horizon) * canvas.random.uniform(0.42, 0.6)
    if thing.name == "mountain":
        foot = canvas.horizon + 0.02 * height
    elif SHAPES[thing.name][3] == "coast":
        _rock(canvas, x, foot, side)
    elif thing.name not in ("boat", "rowboat"):
        soft_shadow(canvas, x + side * 0.03, foot - side * 0.012, side * 0.42, max(2.0, side * 0.055))
    if rower:
        seated = side * 0.62
        _place_thing(canvas, rower, x - seated / 2, foot - side * 0.12 - seated, seated)
    _place_thing(canvas, thing, x - side / 2, foot - side, side)


def _side(canvas: Canvas, thing: Thing) -> float:
    """How large a thing is drawn, in pixels."""
    return canvas.unit * 0.41 * SHAPES[thing.name][2] * thing.size * canvas.random.uniform(0.86, 1.14)


def _place_thing(canvas: Canvas, thing: Thing, left: float, top: float, side: float) -> None:
    draw, own, _, _ = SHAPES[thing.name]
    colour = thing.colours[0] if thing.colours else MATERIAL_COLOURS.get(thing.material, own)
    pen = Pen(max(8, round(side)))
    draw(pen, _nuance(colour, canvas.random))
    layer = _made_of(pen.image, thing.material)
    if thing.name in GLOWS and (thing.name in ("sun", "moon") or canvas.light in ("dusk", "night")):
        _glow(canvas, left + side / 2, top + side * GLOWS[thing.name], min(side, canvas.unit * 0.45))
    if thing.name not in LUMINOUS:
        layer = _lit(layer, canvas)
    canvas.image.paste(layer, (round(left), round(top)), layer)


def _nuance(colour: Colour, random: Random) -> Colour:
    """The same colour, a little warmer or cooler, lighter or darker."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(value / 255 for value in colour))
    hue = (hue + random.uniform(-0.008, 0.008)) % 1
    lightness = min(1.0, max(0.0, lightness + random.uniform(-0.025, 0.025)))
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _made_of(layer: Image.Image, material: str) -> Image.Image:
    """A thing with its surface: light from the upper left; metal shines, glass lets through, rubber is dull."""
    side = layer.width
    slope = _slope(side)
    alpha = layer.getchannel("A")
    strength = {"metal": 0.5, "rubber": 0.06, "glass": 0.2}.get(material, 0.14)
    shade = Image.new("RGBA", layer.size, (20, 18, 40, 255))
    layer = Image.composite(shade, layer, slope.point(lambda level: max(0, level - 128) * 2 * strength))
    if material == "metal":
        band = slope.point(lambda level: max(0, 150 - abs(level - 96) * 6))
        layer = Image.composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer, band)
    if material == "wood":
        layer = Image.composite(Image.new("RGBA", layer.size, (70, 40, 20, 255)), layer, _grain(side))
    if material == "glass":
        alpha = alpha.point(lambda level: level * 0.62)
    layer.putalpha(alpha)
    return layer


def _slope(side: int) -> Image.Image:
    """From 0 at the upper left to 255 at the lower right."""
    down = Image.linear_gradient("L").resize((side, side))
    return Image.blend(down, down.transpose(Image.Transpose.ROTATE_90), 0.5)


def _grain(side: int) -> Image.Image:
    lines = Image.new("L", (1, side))
    for row in range(side):
        lines.putpixel((0, row), 46 if row * 26 // side % 3 == 0 else 0)
    return lines.resize((side, side))


def _lit(layer: Image.Image, canvas: Canvas) -> Image.Image:
    """A thing in the light of the picture, half as strong as on what is around it, so that it can be seen."""
    tint = mix((255, 255, 255), canvas.tinted((255, 255, 255)), 0.6)
    lit = ImageChops.multiply(layer.convert("RGB"), Image.new("RGB", layer.size, tint))
    lit.putalpha(layer.getchannel("A"))
    return lit


def _glow(canvas: Canvas, x: float, y: float, side: float) -> None:
    radius = int(side * 1.5)
    halo = Image.radial_gradient("L").point(lambda level: max(0, 150 - level)).resize((2 * radius, 2 * radius))
    canvas.image.paste((255, 240, 200), (int(x) - radius, int(y) - radius), halo)


def _rock(canvas: Canvas, x: float, foot: float, side: float) -> None:
    stone = canvas.tinted((110, 104, 104))
    for shift, wide, high, tone in ((0.16, 0.5, 0.13, 0.0), (-0.1, 0.52, 0.15, 0.12)):
        middle = x + shift * side
        canvas.draw.ellipse(
            [middle - wide * side, foot - high * side, middle + wide * side, foot + high * side], lighter(stone, tone)
        )


def _bands(canvas: Canvas, colours: tuple[Colour, ...]) -> None:
    """Colours alone: soft hills of them under a pale sky of the first."""
    width, height = canvas.image.size
    first = colours[0]
    gradient(canvas, 0, height, lighter(first, 0.75), lighter(first, 0.4))
    for index in range(4):
        colour = _nuance(colours[index % len(colours)], canvas.random)
        tone = lighter(colour, 0.3 - 0.1 * index)
        radius = canvas.unit * canvas.random.uniform(0.75, 1.0)
        x, y = (
            width * (0.1 + 0.27 * index + canvas.random.uniform(-0.08, 0.08)),
            height * (0.62 + 0.1 * index) + radius * 0.75,
        )
        canvas.draw.ellipse([x - radius * 1.5, y - radius, x + radius * 1.5, y + radius], tone)
