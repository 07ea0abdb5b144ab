"""Pixels as detectors pack them: bitshuffled LZ4, LZ4, or plain. Hostile bytes give an error and no crash.

The layouts are DECTRIS': an 8-byte size of the pixels and a 4-byte size of a block, both big endian, then blocks, each
behind its 4-byte length. It is what the HDF5 filters 32008 and 32004 store: a chunk can go to a file as it came.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from .errors import ProtocolError

MIN_LZ4_BLOCK = 1024  # bytes: smaller ones would take longer to walk than to unpack
MIN_BSLZ4_BLOCK = 128  # values: as BSHUF_MIN_RECOMMEND_BLOCK of bitshuffle, likewise
_HEAD = struct.Struct(">QI")
_LENGTH = 4  # bytes of a block's length


class Packing(StrEnum):
    """How pixels are packed."""

    NONE = "none"
    LZ4 = "lz4"
    BSLZ4 = "bslz4"


@dataclass(frozen=True, slots=True)
class PackedImage:
    """The pixels of one image as they came.

    :param packing: how.
    :param data: the bytes, the head included.
    """

    packing: Packing
    data: bytes | memoryview


def unpack(image: PackedImage, out: NDArray[np.generic]) -> None:
    """Unpack an image.

    :param image: what came.
    :param out: where its pixels go, contiguous, little endian; its shape and type are what is expected.
    :raises ProtocolError: the bytes are no image of that size; what ``out`` holds then means nothing.
    """
    data = np.frombuffer(image.data, np.uint8)
    match image.packing:
        case Packing.NONE:
            if data.nbytes != out.nbytes:
                raise ProtocolError(f"pixels: got {data.nbytes} bytes, expected {out.nbytes}")
            out.reshape(-1).view(np.uint8)[:] = data
        case Packing.BSLZ4:
            _unpack_bitshuffle(data, out)
        case Packing.LZ4:
            _unpack_lz4(data, out)


def check_packed(image: PackedImage, out_bytes: int, itemsize: int) -> None:
    """See whether a reader of the file would find a bitshuffled image whole, without unpacking it.

    :param out_bytes: of the pixels.
    :param itemsize: of one.
    :raises ProtocolError: it would not.
    """
    if image.packing is not Packing.BSLZ4:
        raise ProtocolError(f"got pixels packed by {image.packing}, expected {Packing.BSLZ4}")
    _check_bitshuffle(image, out_bytes // itemsize, itemsize)


def _block_bytes(image: PackedImage, out_bytes: int) -> int:
    """Return the block size of a packed image, once its head says that it is of the right size.

    :param out_bytes: of the pixels.
    :raises ProtocolError: the head is wrong.
    """
    if len(image.data) < _HEAD.size:
        raise ProtocolError(f"{image.packing}: got {len(image.data)} bytes, expected a head of {_HEAD.size}")
    size, block = _HEAD.unpack(image.data[: _HEAD.size])
    if size != out_bytes:
        raise ProtocolError(f"{image.packing}: its head says {size} bytes of pixels, expected {out_bytes}")
    return block


def _unpack_bitshuffle(data: NDArray[np.uint8], out: NDArray[np.generic]) -> None:
    elements = _check_bitshuffle(PackedImage(Packing.BSLZ4, data.data), out.size, out.itemsize)
    function, _ = _library()
    at = (data.ctypes.data + _HEAD.size, out.ctypes.data)
    if (code := function(*at, out.size, out.itemsize, elements)) < 0:
        raise ProtocolError(f"bslz4: a block does not decode (code {code}), expected {elements} values in each")


def _check_bitshuffle(image: PackedImage, size: int, itemsize: int) -> int:
    """Return how many values a block has, once head and lengths fit so many values."""
    block = _block_bytes(image, size * itemsize)
    elements, rest = divmod(block, itemsize)
    if rest or elements % 8 or elements < MIN_BSLZ4_BLOCK:
        expected = f"a multiple of 8 values of {itemsize} bytes, {MIN_BSLZ4_BLOCK} at least"
        raise ProtocolError(f"bslz4: got blocks of {block} bytes, expected {expected}")
    full, tail = divmod(size, elements)
    end = _walk(image.data, full + (tail >= 8), block) + tail % 8 * itemsize
    if end != len(image.data):
        raise ProtocolError(f"bslz4: got {len(image.data)} bytes, expected {end}")
    return elements


def _walk(data: bytes | memoryview, n_blocks: int, block_bytes: int) -> int:
    """Return where the last of so many blocks ends: the library believes their lengths, and would read beyond.

    :param block_bytes: of a block when it is unpacked.
    :raises ProtocolError: it is behind the end of the data, or a block has no length that LZ4 gives.
    """
    at, size = _HEAD.size, len(data)
    longest = block_bytes + block_bytes // 255 + 16  # LZ4_compressBound of lz4.h
    for block in range(n_blocks):
        length = int.from_bytes(data[at : at + _LENGTH], "big")
        if not 0 < length <= longest:
            raise ProtocolError(f"block {block} of {n_blocks}: got {length} bytes, expected 1 to {longest}")
        at += _LENGTH + length
        if at > size:
            raise ProtocolError(f"block {block} of {n_blocks} ends at byte {at}, expected at most {size}")
    return at


def _unpack_lz4(data: NDArray[np.uint8], out: NDArray[np.generic]) -> None:
    """Unpack LZ4, with the head of the HDF5 filter or without one: senders differ."""
    _, decompress = _library()
    target = out.reshape(-1).view(np.uint8)
    head = _HEAD.unpack(data[: _HEAD.size].tobytes()) if data.nbytes >= _HEAD.size else (0, 0)
    if head[0] != out.nbytes:
        _decompress(decompress, data, target)
        return
    if head[1] < min(MIN_LZ4_BLOCK, out.nbytes):
        raise ProtocolError(f"lz4: got blocks of {head[1]} bytes, expected {MIN_LZ4_BLOCK} at least")
    at = _HEAD.size
    for start in range(0, out.nbytes, head[1]):
        block = target[start : start + head[1]]
        length = int.from_bytes(data[at : at + _LENGTH].tobytes(), "big")
        packed = data[at + _LENGTH : at + _LENGTH + length]
        if len(packed) != length or not length:
            raise ProtocolError(f"lz4: a block of {length} bytes at byte {at}, expected 1 to {data.nbytes - at}")
        if length == len(block):  # it would not shrink
            block[:] = packed
        else:
            _decompress(decompress, packed, block)
        at += _LENGTH + length


def _decompress(decompress: Callable[..., int], packed: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    got = decompress(packed.ctypes.data, target.ctypes.data, len(packed), len(target))
    if got != len(target):
        raise ProtocolError(f"lz4: {len(packed)} bytes decode to {got}, expected {len(target)}")


@cache
def _library() -> tuple[Callable[..., int], Callable[..., int]]:
    """Return what unpacks bitshuffled LZ4, and one block of LZ4, from the library inside hdf5plugin (decision 6)."""
    library = ctypes.CDLL(str(Path(hdf5plugin.PLUGIN_PATH) / "libh5bshuf.so"))
    shuffled, plain = library.bshuf_decompress_lz4, library.LZ4_decompress_safe
    shuffled.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_size_t] * 3]
    shuffled.restype = ctypes.c_int64
    plain.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    plain.restype = ctypes.c_int
    return shuffled, plain
