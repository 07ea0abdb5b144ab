"""A transfer ring in shared memory: the simulated counterpart of memory that a detector writes into by RDMA.

A file in ``/dev/shm`` that the receiver makes and holds a lock on as long as it lives::

    words      magic, version, key, slots, slot bytes, events, closed; begun transfers; posted records
    events     completion records
    marks      for each slot, the sequence of the transfer before and after it was written
    slots      pixels

What is said to the other side by order is said by single aligned stores of 8 bytes. x86-64, on which alone this is
meant to run, shows stores of a core to others in their order, and so does it with loads.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import secrets
import stat
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..config import check_endpoint
from ..errors import ConfigError, ProtocolError
from ..transfers import RECORD_BYTES, Completion, Registration, decode_record, encode_record

log = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
PREFIX = "lima2-ring-"  # of the files: what has it and is not locked is ours to remove
EVENTS_A_SLOT, LEAST_EVENTS = 16, 1024  # records outlive their slots: what was overwritten is known by its frame
MAX_SLOTS = 65536

_MAGIC, _VERSION_NUMBER = int.from_bytes(b"lima2rng", "little"), 1
_KIND, _VERSION, _KEY, _SLOTS, _SLOT_BYTES, _EVENTS, _CLOSED = range(7)  # words of the head
_BEGUN, _POSTED = 8, 16  # likewise; each in a cache line of its own
_PAGE = 4096


class _Memory:
    """The mapped file, as both sides see it."""

    def __init__(self, memory: mmap.mmap, registration: Registration) -> None:
        self.registration = found = registration
        self._memory = memory
        self._view = memoryview(memory)
        self.head = self._view[:_PAGE].cast("Q")
        events, marks, slots, _ = _places(found)
        self.events = self._view[events:marks]
        self.marks = self._view[marks : marks + 16 * found.slots].cast("Q")
        stride = _stride(found.slot_bytes)
        self.slots = np.frombuffer(memory, np.uint8, found.slots * stride, slots).reshape(found.slots, stride)

    def event(self, number: int) -> memoryview:
        """Return the place of a completion record."""
        at = (number - 1) % self.registration.events * RECORD_BYTES
        return self.events[at : at + RECORD_BYTES]

    def close(self) -> None:
        self.slots = np.empty((0, 0), np.uint8)
        for view in (self.head, self.events, self.marks, self._view):
            view.release()
        self._memory.close()


class SharedTarget:
    """Makes a ring, and reads what is written into it.

    :param endpoint: ``rashpa:///NAME``.
    :param place: of the endpoint in the configuration, for errors.
    :param slots: how many frames it holds, 2 to ``MAX_SLOTS``.
    :param slot_bytes: bytes of the largest frame that fits.
    :raises ConfigError: another process has a ring of this name, or it can't be made; none is left behind.
    """

    def __init__(self, endpoint: str, place: str, slots: int, slot_bytes: int) -> None:
        self._path = ring_path(endpoint, place)
        events = max(LEAST_EVENTS, EVENTS_A_SLOT * slots)
        self.registration = Registration(secrets.randbits(63) | 1, slots, slot_bytes, events)
        self.missed = 0
        self._next = 1  # number of the record that is to come
        try:
            _remove_stale(self._path, endpoint, place)
            self._fd, memory = _create(self._path, _places(self.registration)[-1])
        except OSError as error:
            raise ConfigError(f"{place}: {endpoint}: {self._path} can't be made: {error.strerror}") from error
        self._memory: _Memory | None = _Memory(memory, self.registration)
        head = self._memory.head
        head[_VERSION], head[_KEY] = _VERSION_NUMBER, self.registration.key
        head[_SLOTS], head[_SLOT_BYTES], head[_EVENTS] = slots, slot_bytes, events
        head[_KIND] = _MAGIC  # last: from now on it can be attached
        log.info("%s: %d slots of %d bytes in shared memory, for a simulated transfer", endpoint, slots, slot_bytes)

    def poll(self) -> Completion | None:
        """Return the next completion; see ``TransferTarget.poll``."""
        memory = self._opened()
        for _ in range(self.registration.events):
            posted = memory.head[_POSTED]
            if posted < self._next - 1:  # never, unless something else wrote here
                self._next = posted + 1
            if posted < self._next:
                return None
            if (late := posted - self._next + 1 - self.registration.events) > 0:
                self._skip(late)
            number, self._next = self._next, self._next + 1
            try:
                found, completion = decode_record(bytes(memory.event(number)))
            except ProtocolError:
                if memory.head[_POSTED] - number < self.registration.events - 1:
                    raise  # it was not being overwritten
                found, completion = 0, None
            if found == number:
                return completion
            self.missed += 1
        return None

    def read(self, completion: Completion, into: NDArray[np.uint8]) -> bool:
        """Copy the pixels of a completed transfer; see ``TransferTarget.read``."""
        memory, found = self._opened(), self.registration
        if completion.slot >= found.slots or completion.nbytes > found.slot_bytes:
            raise ProtocolError(
                f"got a transfer of {completion.nbytes} bytes in slot {completion.slot}, "
                f"expected at most {found.slot_bytes} in one of {found.slots} slots"
            )
        before, after = 2 * completion.slot, 2 * completion.slot + 1
        if memory.marks[after] != completion.sequence or memory.marks[before] != completion.sequence:
            return False
        self._copy(memory.slots[completion.slot, : completion.nbytes], into)
        # The mark before is changed before the first pixel is: as long as it is the old one, so are all that were read.
        return memory.marks[before] == completion.sequence

    def close(self) -> None:
        """Withdraw the ring and remove its file. Idempotent."""
        if (memory := self._memory) is None:
            return
        self._memory = None
        memory.head[_CLOSED] = 1
        self._path.unlink(missing_ok=True)
        os.close(self._fd)
        memory.close()

    def _copy(self, pixels: NDArray[np.uint8], into: NDArray[np.uint8]) -> None:
        np.copyto(into, pixels)

    def _skip(self, count: int) -> None:
        self.missed += count
        self._next += count

    def _opened(self) -> _Memory:
        if self._memory is None:
            raise ProtocolError(f"the ring {self._path} is closed")
        return self._memory


class SharedInitiator:
    """Writes into a ring that a receiver made.

    One process at a time may: of two, transfers would have the same sequence, and nobody could tell that one of them
    has overwritten the other.

    :param endpoint: ``rashpa:///NAME``.
    :param place: of the endpoint in the configuration, for errors.
    :raises ConfigError: there is none, it is no ring, or another process writes into it.
    """

    def __init__(self, endpoint: str, place: str) -> None:
        path = ring_path(endpoint, place)
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"{place}: {endpoint}: {path} can't be opened: {error}") from error
        try:
            memory = _attach(fd)
        except (OSError, ValueError) as error:  # of an empty file
            os.close(fd)
            raise ConfigError(f"{place}: {endpoint}: {path} can't be opened: {error}") from error
        try:
            self.registration = _registration(memory)
        except ProtocolError as error:
            memory.close()
            os.close(fd)
            raise ConfigError(f"{place}: {endpoint}: {path}: {error}") from error
        self._fd = fd  # has the lock of those who write
        self._memory: _Memory | None = _Memory(memory, self.registration)
        self._begun = self._memory.head[_BEGUN]
        self._posted = self._memory.head[_POSTED]
        self._fence = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether the receiver has not withdrawn it."""
        return self._memory is not None and not self._memory.head[_CLOSED]

    def write(self, pixels: memoryview) -> tuple[int, int]:
        """Write pixels into the next slot; see ``TransferInitiator.write``."""
        memory, found = self._opened(), self.registration
        if pixels.nbytes > found.slot_bytes:
            raise ProtocolError(f"got a frame of {pixels.nbytes} bytes, expected at most {found.slot_bytes}")
        self._begun = sequence = self._begun + 1
        slot = (sequence - 1) % found.slots
        memory.head[_BEGUN] = sequence
        memory.marks[2 * slot] = sequence
        with self._fence:
            pass  # a locked instruction: memory copied by non-temporal stores could else be seen before the mark
        memory.slots[slot, : pixels.nbytes] = np.frombuffer(pixels, np.uint8)
        memory.marks[2 * slot + 1] = sequence
        return sequence, slot

    def post(self, completion: Completion) -> None:
        """Write a completion record, then how many there are."""
        memory = self._opened()
        self._posted += 1
        memory.event(self._posted)[:] = encode_record(self._posted, completion)
        memory.head[_POSTED] = self._posted

    def close(self) -> None:
        """Let go of the ring. Idempotent."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None
            os.close(self._fd)

    def _opened(self) -> _Memory:
        if self._memory is None:
            raise ProtocolError("the ring was let go of")
        return self._memory


def ring_path(endpoint: str, place: str) -> Path:
    """Return the file of a ring.

    :param endpoint: ``rashpa:///NAME``; a name has letters, digits, ``_``, ``-`` and ``.``, 100 at most.
    :param place: of the endpoint in the configuration, for the error.
    :raises ConfigError: it is no such endpoint.
    """
    check_endpoint(place, endpoint, schemes=("rashpa",))
    return FOLDER / (PREFIX + endpoint.removeprefix("rashpa:///"))


def _stride(slot_bytes: int) -> int:
    return -(-slot_bytes // _PAGE) * _PAGE


def _places(found: Registration) -> tuple[int, int, int, int]:
    """Return where events, marks and slots begin, and where the slots end."""
    marks = _PAGE + found.events * RECORD_BYTES
    slots = _stride(marks + 16 * found.slots)
    return _PAGE, marks, slots, slots + found.slots * _stride(found.slot_bytes)


def _map(fd: int) -> mmap.mmap:
    return mmap.mmap(fd, 0)


def _attach(fd: int) -> mmap.mmap:
    """Map a ring that another process made, as the only one that writes.

    :raises OSError: another process writes.
    """
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of another kind than the receiver's own lock, beside it
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise OSError(errno.EBUSY, "another process writes into it") from error
    return _map(fd)


def _registration(memory: mmap.mmap) -> Registration:
    """Return what a mapped file says of its ring.

    :raises ProtocolError: it is none.
    """
    if len(memory) < _PAGE:
        raise ProtocolError(f"got {len(memory)} bytes, expected a transfer ring")
    with memoryview(memory) as view, view[:_PAGE].cast("Q") as head:
        kind, version, key, slots, slot_bytes, events = head[:6].tolist()
        counts = head[_BEGUN], head[_POSTED]
    if (kind, version) != (_MAGIC, _VERSION_NUMBER):
        raise ProtocolError(f"it begins with {kind:#x}, {version}, expected a transfer ring, version {_VERSION_NUMBER}")
    found = Registration(key, slots, slot_bytes, events)
    if not (2 <= slots <= MAX_SLOTS and 0 < slot_bytes <= len(memory) and 0 < events <= len(memory)):
        raise ProtocolError(f"got {slots} slots of {slot_bytes} bytes and {events} events: it is no transfer ring")
    if max(counts) >= 2**63:
        raise ProtocolError(
            f"it has counted {counts[0]} transfers and {counts[1]} records, expected less: it is damaged"
        )
    if len(memory) != (expected := _places(found)[-1]):
        raise ProtocolError(f"got {len(memory)} bytes, expected {expected} for its {slots} slots")
    return found


def _create(path: Path, size: int) -> tuple[int, mmap.mmap]:
    """Make the file, locked, with its memory reserved: a full ``/dev/shm`` must not kill the process later."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    # Until it is locked, another process may take it for one that was left behind: what is there then is not ours.
    if not _lock(fd, path):
        os.close(fd)
        raise OSError(errno.EBUSY, "another process makes it now")
    try:
        os.posix_fallocate(fd, 0, size)
        return fd, _map(fd)
    except BaseException:
        path.unlink(missing_ok=True)
        os.close(fd)
        raise


def _lock(fd: int, path: Path) -> bool:
    """Lock an open file; False: another process has, or it is no longer the one at its path.

    Who has locked the file at the path, and no one else, may remove it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False


def _remove_stale(path: Path, endpoint: str, place: str) -> None:
    """Remove the file of a receiver that was killed, and tell a detector that still has it.

    :raises ConfigError: its receiver lives, or the file is something else.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with os.fdopen(fd, "r+b", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ConfigError(f"{place}: {endpoint}: {path} is there and is no file")
        if not _lock(fd, path):
            raise ConfigError(f"{place}: {endpoint} is in use by another process")
        if os.fstat(fd).st_size >= _PAGE:
            file.seek(8 * _CLOSED)
            file.write((1).to_bytes(8, "little"))
        path.unlink(missing_ok=True)
        log.warning("%s: removed %s, which a receiver has left behind", place, path)
