"""A writer that says what a test told it to."""

from __future__ import annotations

from agents.models import Ask, Written


class Script:
    """A writer that gives the answers it was told, and keeps what it was asked."""

    def __init__(self, *answers: Written | str) -> None:
        self.answers = [answer if isinstance(answer, Written) else Written(answer, "m") for answer in answers]
        self.asked: list[Ask] = []

    def write(self, ask: Ask) -> Written:
        self.asked.append(ask)
        return self.answers.pop(0)

    def close(self) -> None:
        pass
