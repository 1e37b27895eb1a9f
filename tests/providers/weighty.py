"""A provider of the tests whose models weigh something: it says which are held, and for whom."""

from __future__ import annotations

from agents.models import Ability, Address, Ask, Painted, Provider, Written

held: list[str] = []


class Weighty:
    """A name, until it is closed; whoever uses it after that is told."""

    longest = 40

    def __init__(self, address: Address, model: str, ability: Ability) -> None:
        self._name = f"{model} {ability}"
        self._open = True
        held.append(self._name)

    def write(self, ask: Ask) -> Written:
        assert self._open, f"{self._name} was closed"
        return Written("A short prompt." if ask.task == "shorten" else f"A prompt of {self._name}: {'much more ' * 9}")

    def paint(self, prompt: str, width: int, height: int, seed: int | None = None) -> Painted:
        assert self._open, f"{self._name} was closed"
        raise NotImplementedError

    def close(self) -> None:
        if self._open:
            held.remove(self._name)
        self._open = False


PROVIDER = Provider(abilities=frozenset(Ability), connect=Weighty, remote=False, heavy=True)
