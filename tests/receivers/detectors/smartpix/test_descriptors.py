"""Which pixels of which frames go where, against a model that looks at every pixel and counts every frame."""

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.detectors.smartpix.descriptors import Descriptor
from lima2_receivers.detectors.smartpix.params import (
    CHIP,
    SmartpixParams,
    SmartpixSettings,
    check_streams,
    descriptors,
    frame_spec,
)
from lima2_receivers.detectors.smartpix.supply import counted, cut
from lima2_receivers.errors import PlanError

small = st.integers(1, 6)


def settings(**given_):
    return SmartpixSettings("ipc:///c", "/f", **given_)


@given(small, small, st.lists(st.integers(0, 4), max_size=5), small, st.integers(0, 60))
def test_frames_go_where_a_model_sends_them(every, block, destinations, n_receivers, n_frames):
    stream = Descriptor("a", every=every, destinations=tuple(destinations), block=block)
    receivers = destinations or range(n_receivers)
    turns = itertools.chain.from_iterable(itertools.repeat(rank, block) for rank in itertools.cycle(receivers))
    sent = 0
    for frame in range(n_frames):
        position = stream.position(frame)
        if frame % every:
            assert position is None
            continue
        assert position == sent
        assert stream.frame(position) == frame
        assert stream.destination(position, n_receivers) == next(turns)
        sent += 1


@st.composite
def cuts(draw):
    gap = draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
    where = settings(chips=draw(st.sampled_from([(1, 1), (1, 2), (2, 2), (2, 4)])), chip_gap=gap)
    rows, cols = where.layout.image_shape
    row, col = draw(st.integers(0, rows - 1)), draw(st.integers(0, cols - 1))
    height, width = draw(st.integers(1, min(40, rows - row))), draw(st.integers(1, min(40, cols - col)))
    return where, (row, col, height, width)


@given(cuts(), st.sampled_from([6, 12, 24]))
def test_a_roi_has_the_pixels_that_a_model_finds(where_and_roi, depth):
    where, roi = where_and_roi
    stream = Descriptor("a", roi=roi)
    check_streams(where, SmartpixParams(depth=depth, roi=roi), (10**9,))
    n_chips = len(where.origins)
    photons = np.random.default_rng(0).integers(0, 2**16, (n_chips, CHIP, CHIP), np.uint32)
    frame = counted(photons, depth)
    found = cut(frame, where.layout, stream)
    spec = frame_spec(where, stream, depth)
    assert (found.shape, found.dtype) == (spec.shape, np.dtype(spec.dtype))
    down, across = CHIP + where.chip_gap[0], CHIP + where.chip_gap[1]
    for at_row in {0, roi[2] // 2, roi[2] - 1}:
        for at_col in range(roi[3]):
            chip_row, row = divmod(roi[0] + at_row, down)
            chip_col, col = divmod(roi[1] + at_col, across)
            if row >= CHIP or col >= CHIP:
                expected = np.iinfo(spec.dtype).max
            else:
                expected = min(int(photons[chip_row * where.chips[1] + chip_col, row, col]), 2**depth - 1)
            assert found[at_row, at_col] == expected


@pytest.mark.parametrize(("depth", "dtype", "most"), [(6, "|u1", 63), (12, "<u2", 4095), (24, "<u4", 2**24 - 1)])
def test_counters_are_sent_in_whole_bytes_and_stay_full(depth, dtype, most):
    found = counted(np.array([0, most - 1, most, most + 1, 2**31], np.int64), depth)
    assert found.dtype == np.dtype(dtype)
    assert found.tolist() == [0, most - 1, most, most, most]
    assert frame_spec(settings(), Descriptor("a"), depth).dtype == dtype


def test_the_largest_module_is_half_a_megapixel():
    spec = frame_spec(settings(), Descriptor("a"), 6)
    assert spec.nbytes == 512 * 1024
    assert spec.layout.image_shape == (512, 1024)
    assert spec.n_modules == 8


def test_chips_may_lie_anywhere():
    layout = settings(positions=(0, 300, 10, 0)).layout
    assert layout.origins == ((0, 300), (10, 0))
    assert layout.image_shape == (266, 556)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"chips": (3, 3)}, "chips: got 9, expected 8"),
        ({"positions": (0, 0, 0)}, "positions: got 3 numbers, expected two a chip"),
        ({"positions": (0, 0, 255, 255)}, "chips 0 and 1 overlap"),
        ({"positions": tuple(n for at in range(9) for n in (0, 256 * at))}, "positions: got 9, expected 8"),
    ],
    ids=str,
)
def test_layouts_that_can_not_be_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        settings(**wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"module": 2}, r"detector\.module: got 2, the detector has 2"),
        ({"roi": (0, 0, 0, 5)}, r"detector\.roi: got \[0, 0, 0, 5\], expected \[row, col, height, width\]"),
        ({"roi": (-1, 0, 5, 5)}, r"detector\.roi: got \[-1"),
        ({"roi": (0, 0, 1, 1025)}, "within the image of 512 x 1024"),
        ({"roi": (512, 0, 1, 1)}, "within the image of 512 x 1024"),
        ({"streams": (Descriptor("a"), Descriptor("a"))}, r"streams\[1\]\.name: got 'a', which another stream has"),
        ({"streams": (Descriptor("a", destinations=(0, 2)),)}, r"streams\[0\]\.destinations: got 2, there are 2"),
        ({"depth": 24}, r"detector: frames of 2097152 bytes .* receivers\[1\]\.ring\.slot_bytes is 1048576"),
    ],
    ids=str,
)
def test_streams_that_can_not_be_sent_are_refused(wrong, said):
    with pytest.raises(PlanError, match=said):
        check_streams(settings(modules=2), SmartpixParams(**wrong), (2**21, 2**20))


def test_what_fits_is_not_refused():
    roi = (0, 0, 512, 1024)
    params = SmartpixParams(12, 1, roi, 3, (Descriptor("a", 1, roi, 2, (1, 0, 1), 5), Descriptor("b")))
    check_streams(settings(modules=2), params, (2**20, 2**20))
    assert [stream.name for stream in descriptors(params)] == ["main", "a", "b"]


@pytest.mark.parametrize("field", ["evry", "Name"])
def test_misspelt_fields_of_a_stream_are_refused(field):
    with pytest.raises(msgspec.ValidationError, match=rf"unknown field `{field}` - at `\$\.streams\[0\]`"):
        msgspec.convert({"streams": [{"name": "a", field: 2}]}, SmartpixParams)
