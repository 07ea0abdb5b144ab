from __future__ import annotations

import threading

import h5py
import hdf5plugin  # registers HDF5's side of bitshuffle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lima2_receivers.errors import SavingError
from lima2_receivers.plan import Compression
from lima2_receivers.saving import codecs

DTYPES = ("|u1", "<u2", "<u4", "<u8", "|i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8")


def through_hdf5(compression: Compression, value: np.ndarray) -> np.ndarray:
    """Store one encoded chunk and let HDF5's own filters read it."""
    with h5py.File("codec.h5", "w", driver="core", backing_store=False) as file:
        properties = codecs.creation_list(compression, (1, *value.shape))
        space = h5py.h5s.create_simple((1, *value.shape))
        kind = h5py.h5t.py_create(value.dtype)
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"data", kind, space, dcpl=properties))
        dataset.id.write_direct_chunk((0,) * (value.ndim + 1), codecs.encode(compression, value))
        return dataset[0]


@pytest.mark.parametrize("compression", list(Compression))
@settings(max_examples=40, deadline=None)
@given(
    value=st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, max_side=40))
    )
)
def test_every_type_and_shape_reads_back_bit_by_bit(compression, value):
    assert through_hdf5(compression, value).tobytes() == value.tobytes()
    found = codecs.decode(compression, codecs.encode(compression, value), value.shape, value.dtype.str)
    assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes())


@pytest.mark.parametrize("compression", [Compression.ZIP, Compression.BSHUF_LZ4, Compression.BSHUF_ZSTD])
def test_what_is_no_chunk_is_refused(compression):
    with pytest.raises(SavingError, match=f"decoding 7 bytes of {compression}, <u2"):
        codecs.decode(compression, b"rubbish", (64, 128), "<u2")


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 513), (4, 512, 1024)])
def test_chunks_of_many_blocks_and_odd_tails_read_back(compression, shape):
    value = np.random.default_rng(1).poisson(3, shape).astype("<u2")
    assert np.array_equal(through_hdf5(compression, value), value)


@pytest.mark.parametrize("compression", list(Compression))
def test_an_image_that_is_not_contiguous_reads_back(compression):
    value = np.arange(600, dtype="<u4").reshape(20, 30)[::2, ::3]
    assert np.array_equal(through_hdf5(compression, value), value)


@pytest.mark.parametrize("compression", list(Compression))
def test_a_chunk_does_not_change_with_the_memory_that_it_came_from(compression):
    value = np.arange(4096, dtype="<u2")
    chunk = codecs.encode(compression, value)
    before = bytes(chunk)
    value[:] = 0
    assert bytes(chunk) == before


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("dtype", ["|u1", "<u2", "<f4", "<f8"])
def test_the_room_that_is_asked_for_is_enough_and_is_used(compression, dtype):
    size = codecs.room_bytes(compression, (67, 129), dtype)
    guard = np.full(size + 64, 0xA5, np.uint8)
    noise = np.random.default_rng(2).bytes(67 * 129 * np.dtype(dtype).itemsize)  # can't be compressed
    value = np.frombuffer(noise, dtype).reshape(67, 129)
    chunk = codecs.encode(compression, value, guard[:size] if size else None)
    assert bytes(chunk) == bytes(codecs.encode(compression, value))
    assert (guard[size:] == 0xA5).all()
    assert (size == 0) == (compression is Compression.ZIP)
    if size:
        assert bytes(guard[: len(chunk)]) == bytes(chunk)


@pytest.mark.parametrize("compression", [Compression.ZIP, Compression.BSHUF_LZ4, Compression.BSHUF_ZSTD])
def test_sparse_images_shrink(compression):
    value = np.zeros((256, 256), "<u2")
    assert len(codecs.encode(compression, value)) < value.nbytes / 20


@pytest.mark.parametrize("compression", list(Compression))
def test_threads_encode_at_the_same_time(compression):
    images = [np.random.default_rng(seed).poisson(seed, (64, 64)).astype("<u2") for seed in range(4)]
    expected = [bytes(codecs.encode(compression, image)) for image in images]
    agree = [False] * len(images)

    def work(at: int) -> None:
        agree[at] = all(bytes(codecs.encode(compression, images[at])) == expected[at] for _ in range(50))

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(agree)


def test_a_missing_bitshuffle_library_is_named(monkeypatch, tmp_path):
    codecs._library.cache_clear()
    monkeypatch.setattr(hdf5plugin, "PLUGIN_PATH", str(tmp_path))
    try:
        with pytest.raises(SavingError, match=r"libh5bshuf\.so.*zip or none"):
            codecs.encode(Compression.BSHUF_LZ4, np.zeros(8, "<u2"))
    finally:
        codecs._library.cache_clear()
