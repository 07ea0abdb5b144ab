"""The shipped contract must see what is wrong."""

import numpy as np
import pytest

from lima2_processing.frame import FrameIdx, FrameResult, Output, OutputKind, SparseFrame
from lima2_processing.testing import check_result, check_same

OUTPUTS = (
    Output("n", OutputKind.SCALAR, "<i4", (), "results"),
    Output("image", OutputKind.IMAGE, "<f4", (2, 3), "dense"),
    Output("pixels", OutputKind.SPARSE, "<f4", (2, 3), "sparse"),
)
INDEX, INTENSITY = np.array([1, 4], np.uint32), np.ones(2, np.float32)
GOOD = {
    "n": np.array(1, np.int32),
    "image": np.zeros((2, 3), np.float32),
    "pixels": SparseFrame(INDEX, INTENSITY),
}


def result(**changes):
    return FrameResult(FrameIdx(0), {**GOOD, **changes})


def test_what_is_right_passes():
    check_result(result(), OUTPUTS)
    check_same(result(), result())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more": np.zeros(1)}, "declared"),
        ({"n": np.array(1, np.int64)}, "n: <i8, declared <i4"),
        ({"image": np.zeros((3, 2), np.float32)}, r"image: \(3, 2\)"),
        ({"pixels": np.zeros((2, 3), np.float32)}, "pixels: an array"),
        ({"image": SparseFrame(INDEX, INTENSITY)}, "image: a sparse frame"),
        ({"pixels": SparseFrame(INDEX[::-1], INTENSITY)}, "not ascending"),
        ({"pixels": SparseFrame(INDEX + np.uint32(3), INTENSITY)}, "beyond the image"),
        ({"pixels": SparseFrame(INDEX, INTENSITY[:1])}, "different length"),
    ],
)
def test_what_is_wrong_fails(changes, message):
    with pytest.raises(AssertionError, match=message):
        check_result(result(**changes), OUTPUTS)


def test_differences_are_seen():
    for other in (result(n=np.array(2, np.int32)), result(pixels=SparseFrame(INDEX, INTENSITY * 2))):
        with pytest.raises(AssertionError):
            check_same(result(), other)
