r"""The bytes of a capture file: a head, then one record after the other. Nothing that was written is changed again.

Numbers are little endian. The file begins with

====== ====== =========================================================
offset type   field
====== ====== =========================================================
0      8s     magic ``L2CAPT\r\n``
8      u32    version, 1
12     u32    bytes of the head
16     u32    CRC-32 of the head
20            the head: a ``CaptureHead`` as JSON
====== ====== =========================================================

A record is a ZeroMQ message with all its parts, or the datagrams that were taken off a port together, a part each:

====== ====== =========================================================
offset type   field
====== ====== =========================================================
0      u32    CRC-32 of all that follows in the record
4      u32    number of parts
8      u64    bytes of all parts together
16     f64    time of arrival, seconds since the epoch
24     u32    port that it came to, counted from the receiver's first
28     4 x    zero
32     n u64  bytes of each part
...           the parts
====== ====== =========================================================

A file whose end is missing, or that is damaged, is good up to its last whole record before that.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
from isal import isal_zlib
from msgspec import Struct

from ..errors import ConfigError, SavingError

MAGIC = b"L2CAPT\r\n"
VERSION = 1
_FILE = struct.Struct("<8sIII")
_RECORD = struct.Struct("<IIQdI4x")
_CHECKSUM = 4  # bytes, at the beginning of a record
_SIZE = 8  # bytes of a part's size


class CaptureHead(Struct, frozen=True):
    """What a capture is of.

    :param plugin: name of the detector plugin.
    :param settings: the plugin's table of the configuration.
    :param detector: name of the detector.
    :param rank: of the receiver in whose place it was taken.
    :param endpoint: that the data came to.
    :param began: when, seconds since the epoch.
    """

    plugin: str
    settings: dict[str, str | int | float | bool | list[str | int | float]]
    detector: str
    rank: int
    endpoint: str
    began: float


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a record is.

    :param parts: offset of its first part in the file.
    :param sizes: bytes of each part.
    :param time: when it came, seconds since the epoch.
    :param port: see the module.
    """

    parts: int
    sizes: tuple[int, ...]
    time: float
    port: int

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(self.sizes)


def encode_head(head: CaptureHead) -> bytes:
    """Return the beginning of a file."""
    content = msgspec.json.encode(head)
    return _FILE.pack(MAGIC, VERSION, len(content), isal_zlib.crc32(content)) + content


def encode_record(parts: Sequence[bytes | memoryview], time: float, port: int = 0) -> list[bytes | memoryview]:
    """Return the pieces of a record, which follow each other in the file."""
    sizes = [memoryview(part).nbytes for part in parts]
    head = _RECORD.pack(0, len(parts), sum(sizes), time, port) + struct.pack(f"<{len(sizes)}Q", *sizes)
    checksum = isal_zlib.crc32(head[_CHECKSUM:])
    for part in parts:
        checksum = isal_zlib.crc32(part, checksum)
    return [checksum.to_bytes(_CHECKSUM, "little") + head[_CHECKSUM:], *parts]


def decode_head(content: memoryview) -> tuple[CaptureHead, int]:
    """Return the head of a file, and where its first record begins.

    :raises ConfigError: it is no capture, one of another version, or its head is damaged.
    """
    if len(content) < _FILE.size or bytes(content[: len(MAGIC)]) != MAGIC:
        raise ConfigError(f"got {bytes(content[: len(MAGIC)])!r} at the beginning, expected a capture's {MAGIC!r}")
    _, version, size, checksum = _FILE.unpack_from(content)
    if version != VERSION:
        raise ConfigError(f"got a capture of version {version}, expected {VERSION}")
    end = _FILE.size + size
    if end > len(content) or isal_zlib.crc32(content[_FILE.size : end]) != checksum:
        raise ConfigError("the capture's head is damaged")
    try:
        return msgspec.json.decode(content[_FILE.size : end], type=CaptureHead), end
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"the capture's head: {error}") from error


def find_records(content: memoryview, at: int) -> tuple[list[Entry], str]:
    """Return the whole records of a file, and what ends them before the file does; empty: nothing.

    :param at: where the first begins.
    """
    found: list[Entry] = []
    while at < len(content):
        entry = _entry(content, at)
        if entry is None:
            return found, f"record {len(found)}, at byte {at} of {len(content)}, is cut off or damaged"
        found.append(entry)
        at = entry.parts + entry.nbytes
    return found, ""


def _entry(content: memoryview, at: int) -> Entry | None:
    """Return the record that begins at a byte; None: it is not whole."""
    left = len(content) - at - _RECORD.size
    if left < 0:
        return None
    checksum, n_parts, nbytes, time, port = _RECORD.unpack_from(content, at)
    table = n_parts * _SIZE
    if table + nbytes > left:
        return None
    parts = at + _RECORD.size + table
    if isal_zlib.crc32(content[at + _CHECKSUM : parts + nbytes]) != checksum:
        return None
    sizes = struct.unpack_from(f"<{n_parts}Q", content, at + _RECORD.size)
    return Entry(parts, sizes, time, port) if sum(sizes) == nbytes else None


class CaptureWriter:
    """Makes a capture file.

    :param path: of the file, which must not be there yet.
    :raises SavingError: it can't be made.
    """

    def __init__(self, path: Path, head: CaptureHead) -> None:
        self._path = path
        try:
            self._file = path.open("xb", buffering=1024 * 1024)
        except OSError as error:
            raise SavingError(f"making capture {path}: {error.strerror}") from error
        try:
            self._file.write(encode_head(head))
            self.flush()
        except BaseException:
            self.close()
            raise

    def write(self, parts: Sequence[bytes | memoryview], time: float, port: int = 0) -> None:
        """Append a record.

        :raises SavingError: it can't be written; what was written before stays readable.
        """
        try:
            self._file.writelines(encode_record(parts, time, port))
        except OSError as error:
            raise SavingError(f"writing capture {self._path}: {error.strerror}") from error

    def flush(self) -> None:
        """Let others see what was written.

        :raises SavingError: it can't be written.
        """
        try:
            self._file.flush()
        except OSError as error:
            raise SavingError(f"writing capture {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file. Idempotent.

        :raises SavingError: the rest can't be written.
        """
        try:
            self._file.close()
        except OSError as error:
            raise SavingError(f"writing capture {self._path}: {error.strerror}") from error


class Capture:
    """A capture file that is read. All records are checked when it is opened; the file is mapped, not held in memory.

    :param path: of the file.
    :raises ConfigError: it can't be read, or is no capture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with FileIO(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # the latter: it is empty
            raise ConfigError(f"capture {path}: {error}") from error
        self._content = memoryview(self._map)
        try:
            self.head, begin = decode_head(self._content)
        except ConfigError as error:
            self.close()
            raise ConfigError(f"capture {path}: {error}") from error
        self.entries, self.flaw = find_records(self._content, begin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def parts(self, entry: Entry) -> list[memoryview]:
        """Return the parts of a record, as they came."""
        ends = np.cumsum(entry.sizes).tolist()
        return [
            self._content[entry.parts + end - size : entry.parts + end]
            for end, size in zip(ends, entry.sizes, strict=True)
        ]

    def joined(self, entry: Entry) -> memoryview:
        """Return the parts of a record, one behind the other."""
        return self._content[entry.parts : entry.parts + entry.nbytes]

    def close(self) -> None:
        """Close the file. Idempotent; what is still in use keeps its memory."""
        with suppress(BufferError):
            self._content.release()
            self._map.close()


def is_capture(path: Path) -> bool:
    """Tell whether a file begins as a capture does.

    :raises OSError: it can't be read.
    """
    with FileIO(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC
