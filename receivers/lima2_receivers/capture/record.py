"""Recording: from a tap to a file, until it is enough."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from msgspec import Struct

from .format import CaptureWriter
from .taps import Tap

POLL_SECONDS = 0.1  # how soon it notices that it is to end
TELL_SECONDS = 1.0  # between flushes, which are told


class Tally(Struct, frozen=True):
    """What was recorded.

    :param messages: ZeroMQ messages or datagrams.
    :param bytes: of their parts.
    :param seconds: since it began.
    :param dropped: datagrams that the kernel threw away, since they came faster than they were written.
    """

    messages: int = 0
    bytes: int = 0
    seconds: float = 0.0
    dropped: int = 0

    def __str__(self) -> str:
        dropped = f", {self.dropped} datagrams dropped by the kernel" if self.dropped else ""
        return f"{self.messages} messages, {self.bytes / 1e6:.6g} MB in {self.seconds:.3g} s{dropped}"


def record(
    tap: Tap,
    writer: CaptureWriter,
    ended: threading.Event,
    messages: int = 0,
    seconds: float = 0.0,
    tell: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Write what comes, until an end is reached.

    :param ended: set when it is to end.
    :param messages: that are enough; 0: any number.
    :param seconds: that are enough; 0: any time.
    :param tell: called about once a second with what is in the file.
    :raises SavingError: the file can't be written.
    """
    began = told = time.monotonic()
    count = nbytes = 0
    while not ended.is_set() and not (messages and count >= messages):
        now = time.monotonic()
        if seconds and now - began >= seconds:
            break
        if now - told >= TELL_SECONDS:
            writer.flush()
            tell(Tally(count, nbytes, now - began, tap.dropped()))
            told = now
        left = min(POLL_SECONDS, began + seconds - now) if seconds else POLL_SECONDS
        for port, parts in tap.take(max(left, 0.001)):
            wanted = parts[: messages - count] if messages and tap.datagrams else parts
            if wanted:
                writer.write(wanted, time.time(), port)
            count += len(wanted) if tap.datagrams else 1
            nbytes += sum(part.nbytes for part in wanted)
    writer.flush()
    return Tally(count, nbytes, time.monotonic() - began, tap.dropped())
