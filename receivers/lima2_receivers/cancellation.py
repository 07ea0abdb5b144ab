"""What a cancellation must not leave half done: it waits for the end of this work, and takes effect then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


async def to_the_end(work: Coroutine[Any, Any, R]) -> R:
    """Wait for work that is not to be broken off.

    :raises CancelledError: the caller was cancelled meanwhile; the work has ended all the same.
    """
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        task.exception()  # marks it as seen: the cancellation is what the caller hears of
        raise asyncio.CancelledError
    return task.result()


async def in_thread(work: Callable[[], R], undo: Callable[[R], object] | None = None) -> R:
    """Run something that makes or removes things in a thread, which nothing can interrupt.

    :param work: what to do.
    :param undo: what to do with the result where the caller was cancelled meanwhile.
    :raises CancelledError: see ``to_the_end``.
    """
    made: list[R] = []
    try:
        await to_the_end(asyncio.to_thread(lambda: made.append(work())))
    except asyncio.CancelledError:
        if undo is not None and made:
            await to_the_end(asyncio.to_thread(undo, made[0]))
        raise
    return made[0]
