"""Who writes a file: our writers hold a lock on it for as long as they do, and the kernel drops it when one is killed.

The lock is one of an open file description (``F_OFD_SETLK`` of Linux's fcntl) on one byte far behind the end of any
file. HDF5 locks by flock, which knows nothing of these locks, so that readers with and without ``locking`` are not
disturbed. On NFS both are locks of the server, and a reader's is on the whole file: so a writer's is shared, which two
readers' locks may be too, and only who repairs asks for one of its own.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from pathlib import Path

from ..errors import SavingError

log = logging.getLogger(__name__)

BYTE = 1 << 62  # that is locked; no file is as long
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, process
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # the file system has none


class Hold:
    """A new, empty file, held while it is written: until ``release`` or the end of the process, however that comes.

    Where the file system has no locks, nothing is held: then nobody can take one for repair either.

    :param path: of the file.
    :raises OSError: it is there already, or can't be made.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._mark(path)

    def _mark(self, path: Path) -> None:
        try:
            _lock(self._fd, fcntl.F_RDLCK)
        except OSError as error:
            log.warning("%s: it can't be marked as being written: %s", path, error.strerror)

    @classmethod
    def again(cls, path: Path) -> Hold:
        """Hold a file that another process held before it died.

        :raises OSError: it can't be opened.
        """
        found = cls.__new__(cls)
        found._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)  # noqa: SLF001 - its own
        found._mark(path)  # noqa: SLF001
        return found

    def release(self) -> None:
        """Let go: the file is written. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def take(fd: int, path: Path) -> None:
    """Keep writers and others who repair away until a descriptor is closed.

    :param fd: of the file, open for writing.
    :raises SavingError: somebody writes the file, or that can't be known.
    """
    try:
        _lock(fd, fcntl.F_WRLCK)
    except OSError as error:
        raise SavingError(f"{path}: {_why(error)}") from error


def check(fd: int, path: Path) -> None:
    """See whether ``take`` would be granted.

    :param fd: of the file, open for reading or writing.
    :raises SavingError: it would not.
    """
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, BYTE, 1, 0)
    try:
        found, *_ = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, wanted))
    except OSError as error:
        raise SavingError(f"{path}: {_why(error)}") from error
    if found != fcntl.F_UNLCK:
        raise SavingError(f"{path}: {_BUSY}")


_BUSY = "it is being written: its writer lives"


def _why(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EAGAIN):
        return _BUSY
    if error.errno in _NO_LOCKS:
        return f"its file system has no locks ({error.strerror}), so that nobody knows whether it is being written"
    return error.strerror or str(error)


def _lock(fd: int, kind: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, BYTE, 1, 0))
