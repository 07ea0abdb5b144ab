"""Making one HDF5 file of a killed writer readable for everybody: its flags and its end, and nothing else.

First the file is read as it will be, through a view in which its first bytes are right: so it is known to be readable,
and what it holds, before a byte is changed, and with ``dry_run`` none is.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import h5py
import numpy as np

from ..errors import SavingError
from .findings import FRAME_PTR, Column, Contents, Kind, State
from .h5 import CREATOR, saving_errors
from .hold import check, take
from .ledger_file import GROUP
from .master import ENTRY, MEASUREMENT
from .part import SPARSE_GROUP
from .read import open_file
from .superblock import OPEN_FOR_SWMR, SIZE, Superblock, decode

_NOT_BEGUN = "its writer was killed before it began"
_NOT_MADE = "its writer was killed while it made it: make it again"
_OURS = CREATOR.split()[0]  # also of older versions


@dataclass(frozen=True, slots=True)
class Mended:
    """What became of a file.

    :param why: what was done, or why nothing could be.
    :param contents: None: nobody could look.
    """

    state: State
    why: str = ""
    contents: Contents | None = None


def mend(path: Path, dry_run: bool = False) -> Mended:
    """Make a file readable without SWMR, and see what it holds. Idempotent; a file that is being written is refused.

    :param dry_run: change nothing.
    """
    try:
        with saving_errors(path, "opening"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _mend(fd, path, dry_run)
        finally:
            os.close(fd)
    except SavingError as error:
        return Mended(State.FAILED, str(error))


def _mend(fd: int, path: Path, dry_run: bool) -> Mended:
    try:
        check(fd, path)
    except SavingError as error:
        return Mended(State.BUSY, str(error))
    size = os.fstat(fd).st_size
    if not size:
        return Mended(State.EMPTY, _NOT_BEGUN)
    head = _head(fd, path)
    if not head.flags and head.end > size:
        raise SavingError(f"{path}: it is truncated: got {size} bytes, expected {head.end}")
    never_shown = bool(head.flags) and not head.flags & OPEN_FOR_SWMR
    try:
        with _view(fd, path) as file:
            contents = _contents(file, path)
    except SavingError:
        if never_shown:
            return Mended(State.EMPTY, _NOT_BEGUN)
        raise
    if never_shown and contents.kind not in (Kind.PART, Kind.LEDGER):
        return Mended(State.EMPTY, _NOT_MADE)
    if contents.end > size:
        raise SavingError(f"{path}: it is truncated: got {size} bytes, its data end at {contents.end}")
    if not head.flags:
        return Mended(State.WHOLE, "", contents)
    if dry_run:
        return Mended(State.REPAIRABLE, _what(head, size), contents)
    _write(path, fd, head)
    return Mended(State.REPAIRED, _what(head, size), contents)


def _write(path: Path, looked_at: int, head: Superblock) -> None:
    with saving_errors(path, "repairing"):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            take(fd, path)
            if not os.path.sameopenfile(fd, looked_at) or _head(fd, path) != head:
                raise SavingError(f"{path}: somebody else changed it meanwhile")
            size = os.fstat(fd).st_size
            mended = head.mended(size)
            if mended.end > size:
                os.ftruncate(fd, mended.end)  # it grows: room that was taken, and never written
            os.pwrite(fd, mended.encode(), 0)
            os.fsync(fd)
        finally:
            os.close(fd)


def _what(head: Superblock, size: int) -> str:
    return "marked as closed" + (f", its end moved from {head.end} to {size}" if size > head.end else "")


def _head(fd: int, path: Path) -> Superblock:
    try:
        return decode(os.pread(fd, SIZE, 0))
    except SavingError as error:
        raise SavingError(f"{path}: {error}") from error


def is_busy(path: Path) -> bool:
    """Tell whether a file is being written, as far as can be known.

    :raises SavingError: it can't be opened.
    """
    with saving_errors(path, "opening"):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        check(fd, path)
    except SavingError:
        return True
    finally:
        os.close(fd)
    return False


@contextmanager
def view(path: Path) -> Iterator[h5py.File]:
    """Open a file that nobody writes as it is, or will be once it is repaired.

    :raises SavingError: it can't be read.
    """
    with saving_errors(path, "reading"):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _view(fd, path) as file:
            yield file
    finally:
        os.close(fd)


@contextmanager
def _view(fd: int, path: Path) -> Iterator[h5py.File]:
    head = _head(fd, path)
    if not head.flags:
        with open_file(path) as file:  # HDF5 finds no files beside a view, and a master file shows others
            yield file
        return
    seen = _View(fd, head.mended(os.fstat(fd).st_size))
    with saving_errors(path, "reading"), h5py.File(seen, "r") as file:
        yield file


class _View(io.RawIOBase):
    """A file as it will be once it is repaired."""

    def __init__(self, fd: int, head: Superblock) -> None:
        self._fd = fd
        self._head = head.encode()
        self._size = max(head.end, os.fstat(fd).st_size)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._size - self._at))
        found = os.pread(self._fd, wanted, self._at).ljust(wanted, b"\0")  # room that was never written
        if self._at < SIZE:
            mine = self._head[self._at : self._at + wanted]
            found = mine + found[len(mine) :]
        buffer[:wanted] = found
        self._at += wanted
        return wanted


def _contents(file: h5py.File, path: Path) -> Contents:
    creator = _text(file.attrs.get("creator", ""))
    if not creator.startswith(_OURS):
        raise SavingError(f"{path}: it is none of our files: got creator {creator!r}, expected one of {_OURS}")
    columns: dict[str, Column] = {}
    end = 0

    def visit(name: str, item: object) -> None:
        nonlocal end
        if isinstance(item, h5py.Dataset) and not item.is_virtual:
            column, last = _column(item)
            end = max(end, last)
            if column is not None:
                columns[PurePosixPath(name).name] = column

    file.visititems(visit)
    kind, stream = _kind(file)
    pointers = file.get(f"{ENTRY}/{SPARSE_GROUP}/{FRAME_PTR}") if kind is Kind.PART else None
    pixels = int(pointers[-1]) if isinstance(pointers, h5py.Dataset) and len(pointers) else 0
    names = [file.get(f"{ENTRY}/{name}") for name in ("acquisition", "entry_identifier")]
    acquisition = next((_text(name[()]) for name in names if isinstance(name, h5py.Dataset)), "")
    return Contents(kind, stream, acquisition, columns, end, pixels)


def _kind(file: h5py.File) -> tuple[Kind, str]:
    """Return which of our files it is, and the stream of a part file."""
    entry = file.get(ENTRY)
    if isinstance(file.get(GROUP, getlink=True), h5py.HardLink):
        return Kind.LEDGER, ""
    if isinstance(entry, h5py.Group) and "acquisition" in entry:
        group = _text(entry.attrs.get("default", ""))
        return Kind.PART, "sparse" if group == SPARSE_GROUP else group
    if MEASUREMENT in file and isinstance(entry, h5py.Group):
        return (Kind.MASTER if "entry_identifier" in entry else Kind.FRAMES), ""
    return Kind.OTHER, ""


def _column(item: h5py.Dataset) -> tuple[Column | None, int]:
    """Return what a dataset has, if it grows, and the byte behind its data."""
    if item.chunks is None:
        offset = item.id.get_offset()
        return None, 0 if offset is None else offset + item.id.get_storage_size()
    firsts: list[int] = []
    end = 0

    def see(chunk: h5py.h5d.StoreInfo) -> None:
        nonlocal end
        firsts.append(chunk.chunk_offset[0])
        end = max(end, chunk.byte_offset + chunk.size)

    item.id.chunk_iter(see)
    if item.maxshape is None or item.maxshape[0] is not None:
        return None, end
    return Column(len(item), item.chunks[0], np.unique(np.array(firsts, np.int64))), end


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
