"""The process that PSI's client runs in: requests come by stdin, replies leave by stdout.

``slsdet`` holds Python's global lock while it waits for the detector, so that a module which does not answer would
stop all threads of the conductor.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from importlib import import_module
from typing import assert_never

from ...errors import ReceiverError
from ...messages import Done, Failed, Message
from ...messages.codec import failed
from .sls import SlsJungfrau
from .sls_messages import LENGTH, Attach, Calling, Configure, Expose, Halt, Look, Request, decode_request, frame

log = logging.getLogger(__name__)


def main() -> None:
    """Serve until stdin ends, which is when the conductor has gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the conductor stops the detector first, and needs this for it
        signal.signal(number, signal.SIG_IGN)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the library prints is no reply

    def send(message: Message) -> None:
        replies.write(frame(message))
        replies.flush()

    jungfrau = SlsJungfrau(import_module("slsdet"), lambda name: send(Calling(name)))
    send(Done())
    while head := sys.stdin.buffer.read(LENGTH.size):
        (length,) = LENGTH.unpack(head)
        send(answer(jungfrau, sys.stdin.buffer.read(length)))


def answer(jungfrau: SlsJungfrau, data: bytes) -> Message:
    """Carry out a request, and return its reply."""
    try:
        return _carry_out(jungfrau, decode_request(data))
    except ReceiverError as error:
        return failed(error)
    except Exception as error:  # a bug must reach the caller, and not end the process
        log.exception("request failed")
        return Failed(ReceiverError.code, f"internal error: {type(error).__name__}: {error}")


def _carry_out(jungfrau: SlsJungfrau, request: Request) -> Message:
    match request:
        case Attach():
            return jungfrau.attach(request)
        case Configure():
            return jungfrau.configure(request)
        case Expose():
            return jungfrau.expose(request)
        case Look():
            return jungfrau.look(request)
        case Halt():
            return jungfrau.halt(request)
        case _:
            assert_never(request)


if __name__ == "__main__":
    main()
