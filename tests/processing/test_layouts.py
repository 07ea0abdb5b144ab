import pytest

from lima2_processing.errors import ParameterError
from lima2_processing.layouts import jungfrau


@pytest.mark.parametrize(
    ("modules", "gap_pixels", "image"),
    [
        (1, True, (514, 1030)),
        (1, False, (512, 1024)),
        (2, True, (1064, 1030)),
        (2, False, (1060, 1024)),
        (8, True, (2164, 2068)),
        (8, False, (2156, 2056)),
    ],
)
def test_jungfrau_sizes(modules, gap_pixels, image):
    spec = jungfrau(modules, gap_pixels)
    assert spec.shape == (modules, 512, 1024)
    assert spec.dtype == "<u2"
    assert spec.layout.image_shape == image
    assert spec.n_modules == modules
    assert spec.nbytes == modules << 20


def test_4m_is_two_modules_wide_row_by_row():
    assert jungfrau(8).layout.origins[:3] == ((0, 0), (0, 1038), (550, 0))


def test_no_such_jungfrau():
    with pytest.raises(ParameterError, match="got 3, expected 1, 2 or 8"):
        jungfrau(3)
