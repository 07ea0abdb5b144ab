"""Frames on their way to the device: one batch travels while the one before is worked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from ..device import Device


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch on its way.

    :param frames: on the device, one after the other, once it has arrived.
    :param copies: what to wait for. pyopencl waits by itself where one is dropped, so they are kept.
    """

    frames: cl.Buffer
    copies: tuple[cl.Event, ...]

    def arrive(self, queue: cl.CommandQueue) -> cl.Buffer:
        """Let all that is enqueued from now on wait until it is there, and return its buffer."""
        cl.enqueue_barrier(queue, wait_for=list(self.copies))
        return self.frames


class Upload:
    """Two buffers that batches go to in turns, over a queue of their own.

    :param device: where they go.
    :param frame_bytes: of one frame.
    :param batch: frames of a batch at most.
    """

    def __init__(self, device: Device, frame_bytes: int, batch: int) -> None:
        self._frame_bytes = frame_bytes
        self._queue = device.queue()
        self._buffers = [device.allocate(batch * frame_bytes) for _ in range(2)]
        self._uses: list[cl.Event | None] = [None, None]  # the end of each buffer's last use
        self._turn = 0

    def send(self, frames: Sequence[NDArray[np.generic]]) -> Sent:
        """Begin to send a batch; it may not change until it has arrived."""
        self._turn = 1 - self._turn
        buffer, use = self._buffers[self._turn], self._uses[self._turn]
        before = [use] if use is not None else None
        copies = [
            cl.enqueue_copy(
                self._queue, buffer, frame, dst_offset=at * self._frame_bytes, is_blocking=False, wait_for=before
            )
            for at, frame in enumerate(frames)
        ]
        self._queue.flush()
        return Sent(buffer, tuple(copies))

    def done(self, sent: Sent, queue: cl.CommandQueue) -> None:
        """Note that what is enqueued now is the last use of a batch."""
        self._uses[self._buffers.index(sent.frames)] = cl.enqueue_marker(queue)
        queue.flush()  # another queue is going to wait for it
