"""The frame ring: the one place where frames wait, so that its size bounds a receiver's memory."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PAGE = 4096  # OpenCL uses host memory in place where it is aligned to a page


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A lent piece of the ring.

    :param number: of the slot.
    :param memory: its bytes, uint8 (slot_bytes,).
    """

    number: int
    memory: NDArray[np.uint8]


class FrameRing:
    """Slots of equal size in page-aligned memory, lent and given back by any thread.

    :param slots: how many frames fit.
    :param slot_bytes: bytes of the largest frame that fits.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.slots = slots
        self.slot_bytes = slot_bytes
        stride = -(-slot_bytes // PAGE) * PAGE
        block = np.empty(slots * stride + PAGE, np.uint8)
        start = -block.ctypes.data % PAGE
        self.memory = block[start : start + slots * stride]
        self.memory.fill(0)  # touched now, so that memory does not grow under the first frames
        self._lock = threading.Lock()
        self._lent: dict[int, int] = {}  # by number of a slot: how many have it beside the first
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for number in range(slots):
            self._free.put(Slot(number, self.memory[number * stride : number * stride + slot_bytes]))

    @property
    def free(self) -> int:
        """How many slots nobody holds."""
        return self._free.qsize()

    def take(self, timeout: float) -> Slot | None:
        """Borrow a slot, or return None where none comes free within ``timeout`` seconds."""
        try:
            return self._free.get(timeout=timeout)
        except queue.Empty:
            return None

    def lend(self, slot: Slot) -> None:
        """Let one more have a borrowed slot: it is free when all have given it back."""
        with self._lock:
            self._lent[slot.number] = self._lent.get(slot.number, 0) + 1

    def give(self, slot: Slot) -> None:
        """Give a slot back. Its memory may be overwritten at once."""
        with self._lock:
            if others := self._lent.pop(slot.number, 0):
                if others > 1:
                    self._lent[slot.number] = others - 1
                return
        self._free.put(slot)
