"""What a cancellation must not leave half done: it waits for the end of this work, and takes effect then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

R = TypeVar("R")
log = logging.getLogger(__name__)


async def to_the_end(work: Coroutine[Any, Any, R]) -> R:
    """Wait for work that is not to be broken off.

    :raises CancelledError: the caller was cancelled meanwhile; the work has ended all the same. What it raised then is
        logged: nobody else hears of it.
    """
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("after its caller was cancelled: %s", error, exc_info=error)
        raise asyncio.CancelledError
    return task.result()


async def in_thread(work: Callable[[], R], undo: Callable[[R], object] | None = None) -> R:
    """Run something that makes or removes things in a thread, which nothing can interrupt.

    :param work: what to do.
    :param undo: what to do with the result where the caller was cancelled meanwhile; what it raises is logged.
    :raises CancelledError: see ``to_the_end``.
    """
    made: list[R] = []
    try:
        await to_the_end(asyncio.to_thread(lambda: made.append(work())))
    except asyncio.CancelledError:
        if undo is not None and made:
            try:
                await to_the_end(asyncio.to_thread(undo, made[0]))
            except Exception:  # whatever it is: the caller is cancelled
                log.exception("what was made for a caller that was cancelled can't be undone")
        raise
    return made[0]
