"""The built-in: no model and no network, only rules, so that everything runs out of the box."""

from __future__ import annotations

from io import BytesIO

from PIL import UnidentifiedImageError

from agents.builtin import paint, prompts
from agents.builtin.measure import measured
from agents.models import Ability, Address, Ask, Painted, Painter, Provider, Task, Written
from agents.models import Writer as AnyWriter
from agents.troubles import AgentError, Trouble

NOTE = (
    "The built-in works without a model and without a network: it puts your own words in the form that the model was "
    "trained on, measures the picture and paints simple shapes. A real provider would see what is in the picture, "
    "write out the scene in the model's own manner, and paint a lifelike first frame."
)


class RulesWriter:
    """Writes by rules, from an ask's task and material; it reads no instructions."""

    def __init__(self, address: Address, model: str) -> None:
        self._address = address
        self._model = model

    def write(self, ask: Ask) -> Written:
        """The answer to one request.

        Raises:
            AgentError: the picture to measure can't be opened, or there is none.
        """
        return Written(self._text(ask), model=self._model)

    def close(self) -> None:
        """Nothing is held."""

    def _text(self, ask: Ask) -> str:
        match ask.task:
            case Task.IMAGE_PROMPT:
                return prompts.image_prompt(ask.material)
            case Task.SHORTEN:
                return prompts.shorter(ask.material)
            case Task.ELEMENTS:
                return self._elements(ask.images)
            case Task.VIDEO_PROMPT:
                return prompts.video_prompt(ask.material)
            case Task.TEST:
                return "ok"

    def _elements(self, images: tuple[bytes, ...]) -> str:
        if not images:
            raise AgentError(Trouble.REJECTED, endpoint=self._address.title, said="there is no picture to measure")
        try:
            return measured(images[0])
        except (UnidentifiedImageError, OSError) as error:
            raise AgentError(Trouble.REJECTED, endpoint=self._address.title, said=str(error)) from None


class ShapePainter:
    """Paints what a prompt names as simple shapes."""

    def __init__(self, model: str) -> None:
        self._model = model

    @property
    def longest(self) -> int | None:
        """A prompt may be as long as one likes."""
        return None

    def paint(self, prompt: str, width: int, height: int, seed: int | None = None) -> Painted:
        """One picture of exactly that size; the same for the same seed, another composition for another."""
        file = BytesIO()
        paint.painted(prompt, width, height, seed or 0).save(file, format="PNG")
        return Painted(file.getvalue(), model=self._model)

    def close(self) -> None:
        """Nothing is held."""


def _connect(address: Address, model: str, ability: Ability) -> AnyWriter | Painter:
    return ShapePainter(model) if ability is Ability.IMAGE else RulesWriter(address, model)


PROVIDER = Provider(abilities=frozenset(Ability), connect=_connect, remote=False)
