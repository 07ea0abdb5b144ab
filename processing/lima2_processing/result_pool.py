"""Arrays for big results that are used again, so that not every frame costs fresh pages of memory."""

from __future__ import annotations

import ctypes
import queue
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ResultPool:
    """Arrays of one shape and type. An array comes back by itself when nobody holds it any more. Any thread may take.

    :param shape: of an array.
    :param dtype: NumPy type string.
    :param count: arrays that are made ahead; where more are held at a time, more are made, and kept.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, count: int) -> None:
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._size = int(np.prod(shape)) * self._dtype.itemsize
        # The subclass can be weakly referenced: when the last array on it is gone, its memory comes back.
        self._room: Any = type("Room", (ctypes.c_ubyte * self._size,), {})
        self._free: queue.SimpleQueue[NDArray[np.uint8]] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(np.ones(self._size, np.uint8))  # ones: the pages are there from now on

    def take(self) -> NDArray[Any]:
        """Return an array with any content."""
        try:
            memory = self._free.get_nowait()
        except queue.Empty:
            memory = np.empty(self._size, np.uint8)
        room = self._room.from_buffer(memory)
        weakref.finalize(room, self._free.put, memory).atexit = False
        return np.frombuffer(room, self._dtype).reshape(self._shape)


class ResultPools:
    """Pools of bytes, by size, kept for those who come later. Any thread may ask.

    Arrays that are still held when another asks for the same size come back to the same pool.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[tuple[int, int], ResultPool] = {}

    def get(self, size: int, count: int) -> ResultPool:
        """Return a pool of arrays (size,), uint8, the one of before where there is one."""
        with self._lock:
            if (size, count) not in self._pools:
                self._pools[size, count] = ResultPool((size,), "|u1", count)
            return self._pools[size, count]

    def keep_only(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Let go of the pools of other sizes and counts; arrays that are held stay as they are."""
        wanted = set(sizes)
        with self._lock:
            self._pools = {key: pool for key, pool in self._pools.items() if key in wanted}
