"""A call that takes long, made in a thread of its own while somebody looks whether it is still wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def attend(
    call: Callable[[], Result],
    tick: Callable[[], object],
    give_up: Callable[[threading.Thread], object],
    *,
    every: float,
) -> Result:
    """What ``call`` gives or raises; ``tick`` is called before it and every so many seconds meanwhile.

    What ``tick`` raises ends the wait: ``give_up`` is told of the thread, which nothing can stop from here.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001  handed on to the thread that waits
            errors.append(error)

    tick()
    thread = threading.Thread(target=run, daemon=True, name="attended")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(every)
            tick()
    except BaseException:
        give_up(thread)
        raise
    if errors:
        raise errors[0]
    return results[0]
