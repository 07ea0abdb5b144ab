"""The superblock: what HDF5 writes is understood, and what we write is what ``h5clear`` writes."""

from __future__ import annotations

import shutil
import struct
import subprocess

import h5py
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.errors import SavingError
from lima2_receivers.saving.superblock import SIZE, Superblock, checksum, decode

ADDRESS = st.integers(0, 2**64 - 1)
SUPERBLOCKS = st.builds(
    Superblock,
    version=st.sampled_from([2, 3]),
    flags=st.integers(0, 255),
    base=st.just(0),
    extension=ADDRESS,
    end=ADDRESS,
    root=ADDRESS,
)


def test_the_checksum_is_lookup3():
    """Values that its author gives in ``lookup3.c``."""
    assert checksum(b"") == 0xDEADBEEF
    assert checksum(b"Four score and seven years ago") == 0x17770551


@pytest.mark.parametrize("swmr", [False, True])
def test_what_hdf5_writes_is_understood(tmp_path, swmr):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest", locking=False) as file:
        file["value"] = 1
        if swmr:
            file.swmr_mode = True
        file.flush()
        live = path.read_bytes()
    closed = path.read_bytes()
    assert decode(live[:SIZE]).flags == (5 if swmr else 1)
    assert decode(closed[:SIZE]).flags == 0
    assert decode(closed[:SIZE]).end == len(closed)
    assert decode(closed[:SIZE]).encode() == closed[:SIZE]


@given(SUPERBLOCKS)
def test_it_survives_the_way_to_bytes_and_back(block):
    assert len(block.encode()) == SIZE
    assert decode(block.encode()) == block


@given(SUPERBLOCKS, st.integers(0, 2**63))
def test_mending_clears_the_flags_and_never_moves_the_end_back(block, size):
    mended = block.mended(size)
    assert mended.flags == 0
    assert mended.end == (max(block.end, size) if block.flags else block.end)
    assert (mended.version, mended.base, mended.extension, mended.root) == (
        block.version,
        block.base,
        block.extension,
        block.root,
    )
    assert mended.mended(size) == mended
    assert decode(mended.encode()) == mended


@given(SUPERBLOCKS, st.integers(0, SIZE - 1), st.integers(1, 255))
def test_a_byte_that_is_wrong_is_noticed(block, at, change):
    data = bytearray(block.encode())
    data[at] ^= change
    with pytest.raises(SavingError):
        decode(bytes(data))


@given(st.binary(max_size=64))
def test_other_bytes_are_refused(data):
    with pytest.raises(SavingError, match="expected"):
        decode(data)


def test_a_base_address_is_refused():
    data = Superblock(3, 0, 512, 0, 4096, 48).encode()
    with pytest.raises(SavingError, match="base address 512, expected 0"):
        decode(data)


@pytest.mark.parametrize("flags", [1, 5])
@pytest.mark.parametrize("stale", [0, 1000])
def test_h5clear_does_the_same(tmp_path, flags, stale):
    tool = shutil.which("h5clear")
    if tool is None:
        pytest.skip("h5clear is not installed (Debian: hdf5-tools)")
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["value"] = range(1000)
    data = path.read_bytes()
    found = decode(data[:SIZE])
    left = Superblock(found.version, flags, 0, found.extension, found.end - stale, found.root)
    path.write_bytes(left.encode() + data[SIZE:])
    subprocess.run([tool, "-s", "--increment=0", path], check=True, timeout=60)
    assert path.read_bytes() == left.mended(len(data)).encode() + data[SIZE:]
    assert struct.unpack_from("<Q", data, 28) == (len(data),)
