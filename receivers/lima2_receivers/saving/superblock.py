"""The first bytes of an HDF5 file, its superblock: what a killed writer left there, and what it should be. Pure.

Source: HDF5 File Format Specification version 3.0, section II.A (superblock versions 2 and 3) and its appendix on
checksums, which are those of Bob Jenkins' ``lookup3.c`` (public domain). What is to be changed after a kill is what
HDF5's own ``h5clear --status --increment=0`` changes: the flags become 0, and the end of the file at least its size.
"""

from __future__ import annotations

import struct

import msgspec

from ..errors import SavingError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SIZE = 48  # with offsets of 8 bytes
_VERSIONS = (2, 3)
_LAYOUT = struct.Struct("<8sBBBBQQQQ")  # all but the checksum
OPEN_FOR_WRITING, OPEN_FOR_SWMR = 1, 4  # flags


class Superblock(msgspec.Struct, frozen=True):
    """What it says.

    :param version: 2, or 3, which our files have.
    :param flags: 0: the file was closed by its writer; else sums of ``OPEN_FOR_WRITING`` and ``OPEN_FOR_SWMR``.
    :param base: address of the file's first byte.
    :param extension: address of what else it says.
    :param end: bytes of the file that are in use, as far as its writer wrote that down.
    :param root: address of the root group.
    """

    version: int
    flags: int
    base: int
    extension: int
    end: int
    root: int

    def mended(self, size: int) -> Superblock:
        """Return what it has to be for readers that know nothing of SWMR.

        :param size: bytes of the file.
        """
        return msgspec.structs.replace(self, flags=0, end=max(self.end, size) if self.flags else self.end)

    def encode(self) -> bytes:
        """Return its bytes (48), with their checksum."""
        head = _LAYOUT.pack(SIGNATURE, self.version, 8, 8, self.flags, self.base, self.extension, self.end, self.root)
        return head + struct.pack("<I", checksum(head))


def decode(data: bytes) -> Superblock:
    """Return what the first bytes of a file say.

    :param data: 48 of them, or fewer where the file is shorter.
    :raises SavingError: they are no superblock that we know, or their checksum is wrong.
    """
    if not data.startswith(SIGNATURE):
        raise SavingError(f"it begins with {data[:8]!r}, expected {SIGNATURE!r} of HDF5")
    if len(data) < SIZE:
        raise SavingError(f"its superblock is cut off: got {len(data)} bytes, expected {SIZE}")
    _, version, offsets, lengths, flags, base, extension, end, root = _LAYOUT.unpack_from(data)
    if version not in _VERSIONS or (offsets, lengths) != (8, 8):
        raise SavingError(
            f"its superblock is of version {version} with sizes {offsets} and {lengths}, expected version 2 or 3 "
            "with sizes 8 and 8"
        )
    (found,) = struct.unpack_from("<I", data, _LAYOUT.size)
    if found != (expected := checksum(data[: _LAYOUT.size])):
        raise SavingError(f"its superblock is broken: got checksum {found:08x}, expected {expected:08x}")
    if base != 0:
        raise SavingError(f"its superblock gives base address {base}, expected 0")
    return Superblock(version, flags, base, extension, end, root)


def checksum(data: bytes) -> int:
    """Return Jenkins' lookup3 hash of some bytes, as HDF5 checks its metadata, with no initial value."""
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    at = 0
    while len(data) - at > 12:
        x, y, z = struct.unpack_from("<III", data, at)
        a, b, c = _mix((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)
        at += 12
    if at == len(data):
        return c
    x, y, z = struct.unpack("<III", data[at:].ljust(12, b"\0"))
    return _final((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)


_MASK = 0xFFFFFFFF


def _turn(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (4, 6, 8, 16, 19, 4):  # the three change places at each step
        a = ((a - c) & _MASK) ^ _turn(c, bits)
        c = (c + b) & _MASK
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _turn(b, bits)) & _MASK
        a, b, c = b, c, a
    return b
