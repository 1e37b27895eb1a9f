"""A picture from a creator, made what the model sees: upright, opaque, 8-bit sRGB, of the size of the clip."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Literal, cast

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

MAX_PIXELS = 64_000_000

# What browsers and cameras write. Pillow would also read formats that start other programs (EPS) or fetch other files.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")

# What Pillow's decoders raise on damaged input (found by feeding them 6000 damaged files).
_DAMAGE = (
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    RuntimeError,
    ArithmeticError,
    OSError,
    struct.error,
)


class PictureError(ValueError):
    """A picture can't be used; the message is one sentence for its owner, and says what to do."""


def open_picture(source: Path | bytes) -> Image.Image:
    """The first frame of a picture file: mode RGB in sRGB, upright by its EXIF, transparency laid on white.

    The format is told by the content of ``source``, never by a file name. 16-bit and floating-point greyscale is scaled
    to 8 bits; an embedded colour profile is applied unless it is broken.

    Raises:
        PictureError: unreadable, empty, no picture, damaged, or larger than ``MAX_PIXELS`` (told before decoding).
    """
    with _stream(source) as stream:
        image = _decode(stream)
    image = _upright(image)
    profile = image.info.get("icc_profile")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    colour = _to_srgb(_opaque_eight_bits(image), profile)
    # A new image: what is left of the file's metadata (profile, EXIF) no longer describes these pixels.
    picture = Image.new("RGB", colour.size, "white")
    picture.paste(colour, (0, 0), alpha)
    return picture


def fit_picture(
    image: Image.Image,
    height: int,
    width: int,
    *,
    how: Literal["crop", "stretch"] = "crop",
    position: tuple[float, float] = (0.5, 0.5),
) -> Image.Image:
    """``image`` (RGB) brought to ``width`` x ``height`` pixels, as the original implementation does it.

    "crop" cuts the largest window of the target's aspect (integer arithmetic, truncated) and resizes it bicubically:
    the original's ``crop_and_resize`` bit for bit when ``position`` is the centre. ``position`` says where the window
    lies, across and down: 0 is left or top, 1 is right or bottom. "stretch" resizes the whole picture with Lanczos and
    lets it distort, as the original pipeline does with a picture of another size.

    Raises:
        PictureError: a position outside 0 to 1.
    """
    across, down = position
    if not (0 <= across <= 1 and 0 <= down <= 1):
        raise PictureError(f"The crop position {across}, {down} is outside 0 to 1; 0.5, 0.5 is the centre.")
    if how == "stretch":
        return _resized(image, width, height, Image.Resampling.LANCZOS)
    if image.width * height > image.height * width:
        crop_width, crop_height = max(1, image.height * width // height), image.height
    else:
        crop_width, crop_height = image.width, max(1, image.width * height // width)
    left, top = int((image.width - crop_width) * across), int((image.height - crop_height) * down)
    window = image.crop((left, top, left + crop_width, top + crop_height))
    return _resized(window, width, height, Image.Resampling.BICUBIC)


def white_picture(height: int, width: int) -> Image.Image:
    """A white picture of ``width`` x ``height`` pixels (RGB): the first frame of a clip that is made from text only."""
    return Image.new("RGB", (width, height), "white")


def _resized(image: Image.Image, width: int, height: int, resample: Image.Resampling) -> Image.Image:
    """``image.resize`` in the order of passes that Pillow 13 chooses and earlier versions don't; it shows in a level.

    Downwards comes first where it takes away more than twice as many pixels as across (found by comparing sizes).
    """
    if image.height > height and image.height - height > 2 * (image.width - width):
        image = image.resize((image.width, height), resample)
    elif image.width != width:
        image = image.resize((width, image.height), resample)
    return image.resize((width, height), resample)


@contextmanager
def _stream(source: Path | bytes) -> Iterator[IO[bytes]]:
    """``source`` as a binary stream that isn't empty."""
    try:
        stream = BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    except OSError as error:
        raise PictureError(
            f"The picture {error.filename} can't be read ({error.strerror}). Choose another file."
        ) from error
    with stream:
        if not stream.read(1):
            raise PictureError("The picture file is empty. Choose another file.")
        yield stream


def _decode(stream: IO[bytes]) -> Image.Image:
    """The picture in ``stream``, decoded after its size was read from the header."""
    Image.init()
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 megapixels on; that size is refused below, with its numbers.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        raise PictureError(
            "The file is no picture that can be read, or only the start of one. Choose a PNG, JPEG or WebP file."
        ) from error
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"The picture has more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} megapixels; "
            f"at most {MAX_PIXELS // 10**6} are read. Make it smaller and try again."
        ) from error
    except _DAMAGE as error:
        raise _damaged(error) from error
    _check_size(image.width, image.height)
    try:
        image.load()
    except _DAMAGE as error:
        raise _damaged(error) from error
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"The picture has {width} x {height} = {width * height / 1e6:.4g} megapixels; "
            f"at most {MAX_PIXELS // 10**6} are read. Make it smaller and try again."
        )


def _damaged(error: Exception) -> PictureError:
    return PictureError(f"The picture is cut short or damaged ({error}). Save it again or choose another file.")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGE:
        return image  # Damaged EXIF tells no rotation; every viewer shows such a picture as it is stored.


def _opaque_eight_bits(image: Image.Image) -> Image.Image:
    """The colours alone, 8 bits each: mode L, RGB or CMYK, the modes that colour profiles are made for."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scale_grey(image)
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _scale_grey(image: Image.Image) -> Image.Image:
    """Greyscale of more than 8 bits as mode L; Pillow's own conversion clips at 255 instead of scaling.

    Integers are 16-bit; floats are fractions of white, or 8-bit values where one exceeds 1. No convention tells what
    white is in anything larger or negative: there black and white are the picture's darkest and lightest value.
    """
    wide = image.convert("F") if image.mode == "F" else image.convert("I")
    low, high = cast(tuple[float, float], wide.getextrema())
    white = 65535.0 if image.mode != "F" else 1.0 if high <= 1 else 255.0
    black = 0.0
    if low < 0 or high > white:
        black, white = low, high
    scale = 255 / (white - black)
    offset = 0.5 - black * scale  # The half rounds: mode L truncates.
    return wide.convert("F").point(lambda value: value * scale + offset).convert("L")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """``image`` (L, RGB or CMYK) as RGB, through its colour profile if it has a usable one."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            # sRGB to sRGB would only add rounding.
            if "sRGB" not in ImageCms.getProfileDescription(source):
                converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
                return converted or image.convert("RGB")
        except (ImageCms.PyCMSError, OSError):
            # A broken profile, or one for other colours than the picture's: browsers ignore it, too.
            return image.convert("RGB")
    return image.convert("RGB")
