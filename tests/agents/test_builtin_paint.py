"""The built-in painter: the colours, shapes and places that a prompt names are where they should be."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from agents.builtin.backdrop import GROUND_COLOURS
from agents.builtin.measure import COLOURS as NAMED
from agents.builtin.measure import _named
from agents.builtin.paint import GROUND_OF_PLACE, PLACE_OF_GROUND, _where
from agents.builtin.scene import COLOURS, GROUNDS, PLACES, THINGS, Scene, scene
from agents.builtin.shapes import SHAPES
from agents.first_frame import paint
from agents.models import Painter, connect_painter

KNOWN = [*THINGS, *GROUNDS, *PLACES, *COLOURS, "五只", "night", "."]


@pytest.fixture
def painter() -> Painter:
    return connect_painter("builtin", {})


def pixels(painter: Painter, prompt: str, width: int = 256, height: int = 144, seed: int = 0) -> np.ndarray:
    picture = paint(painter, prompt, width, height, seed).picture
    return np.asarray(Image.open(BytesIO(picture)).convert("RGB"))


def share(picture: np.ndarray, *names: str) -> float:
    """The part of a picture that is of these colours, by the names that measuring gives them."""
    numbers = [list(NAMED).index(name) for name in names]
    return float(np.isin(_named(picture / 255), numbers).mean())


def test_what_is_known_can_be_painted() -> None:
    assert set(THINGS) == set(SHAPES)
    assert set(GROUNDS) == set(GROUND_COLOURS) == set(PLACE_OF_GROUND)
    assert set(PLACES) == set(GROUND_OF_PLACE) | {"space", "underwater"}


@pytest.mark.parametrize(("width", "height"), [(256, 144), (640, 352), (352, 640), (16, 16), (1280, 720), (33, 500)])
def test_a_picture_has_exactly_the_size_that_was_asked_for(painter: Painter, width: int, height: int) -> None:
    assert pixels(painter, "a red ball on grass, two birds", width, height).shape == (height, width, 3)


def test_the_same_seed_is_the_same_file_and_another_seed_another_picture(painter: Painter) -> None:
    files = [painter.paint("a red ball bounces on a wooden floor", 256, 144, seed).picture for seed in (0, 1, 2, 3)]
    assert len(set(files)) == 4
    assert painter.paint("a red ball bounces on a wooden floor", 256, 144, 2).picture == files[2]
    assert painter.paint("a red ball bounces on a wooden floor", 256, 144).picture == files[0]
    assert painter.longest is None
    painter.close()


def test_candidates_differ_by_more_than_a_shade(painter: Painter) -> None:
    first, *others = (pixels(painter, "a blue cube", seed=seed).astype(int) for seed in range(4))
    assert all(np.abs(first - other).max(axis=2).mean() > 3 for other in others)


@pytest.mark.parametrize("prompt", ["", "   ", "qwertz asdf", "an elephant dances", "?!…", "مرحبا"])
def test_what_is_unknown_stays_white(painter: Painter, prompt: str) -> None:
    assert (pixels(painter, prompt) == 255).all()


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("a red ball bounces on a wooden floor", ("red",)),
        ("一只红色的球在木地板上弹跳", ("red",)),
        ("a blue cube slides into a wall", ("blue", "dark blue")),
        ("蓝色的方块", ("blue", "dark blue")),
        ("a green ring blinks", ("green", "dark green")),
        ("a yellow metal ball on a table", ("yellow",)),
        ("a black rubber ball on snow", ("black", "dark grey")),
        ("a purple heart", ("purple",)),
        ("The balloon is pink.", ("pink",)),
        ("a woman in red on the beach", ("red", "dark red")),
        ("an orange car", ("orange",)),
    ],
)
def test_the_named_colour_takes_its_part_of_the_middle(
    painter: Painter, prompt: str, names: tuple[str, ...], seed: int
) -> None:
    picture = pixels(painter, prompt, 320, 180, seed)
    plain = pixels(painter, "a wall and a floor", 320, 180, seed)
    assert share(picture, *names) > share(plain, *names) + 0.012


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("a ball on grass", ("green", "light green", "dark green")),
        ("草地上的球", ("green", "light green", "dark green")),
        ("a ball in the snow", ("white", "light grey", "light blue")),
        ("a ball on a wooden floor", ("brown", "orange", "beige", "dark brown")),
        ("木地板上的球", ("brown", "orange", "beige", "dark brown")),
        ("a boat on the sea", ("blue", "teal", "dark blue", "light blue", "grey")),
        ("a cat on a red carpet", ("red", "dark red")),
        ("a ball on a black floor", ("black", "dark grey")),
        ("a camel in the desert", ("beige", "brown", "yellow", "orange")),
    ],
)
def test_the_ground_is_beneath(painter: Painter, prompt: str, names: tuple[str, ...]) -> None:
    assert share(pixels(painter, prompt)[-28:], *names) > 0.6


def test_light_and_weather_are_seen(painter: Painter) -> None:
    times = ("at noon", "at night", "at dusk")
    day, night, dusk = (pixels(painter, f"a house on grass {when}").astype(int) for when in times)
    assert night.mean() < 0.5 * day.mean()
    day_sky, dusk_sky = (picture[40:70].mean(axis=(0, 1)) for picture in (day, dusk))
    assert dusk_sky[0] - dusk_sky[2] > day_sky[0] - day_sky[2] + 60
    assert share(pixels(painter, "space"), "black", "dark blue", "purple") > 0.6
    assert np.abs(pixels(painter, "a house in the rain").astype(int) - day).mean() > 5


def test_colours_alone_make_a_composition(painter: Painter) -> None:
    picture = pixels(painter, "something purple and teal")
    assert share(picture, "purple") > 0.1
    assert share(picture, "teal") > 0.1


@pytest.mark.parametrize("name", THINGS)
def test_each_thing_can_be_seen_in_either_language(painter: Painter, name: str) -> None:
    words = THINGS[name].split(", ")
    english, chinese = words[0], next(word for word in words if not word.isascii())
    for word in (english, chinese):
        assert [thing.name for thing in scene(f"a {word}." if word.isascii() else word).things] == [name]
    picture = pixels(painter, f"a red {english} on a green floor in a white room", 160, 160)
    assert share(picture, "red", "dark red", "pink") > 0.004


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("two red balls and a blue cube", [("ball", 2, 1), ("cube", 1, 1)]),
        ("三只蓝色的鸟", [("bird", 3, 1)]),
        ("The phone rings; a clock", [("clock", 1, 0)]),
        ("two gold rings", [("ring", 2, 1)]),
        ("the sun rose", [("sun", 1, 0)]),
        ("a red rose", [("flower", 1, 1)]),
        ("a lighthouse keeper in a yellow coat", [("lighthouse", 1, 0), ("person", 1, 1)]),
        ("A ball rolls. The ball stops.", [("ball", 1, 0)]),
        ("a red ball and a green ball", [("ball", 1, 1), ("ball", 1, 1)]),
        ("机器人和热气球", [("robot", 1, 0), ("balloon", 1, 0)]),
        ("Medium shot, eye level. A cat.", [("cat", 1, 0)]),
    ],
)
def test_a_prompt_is_read_for_its_things(prompt: str, things: list[tuple[str, int, int]]) -> None:
    assert [(thing.name, thing.count, len(thing.colours)) for thing in scene(prompt).things] == things


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("A street, no people, dogs, not a single car.", []),
        ("a park without people, a red ball", ["ball"]),
        ("街上没有人，一只猫", ["cat"]),
        ("A woman and a man", ["woman", "person"]),
        ("画面中有一个女人。画面中有一个男人。", ["woman", "person"]),
        ("A man. Another man.", ["person", "person"]),
        ("A fisherman rows a boat.", ["person", "rowboat"]),
        ("渔夫在湖上划船", ["person", "rowboat"]),
        ("A boat sails.", ["boat"]),
        ("猫从书架跳到沙发上", ["cat", "bookshelf", "sofa"]),
        ("Piano music, a horse", ["horse"]),
        ("马上下雨", []),
    ],
)
def test_what_is_there_is_painted_and_what_is_absent_is_not(prompt: str, things: list[str]) -> None:
    assert [thing.name for thing in scene(prompt).things] == things


@pytest.mark.parametrize(
    ("prompt", "place", "ground"),
    [
        ("猫从书架跳到沙发上", "room", "floor"),
        ("a cat on a rooftop above the sea", "city", "roof"),
        ("a dog runs, snow falls", "hills", "snow"),
        ("一只狗，下着雪", "hills", "snow"),
        ("a boat on a lake", "hills", "lake"),
    ],
)
def test_things_are_where_they_belong(prompt: str, place: str, ground: str) -> None:
    found_place, found_ground = _where(scene(prompt))
    assert (found_place, found_ground.name if found_ground else "") == (place, ground)


def test_a_rower_sits_in_the_boat_and_has_no_beach(painter: Painter) -> None:
    picture = pixels(painter, "a fisherman rows a boat on a lake in fog")
    assert share(picture[-28:], "beige", "yellow", "green", "light green") < 0.05


def test_snow_falls_as_flakes_but_not_indoors(painter: Painter) -> None:
    assert scene("A fox, falling snow").weather == scene("雪花飘落").weather == "snowfall"
    assert scene("A fox in the snow").weather == ""
    indoors = pixels(painter, "a sofa in a red room, snow falls outside")
    assert (indoors == pixels(painter, "a sofa in a red room outside")).all() or share(indoors[:40], "white") < 0.02


def test_ground_place_and_light_are_read() -> None:
    found = scene("a glass ball against a wooden wall on a light blue floor at sunset in the rain")
    assert found.ground and found.ground.name == "floor"
    assert found.ground.colour and found.ground.colour[2] > 200 > found.ground.colour[0]
    assert found.place and (found.place.name, found.place.material) == ("room", "wood")
    assert (found.light, found.weather, found.things[0].material) == ("dusk", "rain", "glass")
    glass, wood = scene("a ball made of glass and a wooden cube").things
    assert (glass.name, glass.material, wood.name, wood.material) == ("ball", "glass", "cube", "wood")
    assert scene("") == Scene()


@settings(max_examples=40, deadline=None)
@given(some.text(max_size=200) | some.lists(some.sampled_from(KNOWN), max_size=12).map(" ".join))
def test_any_prompt_can_be_painted(prompt: str) -> None:
    assert pixels(connect_painter("builtin", {}), prompt, 48, 32, seed=3).shape == (32, 48, 3)


def test_a_very_long_prompt_is_painted(painter: Painter) -> None:
    assert pixels(painter, "a red ball and a tree " * 500, 64, 64).shape == (64, 64, 3)
