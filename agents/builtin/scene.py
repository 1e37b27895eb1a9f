"""What of a prompt can be painted: things with their colours, the ground, the place, the light; English and Chinese."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

from agents.builtin.absent import without_absent

Colour = tuple[int, int, int]

MOST_THINGS = 6  # that are painted

COLOURS: dict[str, tuple[Colour, str]] = {
    "red": ((214, 48, 44), "red, crimson, scarlet, 红, 红色, 大红, 赤"),
    "orange": ((240, 138, 36), "orange, amber, 橙, 橙色, 橘色, 橘红"),
    "yellow": ((247, 205, 52), "yellow, 黄, 黄色"),
    "gold": ((222, 170, 48), "gold, golden, 金色, 金黄"),
    "green": ((62, 158, 82), "green, emerald, 绿, 绿色, 翠绿"),
    "teal": ((30, 148, 148), "teal, turquoise, cyan, 青色, 青"),
    "blue": ((42, 104, 214), "blue, azure, navy, 蓝, 蓝色"),
    "purple": ((128, 70, 176), "purple, violet, lilac, 紫, 紫色"),
    "pink": ((238, 138, 174), "pink, magenta, 粉, 粉色, 粉红"),
    "brown": ((128, 82, 48), "brown, 棕, 棕色, 褐色"),
    "beige": ((224, 204, 170), "beige, cream, tan, 米色"),
    "white": ((246, 246, 244), "white, 白, 白色"),
    "grey": ((140, 144, 150), "grey, gray, 灰, 灰色"),
    "silver": ((190, 196, 204), "silver, silvery, 银, 银色"),
    "black": ((34, 34, 38), "black, 黑, 黑色"),
}
THINGS = {
    "ball": "ball, sphere, orb, marble, football, basketball, 球, 小球, 皮球, 圆球, 足球, 篮球",
    "disc": "circle, disc, disk, dot, coin, 圆, 圆形, 圆盘, 硬币",
    "cube": "cube, box, boxes, block, square, crate, dice, 方块, 立方体, 盒子, 箱子, 正方形, 积木",
    "ring": "ring, hoop, torus, donut, 环, 圆环, 戒指, 圈, 指环",
    "triangle": "triangle, pyramid, cone, 三角形, 三角, 金字塔, 圆锥",
    "star": "star, 星星, 五角星, 星形, 星",
    "heart": "heart, 心形, 爱心, 红心",
    "person": "person, man, men, people, keeper, figure, guy, "
    "teacher, chef, dancer, singer, astronaut, fisherman, king, soldier, sailor, father, grandfather, "
    "人, 男人, 老人, 男士, 爷爷, 爸爸, 老师, 厨师, 男子, 宇航员, 渔夫, 父亲, 国王, 士兵, 水手",
    "woman": "woman, women, lady, ladies, queen, princess, mother, grandmother, 女人, 女士, 奶奶, 妈妈, 女子, 姑娘, "
    "母亲, 公主, 王后",
    "child": "child, children, boy, girl, kid, 孩子, 男孩, 女孩, 小孩, 少年, 少女",
    "robot": "robot, android, 机器人",
    "tree": "tree, oak, pine, 树, 大树, 松树, 树木",
    "house": "house, cottage, cabin, hut, barn, 房子, 小屋, 木屋, 房屋",
    "boat": "boat, ship, sailboat, yacht, 船, 小船, 帆船, 轮船",
    "rowboat": "rowboat, rowing boat, canoe, kayak, dinghy, 划艇, 独木舟, 小木船",
    "lighthouse": "lighthouse, 灯塔",
    "sun": "sun, 太阳",
    "moon": "moon, 月亮, 明月",
    "cloud": "cloud, 云, 白云, 云朵, 乌云",
    "car": "car, taxi, truck, van, bus, 汽车, 小汽车, 轿车, 出租车, 卡车, 车",
    "train": "train, tram, locomotive, 火车, 列车, 电车",
    "bird": "bird, sparrow, seagull, gull, crow, parrot, 鸟, 小鸟, 海鸥, 鹦鹉, 乌鸦",
    "butterfly": "butterfly, butterflies, moth, 蝴蝶",
    "fish": "fish, fishes, goldfish, shark, 鱼, 金鱼, 小鱼",
    "cat": "cat, kitten, 猫, 小猫, 猫咪",
    "fox": "fox, foxes, vixen, 狐狸, 小狐狸",
    "horse": "horse, pony, ponies, stallion, mare, 马, 小马, 骏马",
    "dog": "dog, puppy, puppies, 狗, 小狗, 狗狗",
    "flower": "flower, roses, tulip, daisy, daisies, 花, 花朵, 玫瑰, 郁金香",
    "sunflower": "sunflower, 向日葵",
    "mountain": "mountain, hill, volcano, 山, 山峰, 雪山, 火山",
    "balloon": "balloon, 气球, 热气球",
    "cup": "cup, mug, teacup, 杯子, 茶杯, 咖啡杯",
    "bell": "bell, 铃铛, 钟, 铃",
    "clock": "clock, wristwatch, 时钟, 闹钟, 手表",
    "candle": "candle, 蜡烛",
    "umbrella": "umbrella, parasol, 雨伞, 伞",
    "apple": "apple, 苹果",
    "rocket": "rocket, spaceship, 火箭, 飞船",
    "piano": "piano, grand piano, 钢琴",
    "bookshelf": "bookshelf, bookshelves, bookcase, book shelf, shelf, shelves, 书架, 书柜",
    "sofa": "sofa, couch, couches, armchair, 沙发",
    "book": "book, 书, 书本",
    "sign": "sign, signboard, billboard, 招牌, 牌子, 路牌",
    "lamp": "lamp, lantern, 灯, 台灯, 灯笼, 路灯",
}
GROUNDS = {
    "floor": "floor, 地板, 地面",
    "wood": "floorboard, parquet, 木地板",
    "table": "table, desk, tabletop, counter, 桌子, 桌上, 桌面, 书桌",
    "grass": "grass, lawn, meadow, field, park, garden, 草, 草地, 草坪, 公园, 花园, 田野, 草原",
    "sand": "sand, desert, dune, 沙, 沙漠, 沙地, 沙丘",
    "snow": "snow, snowy, 雪地, 雪, 积雪",
    "water": "water, sea, ocean, harbor, harbour, 水, 海, 大海, 海面, 水面, 港口",
    "lake": "lake, river, pond, 湖, 湖面, 湖上, 河, 河流, 池塘",
    "roof": "roof, rooftop, 屋顶, 房顶, 楼顶, 天台",
    "road": "road, street, highway, asphalt, pavement, 路, 马路, 街, 街道, 公路",
    "stone": "stone, rock, cliff, cobblestone, marble floor, 石头, 岩石, 悬崖",
    "earth": "soil, mud, ground, dirt, 泥土, 大地, 土地",
    "carpet": "carpet, rug, 地毯",
}
PLACES = {
    "room": "wall, room, indoors, kitchen, bedroom, classroom, office, studio, hall, cafe, café, restaurant, library, "
    "墙, 墙壁, 房间, 室内, 屋里, 厨房, 教室, 办公室, 卧室, 咖啡馆, 餐厅, 图书馆, 工作室",
    "sky": "sky, skies, outdoors, outside, 天空, 室外, 户外, 天上",
    "beach": "beach, beaches, shore, coast, seaside, 海滩, 沙滩, 海边, 海岸",
    "forest": "forest, woods, jungle, 森林, 树林, 丛林, 林间",
    "city": "city, cities, skyline, town, downtown, skyscraper, 城市, 都市, 城里, 高楼, 小镇",
    "mountains": "mountains, hills, alps, 群山, 山脉, 山谷, 山间",
    "space": "outer space, space, galaxy, cosmos, 太空, 宇宙, 星空, 银河",
    "underwater": "underwater, seabed, aquarium, coral reef, 水下, 海底, 水里, 鱼缸",
}
LIGHTS = {
    "dawn": "dawn, sunrise, morning, daybreak, 黎明, 清晨, 日出, 早晨, 早上",
    "day": "noon, midday, daylight, sunny, daytime, 正午, 中午, 白天, 晴天, 阳光",
    "dusk": "dusk, sunset, evening, twilight, golden hour, 黄昏, 傍晚, 日落, 夕阳",
    "night": "night, midnight, moonlight, moonlit, starry, nighttime, 夜, 夜晚, 夜里, 深夜, 午夜, 月光",
}
WEATHERS = {
    "rain": "rain, rainy, raining, rains, storm, stormy, 雨, 下雨, 暴雨, 雨中",
    "snowfall": "snowing, snowfall, snowflake, blizzard, falling snow, snow falls, snow falling, snow is falling, "
    "snow fell, heavy snow, light snow, 下雪, 飘雪, 雪花, 落雪, 下着雪, 飘着雪, 雪纷纷, 大雪, 小雪, 雪落",
    "fog": "fog, foggy, mist, misty, haze, 雾, 薄雾, 大雾",
}
MATERIALS = {
    "wood": "wood, wooden, oak, 木, 木头, 木制, 木质",
    "glass": "glass, crystal, transparent, 玻璃, 水晶, 透明",
    "metal": "metal, metallic, steel, iron, chrome, 金属, 钢, 铁",
    "rubber": "rubber, 橡胶",
}
COUNTS = {
    "2": "two, pair of, 两个, 两只, 两, 二, 一对",
    "3": "three, several, some, 三个, 三只, 三, 几只, 几个",
    "4": "four, 四个, 四只, 四",
    "5": "five, many, flock of, 五个, 五只, 五, 许多, 很多, 一群",
}
SIZES = {"small": "small, tiny, little, 小小的", "large": "big, large, huge, giant, enormous, 大, 巨大, 大大的"}
TONES = {"light": "light, pale, pastel, 浅, 淡", "dark": "dark, deep, 深, 暗"}
GARMENTS = {
    "clothes": "coat, dress, shirt, jacket, hat, sweater, suit, scarf, skirt, raincoat, robe, "
    "外套, 裙子, 衣服, 大衣, 帽子, 毛衣, 衬衫, 连衣裙, 雨衣, 上衣",
}
AMBIGUOUS = {"ring": "rings", "flower": "rose"}  # verbs as well: things only where an adjective goes before
STOPS = ".!?;。！？；\n"  # adjectives go no further
PREPOSITIONS = (
    "on, in, at, by, near, over, under, above, below, behind, against, with, into, onto, through, beside, 在, 上"
)


_ROWING = re.compile(r"\brow(?:s|ed|ing|er|ers)?\b|\boars?\b|\bpaddl|划|船桨", re.IGNORECASE)


@dataclass(frozen=True)
class Thing:
    """One kind of thing in the picture. No colour: its own. ``size`` is a factor."""

    name: str
    colours: tuple[Colour, ...] = ()
    material: str = ""
    count: int = 1
    size: float = 1.0


@dataclass(frozen=True)
class Surface:
    """A ground or a wall."""

    name: str
    colour: Colour | None = None
    material: str = ""


@dataclass(frozen=True)
class Scene:
    """What is to be painted; ``colours`` are those that belong to nothing that is known."""

    things: tuple[Thing, ...] = ()
    ground: Surface | None = None
    place: Surface | None = None
    light: str = ""
    weather: str = ""
    colours: tuple[Colour, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing was understood."""
        return self == Scene()


def scene(prompt: str) -> Scene:
    """What a prompt names that can be painted, but not what it says is absent; words in quotes are read as well."""
    reading = _Reading()
    for kind, name in _tokens(without_absent(prompt).lower()):
        reading.take(kind, name)
    return _rowed(reading.finished()) if _ROWING.search(prompt) else reading.finished()


def _rowed(found: Scene) -> Scene:
    """A boat that is rowed has no sail."""
    things = tuple(replace(thing, name="rowboat") if thing.name == "boat" else thing for thing in found.things)
    return replace(found, things=things)


def names_a_colour(text: str) -> bool:
    """Whether any colour is named."""
    return any(kind == "colour" for kind, _ in _tokens(text.lower()))


class _Reading:
    """Adjectives are gathered until a noun takes them; those that none takes go to the noun before."""

    def __init__(self) -> None:
        self.scene = Scene()
        self.colours: list[Colour] = []
        self.material, self.tone, self.count, self.size, self.of = "", "", 1, 1.0, False
        self.other = False

    def take(self, kind: str, name: str) -> None:
        """One word that is known."""
        match kind:
            case "thing":
                self._thing(name)
            case "ambiguous" if self.colours or self.material or self.count > 1:
                self._thing(name)
            case "ground" | "place":
                self._surface(kind, name)
            case "light":
                self.scene = replace(self.scene, light=self.scene.light or name)
            case "weather":
                self.scene = replace(self.scene, weather=self.scene.weather or name)
            case "garment" | "stop":
                self._stop()
            case _:
                self._adjective(kind, name)

    def finished(self) -> Scene:
        """The scene that was read."""
        self._stop()
        return self.scene

    def _adjective(self, kind: str, name: str) -> None:
        match kind:
            case "colour":
                self.colours.append(_toned(COLOURS[name][0], self.tone))
                self.tone = ""
            case "material" if self.of and self.scene.things:
                last = replace(self.scene.things[-1], material=name)
                self.scene = replace(self.scene, things=(*self.scene.things[:-1], last))
            case "material":
                self.material = name
            case "count":
                self.count = int(name)
            case "size":
                self.size = 1.25 if name == "large" else 0.7
            case "tone":
                self.tone = name
            case "other":
                self.other = True
        self.of = kind == "of"

    def _thing(self, name: str) -> None:
        same = [thing for thing in self.scene.things if thing.name == name]
        if same and not self.other and (not self.colours or tuple(self.colours) == same[0].colours):
            self._clear()
            return  # the same one, mentioned again
        thing = Thing(name, tuple(self.colours), self.material, self.count, self.size)
        self.scene = replace(self.scene, things=(*self.scene.things, thing))
        self._clear()

    def _surface(self, kind: str, name: str) -> None:
        surface = Surface(name, self.colours[0] if self.colours else None, self.material)
        if kind == "ground":
            higher = name == "roof" or self.scene.ground is None  # one stands on a roof, whatever lies below
            self.scene = replace(self.scene, ground=surface if higher else self.scene.ground)
        else:
            self.scene = replace(self.scene, place=self.scene.place or surface)
        self._clear()

    def _stop(self) -> None:
        """What is left over: "the ball is red", "a woman in red", a coat's colour."""
        things = self.scene.things
        if self.colours and things and not things[-1].colours:
            last = replace(things[-1], colours=tuple(self.colours), material=things[-1].material or self.material)
            self.scene = replace(self.scene, things=(*things[:-1], last))
        elif self.colours:
            self.scene = replace(self.scene, colours=(*self.scene.colours, *self.colours))
        self._clear()

    def _clear(self) -> None:
        self.colours = []
        self.material, self.tone, self.count, self.size, self.of = "", "", 1, 1.0, False
        self.other = False


def _toned(colour: Colour, tone: str) -> Colour:
    if not tone:
        return colour
    goal, part = ((255, 255, 255), 0.5) if tone == "light" else ((10, 10, 20), 0.45)
    red, green, blue = (round(own + (other - own) * part) for own, other in zip(colour, goal, strict=True))
    return red, green, blue


def _tokens(text: str) -> list[tuple[str, str]]:
    pattern, meanings = _vocabulary()
    return [meanings[found.group()] for found in pattern.finditer(text)]


@cache
def _vocabulary() -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    """What finds any known word, the longest first, and what each means: its kind and its name."""
    meanings: dict[str, tuple[str, str]] = dict.fromkeys(_IGNORED.split(", "), ("ignored", ""))
    tables = {
        "ambiguous": AMBIGUOUS,
        "place": PLACES,
        "ground": GROUNDS,
        "thing": THINGS,
        "light": LIGHTS,
        "weather": WEATHERS,
        "material": MATERIALS,
        "count": COUNTS,
        "size": SIZES,
        "tone": TONES,
        "garment": GARMENTS,
        "colour": dict(zip(COLOURS, (words for _, words in COLOURS.values()), strict=True)),
    }
    for kind, table in tables.items():
        for name, words in table.items():
            for word in words.split(", "):
                meanings.setdefault(word, (kind, name))
                if kind in ("thing", "ground", "place") and word.isascii():
                    meanings.setdefault(word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s"), (kind, name))
    meanings["of"] = ("of", "")
    meanings |= dict.fromkeys(("another", "另一", "另外一"), ("other", ""))
    meanings |= dict.fromkeys([*STOPS, *PREPOSITIONS.split(", ")], ("stop", ""))
    ordered = sorted(meanings, key=len, reverse=True)
    words = "|".join(
        rf"(?<![a-z]){re.escape(word)}(?![a-z])" if word[0].isascii() and word[0].isalpha() else re.escape(word)
        for word in ordered
    )
    return re.compile(words), meanings


# Longer words in which a known one means something else.
_IGNORED = (
    "eye level, close-up, ring tone, rings out, light bulb, snow white, soft light, 地球, 星球, 人群, "
    "piano music, piano melody, piano tune, 钢琴曲, 钢琴声, 马上, 河马, 斑马, 木马, 马克, 罗马, 机器人声, "
    "大家, 大声, 小心, 云南, 水平, 画面, 方向, 回家, 开花, 关心, 中心, 鱼眼, 明星, 火花, 浪花, 雪白, 木偶, "
    "车站, 书写, 路过, 走路, 一路, 青年, 钟声, 铃声, 雨声, 水声, 海浪声, 大约, 大概, 水彩"
)
