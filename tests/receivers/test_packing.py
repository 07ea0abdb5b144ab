"""Packed pixels, against the HDF5 filters and python-lz4, real captures, and bytes that mean harm."""

import contextlib
import struct

import h5py
import hdf5plugin
import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lima2_receivers.errors import ProtocolError
from lima2_receivers.packing import PackedImage, Packing, check_packed, unpack
from lima2_receivers.plan import Compression
from lima2_receivers.saving.codecs import encode

DTYPES = ("|u1", "<u2", "<u4", "<f4")


def bslz4(image):
    return PackedImage(Packing.BSLZ4, bytes(encode(Compression.BSHUF_LZ4, image)))


def lz4_blocks(image, block=4096):
    raw = image.tobytes()
    packed = [lz4.block.compress(raw[at : at + block], store_size=False) for at in range(0, len(raw), block)]
    parts = [piece if len(piece) < block else raw[at * block : (at + 1) * block] for at, piece in enumerate(packed)]
    head = struct.pack(">QI", len(raw), block)
    return PackedImage(Packing.LZ4, head + b"".join(len(p).to_bytes(4, "big") + p for p in parts))


def lz4_plain(image):
    return PackedImage(Packing.LZ4, lz4.block.compress(image.tobytes(), store_size=False))


def plain(image):
    return PackedImage(Packing.NONE, image.tobytes())


def unpacked(packed, like):
    out = np.empty_like(like)
    unpack(packed, out)
    return out


@pytest.mark.parametrize("pack", [bslz4, lz4_blocks, lz4_plain, plain])
@settings(max_examples=60, deadline=None)
@given(
    image=st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, max_side=90))
    )
)
def test_pixels_come_out_as_they_were_packed(pack, image):
    assert unpacked(pack(image), image).tobytes() == image.tobytes()


@pytest.mark.parametrize("pack", [bslz4, lz4_blocks, lz4_plain, plain])
def test_another_size_is_refused(pack):
    packed = pack(np.random.default_rng(0).poisson(3, (64, 65)).astype("<u2"))
    for shape in ((64, 64), (65, 65), (64, 650)):
        with pytest.raises(ProtocolError, match="expected"):
            unpack(packed, np.empty(shape, "<u2"))


@pytest.mark.parametrize("pack", [bslz4, lz4_blocks, lz4_plain, plain])
def test_damaged_bytes_are_refused_or_decoded_and_never_crash(pack):
    image = np.random.default_rng(1).poisson(3, (150, 90)).astype("<u2")
    packed = pack(image)
    chance = np.random.default_rng(2)
    out = np.empty_like(image)
    for _ in range(1500):
        data = np.frombuffer(packed.data, np.uint8).copy()
        at = chance.integers(0, len(data), chance.integers(1, 20))
        data[at] = chance.integers(0, 256, len(at))
        if chance.random() < 0.3:
            data = data[: chance.integers(0, len(data))]
        with contextlib.suppress(ProtocolError):
            unpack(PackedImage(packed.packing, data.tobytes()), out)


@pytest.mark.parametrize("size", [0, 1, 11, 12, 15])
@pytest.mark.parametrize("packing", list(Packing))
def test_too_few_bytes_are_refused(packing, size):
    with pytest.raises(ProtocolError, match="expected"):
        unpack(PackedImage(packing, bytes(size)), np.empty((20, 20), "<u2"))


def test_a_head_that_claims_more_allocates_nothing():
    image = np.zeros((8, 8), "<u2")
    data = bytearray(bslz4(image).data)
    data[:8] = (2**60).to_bytes(8, "big")
    with pytest.raises(ProtocolError, match="its head says 1152921504606846976 bytes of pixels, expected 128"):
        unpack(PackedImage(Packing.BSLZ4, bytes(data)), image)


@pytest.mark.parametrize("number", [12, 16, 20])
def test_a_real_blob_of_stream_1_decodes_as_hdf5_does(recorded, number):
    blob = (recorded("eiger4M_v1_stream") / f"streamfile_{number}").read_bytes()
    found = unpacked(PackedImage(Packing.BSLZ4, blob), np.empty((2167, 2070), "<u2"))
    with h5py.File("blob", "w", driver="core", backing_store=False) as file:
        made = file.create_dataset("image", found.shape, "<u2", chunks=found.shape, **hdf5plugin.Bitshuffle())
        made.id.write_direct_chunk((0, 0), blob)
        np.testing.assert_array_equal(found, made[()])
    assert (found == 65535).mean() > 0.05  # gaps and dead pixels


def test_what_a_reader_of_the_file_could_not_decode_is_refused():
    image = np.arange(40_000, dtype="<u2")
    good = bslz4(image)
    check_packed(good, image.nbytes, 2)
    with pytest.raises(ProtocolError, match="expected"):
        check_packed(PackedImage(Packing.BSLZ4, good.data + bytes(100)), image.nbytes, 2)
    for length in (0, 2**20):
        broken = good.data[:12] + length.to_bytes(4, "big") + good.data[16:]
        with pytest.raises(ProtocolError, match=f"block 0 of .*: got {length} bytes, expected 1 to"):
            check_packed(PackedImage(Packing.BSLZ4, broken), image.nbytes, 2)


def test_blocks_too_small_to_be_meant_are_refused():
    image = np.zeros(4096, "|u1")
    with pytest.raises(ProtocolError, match="got blocks of 1 bytes, expected 1024 at least"):
        unpack(lz4_blocks(image, 1), image)
    for elements in (0, 8, 120):
        data = struct.pack(">QI", image.nbytes, elements) + (b"\0\0\0\1\0") * (image.size // max(elements, 8))
        with pytest.raises(ProtocolError, match="128 at least"):
            check_packed(PackedImage(Packing.BSLZ4, data), image.nbytes, 1)
