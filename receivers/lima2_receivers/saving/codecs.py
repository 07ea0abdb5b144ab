"""Compressing one HDF5 chunk outside HDF5, so that it runs beside other threads.

Bitshuffle comes from the library inside hdf5plugin, called through ctypes, which releases the GIL for the whole call:
the ``bitshuffle`` package has no wheel for every Python that this project supports.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable
from functools import cache
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
ZSTD_LEVEL = 3
DEFLATE_LEVEL = 1

Chunk = bytes | memoryview


def encode(compression: Compression, data: NDArray[np.generic]) -> Chunk:
    """Return the bytes of a chunk as HDF5 stores them. Any thread may call it.

    :param data: the chunk's values, any shape; not needed any more when this returns.
    :raises SavingError: the codec failed.
    """
    data = np.ascontiguousarray(data)
    match compression:
        case Compression.NONE:
            return memoryview(data.reshape(-1).view(np.uint8).copy())  # type: ignore[arg-type]
        case Compression.ZIP:
            return isal_zlib.compress(data.reshape(-1).view(np.uint8), DEFLATE_LEVEL)
        case Compression.BSHUF_LZ4:
            return _bitshuffle(data, _LZ4)
        case Compression.BSHUF_ZSTD:
            return _bitshuffle(data, _ZSTD)


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


def _bitshuffle(data: NDArray[np.generic], codec: int) -> Chunk:
    """Compress as filter 32008 does: u64 raw size and u32 block size, big endian, then the blocks."""
    compress, bound = _library(codec)
    block = max(8, _BLOCK_BYTES // data.itemsize // 8 * 8)  # elements, a multiple of 8
    out = _room(12 + bound(data.size, data.itemsize, block))
    out[:12] = np.frombuffer(struct.pack(">QI", data.nbytes, block * data.itemsize), np.uint8)
    size = compress(data.ctypes.data, out.ctypes.data + 12, data.size, data.itemsize, block)
    if size < 0:
        raise SavingError(f"bitshuffle failed with code {size} on {data.nbytes} bytes of {data.dtype}")
    return out[: 12 + size].tobytes()


_rooms = threading.local()


def _room(size: int) -> NDArray[np.uint8]:
    """Return this thread's memory to compress into: fresh pages for every frame would cost more than copying it out."""
    if getattr(_rooms, "room", None) is None or len(_rooms.room) < size:
        _rooms.room = np.empty(size, np.uint8)
    return _rooms.room


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
