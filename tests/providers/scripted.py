"""A provider of the tests: what it writes and paints comes from a server that a test has in hand.

It is the whole of what another provider takes: this file, lying where ``agents.providers`` looks for them.
"""

from __future__ import annotations

import httpx

from agents.models import Ability, Address, Ask, Painted, Provider, Written
from agents.troubles import AgentError, Trouble, insist


class Scripted:
    """Sends what it is asked as JSON; the answer's body is the text, or the picture."""

    longest = None

    def __init__(self, address: Address, model: str, ability: Ability) -> None:
        self._address, self._model = address, model
        headers = {"authorization": f"Bearer {address.key}"}
        self._client = httpx.Client(timeout=address.timeout, headers=headers, trust_env=False)

    def write(self, ask: Ask) -> Written:
        body = insist(lambda: self._send(ask.task, ask.user))
        if not body.strip():
            raise AgentError(Trouble.EMPTY_ANSWER, endpoint=self._address.title, model=self._model)
        return Written(body.decode(), model=f"{self._model}-2026", tokens_in=len(ask.user), tokens_out=len(body))

    def paint(self, prompt: str, width: int, height: int, seed: int | None = None) -> Painted:
        return Painted(insist(lambda: self._send("paint", f"{prompt}\n{width}x{height} {seed}")), model=self._model)

    def close(self) -> None:
        self._client.close()

    def _send(self, task: str, user: str) -> bytes:
        named = {"endpoint": self._address.title, "model": self._model, "secret": self._address.key}
        try:
            answer = self._client.post(f"{self._address.base_url}/{task}", json={"model": self._model, "user": user})
        except httpx.TransportError as error:
            raise AgentError(
                Trouble.UNREACHABLE, address=self._address.base_url, said=type(error).__name__, **named
            ) from None
        if answer.status_code == 429:
            raise AgentError(Trouble.RATE_LIMIT, wait=0.0, said=answer.text, **named)
        if answer.is_error:
            raise AgentError(Trouble.REJECTED, said=answer.text, **named)
        return answer.content


PROVIDER = Provider(abilities=frozenset(Ability), connect=Scripted)
