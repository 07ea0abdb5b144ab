"""Frames that are read a little before they are asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ...errors import DetectorError
from .stack import Stack

AHEAD_BYTES = 128 * 1024 * 1024  # that are read ahead at most, but for two frames
MOST_AHEAD = 64  # frames
PATIENCE = 30.0  # seconds that a disk may take for a frame


class ReadAhead(Sequence[NDArray[np.generic]]):
    """Chosen frames of a recording, in memory one after the other.

    A thread reads those that follow the one that was last taken; behind the last comes the first, as in a next series.

    :param stack: where they are read from; closed by ``close``.
    :param chosen: which of its frames.
    """

    def __init__(self, stack: Stack, chosen: range) -> None:
        self._stack = stack
        self._chosen = chosen
        self._depth = min(len(chosen), MOST_AHEAD, max(2, AHEAD_BYTES // max(stack.spec.nbytes, 1)))
        self._changed = threading.Condition()
        self._next = 0  # that is asked for next, as it seems
        self._ready: dict[int, NDArray[np.generic] | Exception] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.generic]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.generic]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.generic] | list[NDArray[np.generic]]:
        """Return a frame, waiting until it is read.

        :raises DetectorError: it can't be read, in time or at all, or the recording was closed.
        """
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            self._look_at(at)
            while at not in self._ready:
                if self._closed:
                    raise DetectorError("the recording was closed")
                if (left := deadline - time.monotonic()) <= 0:
                    raise DetectorError(f"frame {self._chosen[at]} of the recording was not read within {PATIENCE:g} s")
                self._changed.wait(left)
            found = self._ready.pop(at)
            self._look_at((at + 1) % len(self))
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """End the thread, and close the recording. Idempotent."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            self._stack.close()

    def _look_at(self, at: int) -> None:
        """Expect this frame next, and forget those that are not near."""
        self._next = at
        near = set(self._window())
        for other in [other for other in self._ready if other not in near]:
            del self._ready[other]
        self._changed.notify_all()

    def _window(self) -> list[int]:
        return [(self._next + step) % len(self) for step in range(self._depth)]

    def _missing(self) -> int | None:
        """Return the first frame that is to be read; None: there is none now."""
        return next((at for at in self._window() if at not in self._ready), None)

    def _run(self) -> None:
        while True:
            with self._changed:
                while (at := self._missing()) is None and not self._closed:
                    self._changed.wait()
                if at is None or self._closed:
                    return
            try:
                found: NDArray[np.generic] | Exception = self._stack.read(self._chosen[at])
            except Exception as error:  # told to the one who asks for this frame
                found = error
            with self._changed:
                if not self._closed and at in self._window():
                    self._ready[at] = found
                self._changed.notify_all()
