"""Pictures as creators have them: turned, transparent, printed, animated, huge, broken."""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from mova.picture import PictureError, fit_picture, open_picture, white_picture

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG without pixels: to tell its size is possible, to decode it is not."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def halves(left: tuple[int, int, int], right: tuple[int, int, int], width: int = 40, height: int = 20) -> Image.Image:
    image = Image.new("RGB", (width, height), left)
    image.paste(right, (width // 2, 0, width, height))
    return image


def waves(width: int, height: int) -> Image.Image:
    """A picture from a formula: no two rows, columns or channels alike."""
    x, y = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    channels = np.array([3, 5, 7])[None, None, :]
    return Image.fromarray(((x * channels + y * y // channels + x * y // 9) % 256).astype(np.uint8))


def near(pixel: object, colour: tuple[int, int, int], by: int = 3) -> bool:
    return isinstance(pixel, tuple) and all(abs(have - want) <= by for have, want in zip(pixel, colour, strict=True))


def swapped_profile(description: str = "sXGB") -> bytes:
    """An sRGB profile whose red and green primaries changed places."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"tmp!", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"tmp!", b"gXYZ", 1)
    return profile.replace("sRGB".encode("utf-16-be"), description.encode("utf-16-be"))


def linear_grey_profile() -> bytes:
    """A greyscale profile whose values are proportional to light (ICC.1:2001, the four required tags)."""
    tags = {
        b"wtpt": b"XYZ " + struct.pack(">4x3i", 63190, 65536, 54061),
        b"kTRC": b"curv" + struct.pack(">4xIH2x", 1, 256),
        b"desc": b"desc" + struct.pack(">4xI", 5) + b"Grey\0" + bytes(78 + 1),
        b"cprt": b"text" + bytes(4) + b"none\0\0\0\0",
    }
    table, data, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">2I", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = struct.pack(">I", start + len(data))
    header = size + bytes(4) + b"\x02\x40\0\0mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28)
    return header + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + table + data


# fit_picture


@pytest.mark.parametrize(
    ("size", "target", "digest"),
    [
        ((90, 50), (48, 32), "d88297683b5d2552"),
        ((50, 90), (48, 32), "e5c35357e79071a5"),
        ((53, 37), (32, 48), "377207bff255f5e6"),
    ],
)
def test_crop_is_pinned(size: tuple[int, int], target: tuple[int, int], digest: str) -> None:
    """The same function on the golden pictures of the original gives its results bit for bit (checked by hand)."""
    width, height = target
    fitted = fit_picture(waves(*size), height, width)
    assert fitted.size == target
    assert hashlib.sha256(fitted.tobytes()).hexdigest()[:16] == digest


def test_crop_takes_the_centre_with_truncated_integers() -> None:
    source = waves(53, 37)  # 37 * 32 // 48 = 24 wide, (53 - 24) // 2 = 14 from the left
    expected = source.crop((14, 0, 38, 37)).resize((32, 48))
    assert fit_picture(source, 48, 32).tobytes() == expected.tobytes()


def test_position_moves_the_window() -> None:
    wide = halves(RED, BLUE)
    assert fit_picture(wide, 16, 16, position=(0, 0.5)).getcolors() == [(256, RED)]
    assert fit_picture(wide, 16, 16, position=(1, 0.5)).getcolors() == [(256, BLUE)]
    tall = wide.rotate(-90, expand=True)  # red above blue
    assert fit_picture(tall, 16, 16, position=(0.5, 0)).getcolors() == [(256, RED)]
    assert fit_picture(tall, 16, 16, position=(0.5, 1)).getcolors() == [(256, BLUE)]


@pytest.mark.parametrize("position", [(-0.1, 0.5), (0.5, 1.01), (float("nan"), 0.5)])
def test_a_position_outside_the_picture_is_refused(position: tuple[float, float]) -> None:
    with pytest.raises(PictureError, match="outside 0 to 1"):
        fit_picture(waves(20, 10), 16, 16, position=position)


def test_stretch_keeps_the_whole_picture() -> None:
    source = waves(60, 20)
    stretched = fit_picture(source, 16, 16, how="stretch")
    assert stretched.tobytes() == source.resize((16, 16), Image.Resampling.LANCZOS).tobytes()
    assert stretched.tobytes() != fit_picture(source, 16, 16).tobytes()


def test_a_hair_thin_picture_can_be_fitted() -> None:
    for size in ((500, 1), (1, 500)):
        for height, width in ((640, 352), (352, 640)):
            assert fit_picture(Image.new("RGB", size, RED), height, width).getpixel((9, 9)) == RED


def test_white_picture() -> None:
    picture = white_picture(height=32, width=48)
    assert (picture.mode, picture.size, picture.getcolors()) == ("RGB", (48, 32), [(48 * 32, WHITE)])


# open_picture: what it makes right


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_applied_once(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: show it rotated by 90 degrees clockwise
    picture = open_picture(encode(halves(RED, BLUE), format, exif=exif))
    assert picture.size == (20, 40)
    assert near(picture.getpixel((10, 4)), RED, by=12)
    assert near(picture.getpixel((10, 35)), BLUE, by=12)
    assert 0x0112 not in picture.getexif()


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_on_white(format: str) -> None:
    image = halves(RED, BLUE).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size).point(lambda value: 255 if value > 127 else 0))
    picture = open_picture(encode(image, format, **({"lossless": True, "exact": True} if format == "WEBP" else {})))
    assert picture.getpixel((2, 2)) == WHITE  # transparent, its hidden colour doesn't show
    assert picture.getpixel((2, 17)) == RED


def test_half_transparency_is_blended() -> None:
    assert open_picture(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 51)), "PNG")).getpixel((1, 1)) == (255, 204, 204)


def test_transparent_palette_and_grey() -> None:
    palette = halves(RED, BLUE).quantize(2)
    red_index = palette.getpixel((0, 0))
    picture = open_picture(encode(palette, "PNG", transparency=red_index))
    assert (picture.getpixel((2, 2)), picture.getpixel((35, 2))) == (WHITE, BLUE)
    grey = Image.new("LA", (4, 4), (100, 0))
    assert open_picture(encode(grey, "PNG")).getpixel((1, 1)) == WHITE


def test_printed_colours_come_back() -> None:
    cmyk = halves(RED, BLUE).convert("CMYK")
    for data in (
        encode(cmyk, "JPEG", quality=95),
        encode(cmyk, "TIFF"),
    ):  # Pillow writes JPEG's CMYK as Adobe: inverted
        picture = open_picture(data)
        assert near(picture.getpixel((5, 10)), RED, by=6)
        assert near(picture.getpixel((35, 10)), BLUE, by=6)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(format: str) -> None:
    image = Image.fromarray(np.array([[0, 257, 0x8080, 65535]], np.uint16))
    assert np.asarray(open_picture(encode(image, format)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_integer_and_float_grey_is_scaled() -> None:
    integers = Image.fromarray(np.array([[0, 0x8080, 65535]], np.int32))
    assert np.asarray(open_picture(encode(integers, "TIFF")))[0, :, 1].tolist() == [0, 128, 255]
    fractions = Image.fromarray(np.array([[0, 0.5, 1]], np.float32))
    assert np.asarray(open_picture(encode(fractions, "TIFF")))[0, :, 1].tolist() == [0, 128, 255]
    heights = Image.fromarray(np.array([[-1000, 0, 1000]], np.float32))
    assert np.asarray(open_picture(encode(heights, "TIFF")))[0, :, 1].tolist() == [0, 128, 255]


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    later = [Image.new("RGB", (40, 20), colour) for colour in (GREEN, WHITE)]
    data = encode(halves(RED, BLUE), format, save_all=True, append_images=later)
    assert getattr(Image.open(BytesIO(data)), "n_frames", 1) == 3
    picture = open_picture(data)
    assert near(picture.getpixel((5, 10)), RED, by=12)
    assert near(picture.getpixel((35, 10)), BLUE, by=12)


def test_a_colour_profile_is_applied() -> None:
    picture = open_picture(encode(Image.new("RGB", (8, 8), RED), "PNG", icc_profile=swapped_profile()))
    assert near(picture.getpixel((4, 4)), GREEN)
    assert "icc_profile" not in picture.info  # or it would be applied again


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_grey_profile_is_applied(mode: str) -> None:
    picture = open_picture(encode(Image.new("L", (8, 8), 55).convert(mode), "PNG", icc_profile=linear_grey_profile()))
    assert near(picture.getpixel((4, 4)), (128, 128, 128))  # 21.6 % of the light is half of sRGB's scale


def test_an_srgb_profile_changes_nothing() -> None:
    data = encode(waves(40, 30), "PNG", icc_profile=swapped_profile("sRGB"))
    assert open_picture(data).tobytes() == waves(40, 30).tobytes()


@pytest.mark.parametrize("profile", [b"no profile", swapped_profile()[:200]])
def test_a_broken_profile_is_ignored(profile: bytes) -> None:
    assert open_picture(encode(waves(9, 9), "PNG", icc_profile=profile)).tobytes() == waves(9, 9).tobytes()


def test_a_profile_for_other_colours_is_ignored() -> None:
    grey = Image.new("L", (8, 8), 90)
    assert open_picture(encode(grey, "PNG", icc_profile=swapped_profile())).getpixel((4, 4)) == (90, 90, 90)


def test_the_content_tells_the_format(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(encode(waves(12, 8), "PNG"))
    assert open_picture(file).tobytes() == open_picture(file.read_bytes()).tobytes() == waves(12, 8).tobytes()


# open_picture: what it refuses


@pytest.mark.parametrize(
    "data", [b"", b"Dear model,\nplease draw a cat.", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_picture_is_refused(data: bytes, tmp_path: Path) -> None:
    sentence = "empty" if not data else "no picture"
    file = tmp_path / "picture.png"
    file.write_bytes(data)
    for source in (data, file):
        with pytest.raises(PictureError, match=sentence):
            open_picture(source)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_a_truncated_picture_is_refused(format: str) -> None:
    data = encode(waves(120, 90), format)
    with pytest.raises(PictureError, match=r"cut short or damaged|only the start"):
        open_picture(data[: len(data) // 2])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"nowhere\.png"):
        open_picture(tmp_path / "nowhere.png")


def test_a_huge_picture_is_refused_by_its_header() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PictureError, match=r"12000 x 9000 = 108 megapixels; at most 64 are read\. Make it smaller"):
            open_picture(png_header(12000, 9000))
        with pytest.raises(PictureError, match="more than 178 megapixels"):
            open_picture(png_header(60000, 60000))


def test_64_megapixels_are_the_limit() -> None:
    with pytest.raises(PictureError, match="megapixels"):
        open_picture(png_header(8001, 8000))
    with pytest.raises(PictureError, match="cut short"):  # 64 megapixels pass the check and go on to the decoder
        open_picture(png_header(8000, 8000))
