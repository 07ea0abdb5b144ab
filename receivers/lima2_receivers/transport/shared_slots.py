"""Slots in memory that processes of one host share: one writes, the others read.

The memory belongs to no file system: others open it through ``/proc``, as the same user, and it is gone with the last
process that has it, also where that was killed. It begins with a page::

    words      magic, key
    marks      for each slot, the number of the message that it holds; 0: it is being written

A mark is one aligned store of 8 bytes; see ``shared_ring`` for what x86-64 promises of their order.
"""

from __future__ import annotations

import mmap
import os
import secrets
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, ProtocolError
from ..handover import SharedMemory

_MAGIC = int.from_bytes(b"lima2hnd", "little")
_PAGE = 4096
_HEAD = 2  # words before the marks


class SlotWriter:
    """Makes slots, and writes into them.

    :param place: of the ring in the configuration, for the error.
    :param slots: how many messages it holds.
    :param slot_bytes: of each.
    :raises ConfigError: there is not enough memory.
    """

    def __init__(self, place: str, slots: int, slot_bytes: int) -> None:
        size = _slots_at(slots) + slots * _stride(slot_bytes)
        if size > (there := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
            raise ConfigError(
                f"{place}: got {slots} slots of {slot_bytes} bytes, expected {there} bytes of memory at most"
            )
        try:
            self._fd = os.memfd_create("lima2-handover", os.MFD_CLOEXEC)
            os.posix_fallocate(self._fd, 0, size)  # reserved now: a lack of memory must not kill the process later
            self._memory = mmap.mmap(self._fd, size)
        except OSError as error:
            raise ConfigError(f"{place}: {size} bytes of memory can't be had: {error.strerror}") from error
        self.place = SharedMemory(os.getpid(), self._fd, secrets.randbits(63) | 1, slots, slot_bytes)
        self._words = np.frombuffer(self._memory, np.uint64, _HEAD + slots)
        self._words[:_HEAD] = _MAGIC, self.place.key
        self._slots = _slots_of(self._memory, self.place)
        self._fence = threading.Lock()

    def write(self, slot: int, number: int, parts: list[memoryview]) -> None:
        """Write parts of a message, which fit, into a slot, one after the other.

        :param number: of the message, not 0.
        """
        self._words[_HEAD + slot] = 0
        with self._fence:
            pass  # a locked instruction: memory copied by non-temporal stores could else be seen before the mark
        at = 0
        for part in parts:
            np.copyto(self._slots[slot, at : at + part.nbytes], np.frombuffer(part, np.uint8))
            at += part.nbytes
        self._words[_HEAD + slot] = number

    def read(self, slot: int, start: int, size: int) -> bytes:
        """Return a copy of what was written into a slot."""
        return self._slots[slot, start : start + size].tobytes()

    def close(self) -> None:
        """Let go of the memory; who has opened it keeps it."""
        self._words = np.zeros(0, np.uint64)
        self._slots = np.zeros((0, 0), np.uint8)
        self._memory.close()
        os.close(self._fd)


class SlotReader:
    """Reads slots that another process has made.

    :raises ProtocolError: they can't be opened: it runs on another host, as another user, or is gone.
    """

    def __init__(self, found: SharedMemory) -> None:
        path = Path(f"/proc/{found.process}/fd/{found.descriptor}")
        size = _slots_at(found.slots) + found.slots * _stride(found.slot_bytes)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                self._memory = mmap.mmap(fd, size, prot=mmap.PROT_READ)
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:  # of a size that does not fit
            raise ProtocolError(f"shared memory of process {found.process} can't be opened: {error}") from error
        self._words = np.frombuffer(self._memory, np.uint64, _HEAD + found.slots)
        self._slots = _slots_of(self._memory, found)
        if self._words[:_HEAD].tolist() != [_MAGIC, found.key]:
            self.close()
            raise ProtocolError(f"{path} is not the memory that was announced: it is on another host")

    def read(self, slot: int, number: int, start: int, into: NDArray[np.uint8]) -> bool:
        """Copy a part of a message, and return whether it was still there.

        :param number: of the message.
        :param start: where in the slot the part begins.
        :param into: of the size of the part.
        :raises ProtocolError: there is no such place.
        """
        if not (0 <= slot < len(self._slots) and 0 <= start <= start + into.nbytes <= self._slots.shape[1]):
            raise ProtocolError(
                f"got {into.nbytes} bytes at {start} of slot {slot}, expected {self._slots.shape[1]} bytes of one of "
                f"{len(self._slots)} slots at most"
            )
        if self._words[_HEAD + slot] != number:
            return False
        np.copyto(into, self._slots[slot, start : start + into.nbytes])
        return bool(self._words[_HEAD + slot] == number)  # it is changed before the first pixel is

    def close(self) -> None:
        """Let go of the memory. Idempotent."""
        self._words = np.zeros(0, np.uint64)
        self._slots = np.zeros((0, 0), np.uint8)
        self._memory.close()


def _stride(slot_bytes: int) -> int:
    return -(-slot_bytes // _PAGE) * _PAGE


def _slots_at(slots: int) -> int:
    return _stride(8 * (_HEAD + slots))


def _slots_of(memory: mmap.mmap, found: SharedMemory) -> NDArray[np.uint8]:
    """Return all slots, uint8 (slots, slot_bytes)."""
    stride = _stride(found.slot_bytes)
    whole = np.frombuffer(memory, np.uint8, found.slots * stride, _slots_at(found.slots))
    return whole.reshape(found.slots, stride)[:, : found.slot_bytes]
