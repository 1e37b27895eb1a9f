"""What models are told to do: a Markdown file a task, without placeholders; what a task is about is its material."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from agents.models import Task


@cache
def instructions(task: Task) -> str:
    """The text of that task's file."""
    return Path(__file__).with_name(f"{task.value}.md").read_text(encoding="utf-8").strip()
