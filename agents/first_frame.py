"""The first frame of a clip that was given none: an idea becomes an image prompt, and that a picture."""

from __future__ import annotations

import io
import struct

from PIL import Image

from agents.answers import after, usable
from agents.models import Ask, Painted, Painter, Task, Writer, Written
from agents.prompts import instructions
from agents.troubles import AgentError, Trouble

MAX_PIXELS = 64_000_000  # no model paints more; what claims to would fill the memory
FORMATS = ("PNG", "JPEG", "WEBP")


def write_image_prompt(writer: Writer, idea: str, width: int, height: int, longest: int | None = None) -> Written:
    """The image prompt for an idea, for a picture of that ratio; ``longest``: the characters that the painter takes.

    Writers don't count well: ``shorten`` is for a prompt that came out longer all the same.

    Raises:
        AgentError: the writer couldn't be used, or refused.
    """
    material = {"idea": idea, "picture": f"{width} x {height}, {_shape(width, height)}"}
    if longest:
        material["longest"] = str(longest)
    return usable(writer.write(Ask(Task.IMAGE_PROMPT, instructions(Task.IMAGE_PROMPT), material)))


def shorten(writer: Writer, image_prompt: str, longest: int, *, endpoint: str = "the painter") -> Written:
    """The image prompt said in at most ``longest`` characters, nothing cut off; asked for twice if need be.

    Raises:
        AgentError: the writer couldn't be used, or the prompt is still too long for ``endpoint``, which is to paint it.
    """
    written = _shorter(writer, image_prompt, longest)
    if len(written.text) > longest:
        best = min(written.text, image_prompt, key=len)
        written = after(written, _shorter(writer, best, longest))
    if len(written.text) > longest:
        raise AgentError(Trouble.TOO_LONG, count=len(written.text), endpoint=endpoint, longest=longest)
    return written


def paint(
    painter: Painter, prompt: str, width: int, height: int, seed: int | None = None, *, endpoint: str = "the painter"
) -> Painted:
    """One picture that is known to be one: it was decoded as a whole. ``endpoint``: whose painter it is, for errors.

    Raises:
        AgentError: the painter couldn't be used, the prompt is too long for it, or what came is no picture.
    """
    if painter.longest and len(prompt) > painter.longest:
        raise AgentError(Trouble.TOO_LONG, count=len(prompt), endpoint=endpoint, longest=painter.longest)
    painted = painter.paint(prompt, width, height, seed)
    if wrong := _wrong_with(painted.picture):
        raise AgentError(Trouble.NOT_AN_IMAGE, model=painted.model or "The model", endpoint=endpoint, said=wrong)
    return painted


def _shorter(writer: Writer, image_prompt: str, longest: int) -> Written:
    material = {"image_prompt": image_prompt, "longest": str(longest)}
    return usable(writer.write(Ask(Task.SHORTEN, instructions(Task.SHORTEN), material)))


def _shape(width: int, height: int) -> str:
    if width == height:
        return "square"
    return "landscape" if width > height else "portrait"


def _wrong_with(picture: bytes) -> str | None:
    """What keeps a file from being a picture; None if nothing does. Pillow's decoders raise any of these."""
    try:
        with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"it would have {image.width} x {image.height} pixels."
            image.load()
    except Image.DecompressionBombError:
        return f"it would have more than {MAX_PIXELS} pixels."
    except (OSError, ValueError, SyntaxError, EOFError, struct.error):
        return f"{len(picture)} bytes that can't be decoded as a PNG, JPEG or WebP file."
    return None
