"""Compressing one HDF5 chunk outside HDF5, so that it runs beside other threads.

Bitshuffle comes from the library inside hdf5plugin, called through ctypes, which releases the GIL for the whole call:
the ``bitshuffle`` package has no wheel for every Python that this project supports.
"""

from __future__ import annotations

import ctypes
import struct
import uuid
from collections.abc import Callable
from functools import cache
from math import prod
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from ..errors import SavingError
from ..plan import Compression

BITSHUFFLE = 32008  # registered number of the HDF5 filter
_LZ4, _ZSTD = 2, 3  # its `compression` parameter
_BLOCK_BYTES = 8192  # of data that are shuffled together; the filter's own default
_HEAD = 12  # bytes before the first block
ZSTD_LEVEL = 3
DEFLATE_LEVEL = 1

Chunk = bytes | memoryview


def encode(compression: Compression, data: NDArray[np.generic], room: NDArray[np.uint8] | None = None) -> Chunk:
    """Return the bytes of a chunk as HDF5 stores them. Any thread may call it.

    :param data: the chunk's values, any shape; not needed any more when this returns.
    :param room: memory that the result may lie in, ``room_bytes`` of it; none: fresh memory.
    :raises SavingError: the codec failed.
    """
    data = np.ascontiguousarray(data)
    if compression is Compression.ZIP:
        return isal_zlib.compress(data.reshape(-1).view(np.uint8), DEFLATE_LEVEL)
    if room is None:
        room = np.empty(room_bytes(compression, data.shape, data.dtype.str), np.uint8)
    match compression:
        case Compression.NONE:
            room[: data.nbytes] = data.reshape(-1).view(np.uint8)
            return room[: data.nbytes].data
        case Compression.BSHUF_LZ4:
            return _bitshuffle(data, _LZ4, room)
        case Compression.BSHUF_ZSTD:
            return _bitshuffle(data, _ZSTD, room)


def decode(compression: Compression, data: Chunk, shape: tuple[int, ...], dtype: str) -> NDArray[np.generic]:
    """Return the values of a chunk that ``encode`` made, as HDF5 reads them: through a file in memory.

    :param shape: of the chunk.
    :param dtype: NumPy type string.
    :raises SavingError: it is no such chunk.
    """
    try:
        with h5py.File(uuid.uuid4().hex, "w", driver="core", backing_store=False) as file:
            space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(dtype), logical=True)
            made = h5py.h5d.create(file.id, b"chunk", kind, space, dcpl=creation_list(compression, shape))
            made.write_direct_chunk((0,) * len(shape), data)
            return h5py.Dataset(made)[()]
    except (OSError, RuntimeError, ValueError) as error:
        raise SavingError(f"decoding {len(data)} bytes of {compression}, {dtype} {shape}: {error}") from error


def room_bytes(compression: Compression, shape: tuple[int, ...], dtype: str) -> int:
    """Return how much memory encoding a chunk may need; 0: it takes its own.

    :param shape: of the chunk.
    :param dtype: NumPy type string.
    """
    count, itemsize = prod(shape), np.dtype(dtype).itemsize
    match compression:
        case Compression.NONE:
            return count * itemsize
        case Compression.ZIP:
            return 0
        case Compression.BSHUF_LZ4:
            return _HEAD + _library(_LZ4)[1](count, itemsize, _block(itemsize))
        case Compression.BSHUF_ZSTD:
            return _HEAD + _library(_ZSTD)[1](count, itemsize, _block(itemsize))


def creation_list(compression: Compression, chunk: tuple[int, ...]) -> h5py.h5p.PropDCID:
    """Return the dataset creation properties that let HDF5 read chunks that ``encode`` made.

    :param chunk: shape of a chunk.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(chunk)
    match compression:
        case Compression.NONE:
            pass
        case Compression.ZIP:
            properties.set_deflate(DEFLATE_LEVEL)
        case Compression.BSHUF_LZ4:
            properties.set_filter(BITSHUFFLE, h5py.h5z.FLAG_MANDATORY, (0, _LZ4))
        case Compression.BSHUF_ZSTD:
            properties.set_filter(BITSHUFFLE, h5py.h5z.FLAG_MANDATORY, (0, _ZSTD, ZSTD_LEVEL))
    return properties


def _block(itemsize: int) -> int:
    """Return the elements that are shuffled together, a multiple of 8."""
    return max(8, _BLOCK_BYTES // itemsize // 8 * 8)


def _bitshuffle(data: NDArray[np.generic], codec: int, room: NDArray[np.uint8]) -> Chunk:
    """Compress as filter 32008 does: u64 raw size and u32 block size, big endian, then the blocks."""
    compress, _ = _library(codec)
    block = _block(data.itemsize)
    room[:_HEAD] = np.frombuffer(struct.pack(">QI", data.nbytes, block * data.itemsize), np.uint8)
    size = compress(data.ctypes.data, room.ctypes.data + _HEAD, data.size, data.itemsize, block)
    if size < 0:
        raise SavingError(f"bitshuffle failed with code {size} on {data.nbytes} bytes of {data.dtype}")
    return room[: _HEAD + size].data


@cache
def _library(codec: int) -> tuple[Callable[..., int], Callable[..., int]]:
    """Return the compressing function, and the one that tells how much room it needs."""
    path = Path(hdf5plugin.PLUGIN_PATH) / "libh5bshuf.so"
    try:
        library = ctypes.CDLL(str(path))
        name = "lz4" if codec == _LZ4 else "zstd"
        compress, bound = library[f"bshuf_compress_{name}"], library[f"bshuf_compress_{name}_bound"]
    except (OSError, AttributeError) as error:
        raise SavingError(f"bitshuffle is not in {path}: {error}; use compression zip or none") from error
    sizes = [ctypes.c_size_t] * 3
    bound.argtypes, bound.restype = sizes, ctypes.c_size_t
    compress.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *sizes]
    compress.restype = ctypes.c_int64
    if codec == _LZ4:
        return compress, bound

    def compress_zstd(*arguments: int) -> int:
        return compress(*arguments, ZSTD_LEVEL)

    compress.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *sizes, ctypes.c_int]
    return compress_zstd, bound
