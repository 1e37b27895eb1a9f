"""What goes over a line, checked on both ends: prompts that are short enough, texts and pictures that can be used."""

from __future__ import annotations

from io import BytesIO

from PIL import Image, UnidentifiedImageError

from agents.answers import LONGEST_ANSWER
from agents.line import Line, wait_asked
from agents.troubles import Trouble

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")
LARGEST_PICTURE = 30_000_000  # bytes; 2048 x 2048 as PNG are about 8 million


def check_length(line: Line, prompt: str, longest: int | None) -> None:
    """Raise ``AgentError`` if an image prompt has more characters than its painter takes."""
    if longest is not None and len(prompt) > longest:
        raise line.error(Trouble.TOO_LONG, count=len(prompt), longest=longest)


def check_text(line: Line, text: str) -> None:
    """Raise ``AgentError`` if an answer is empty, or too long to be one."""
    if not text:
        raise line.error(Trouble.EMPTY_ANSWER)
    if len(text) > LONGEST_ANSWER:
        raise line.error(Trouble.UNREADABLE, said=f"it is {len(text)} characters long")


def check_picture(line: Line, picture: bytes) -> None:
    """Raise ``AgentError`` if a picture doesn't open to its last row."""
    if wrong := flaw(picture):
        raise line.error(Trouble.NOT_AN_IMAGE, said=wrong)


def flaw(picture: bytes) -> str | None:
    """What is wrong with a picture file; None if it opens to its last row."""
    try:
        with Image.open(BytesIO(picture), formats=PICTURE_FORMATS) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = "no PNG, JPEG or WebP" if isinstance(error, UnidentifiedImageError) else error
        return f"what came can't be opened ({why})"
    return None


def fetched(line: Line, url: str) -> bytes:
    """The picture at an address that an answer names, fetched apart from the answer, so that none is paid for twice.

    The address may be anybody's, which isn't told the key; and it may be signed, so that no error repeats it.
    """
    return line.insist(lambda: _fetched(line, url))


def _fetched(line: Line, url: str) -> bytes:
    picture = bytearray()
    with (
        line.open(to="the address of its picture", follow_redirects=True) as client,
        client.stream("GET", url) as answer,
    ):
        status = answer.status_code
        if status == 429 or status >= 500:
            raise line.error(Trouble.OVERLOADED, wait=wait_asked(answer.headers), said=f"the picture: HTTP {status}")
        if status != 200:
            raise line.error(Trouble.NOT_AN_IMAGE, said=f"where it is said to lie: HTTP {status}")
        for part in answer.iter_bytes():
            picture += part
            if len(picture) > LARGEST_PICTURE:
                raise line.error(
                    Trouble.NOT_AN_IMAGE,
                    said=f"it is larger than {LARGEST_PICTURE // 1_000_000} MB"
                    if LARGEST_PICTURE >= 1_000_000
                    else f"it has more than {LARGEST_PICTURE} bytes",
                )
    return bytes(picture)
