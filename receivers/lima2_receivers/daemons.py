"""What the daemons have in common: logging, a clean end on SIGTERM and SIGINT, one line for a bad start."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Callable
from typing import Protocol

from .errors import ReceiverError

log = logging.getLogger(__name__)

BAD_START = 2  # exit status of a daemon that could not start


class Daemon(Protocol):
    """A process that serves until it is cancelled."""

    async def run(self) -> None:
        """Serve until cancelled, then clean up."""
        ...


def set_up_logging(name: str, verbose: bool) -> None:
    """Log to standard error, one line an event, as systemd's journal likes it."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format=f"%(asctime)s {name} %(levelname)s %(message)s",
        stream=sys.stderr,
        force=True,
    )


def ended_by_signal() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set from now on; for processes without an event loop."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    return ended


def run_daemon(make: Callable[[], Daemon]) -> int:
    """Make a daemon, run it until SIGTERM or SIGINT, and return its exit status.

    :param make: called in the running event loop.
    :returns: 0 after a signal, 2 where it could not start.
    """
    try:
        return asyncio.run(_until_signal(make))
    except ReceiverError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the one line that a person needs
        return BAD_START


async def _until_signal(make: Callable[[], Daemon]) -> int:
    loop = asyncio.get_running_loop()
    daemon = make()
    task = asyncio.create_task(daemon.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("stopped by a signal")
    return 0
