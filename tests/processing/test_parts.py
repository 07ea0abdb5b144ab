import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_processing.errors import ParameterError
from lima2_processing.geometry import assembly, double_pixels
from lima2_processing.layouts import grid, jungfrau
from lima2_processing.parts import (
    crop,
    embed,
    module_shares,
    own_modules,
    part_of,
    parts_of,
    positions_in_whole,
    whole_shape,
)

GRIDS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def shared(draw):
    """A detector of modules, and the parts of its receivers."""
    spec = grid(draw(GRIDS), (8, 12), (4, 6), draw(st.booleans()), (draw(st.integers(0, 3)), draw(st.integers(0, 3))))
    n_receivers = draw(st.integers(1, spec.n_modules))
    return spec, [*parts_of(spec, n_receivers)]


@given(st.integers(1, 64), st.integers(1, 64))
def test_every_module_has_one_receiver(n_modules, n_receivers):
    if n_receivers > n_modules:
        with pytest.raises(ParameterError, match=f"dispatch: got '{n_receivers} receivers', expected 1 to {n_modules}"):
            module_shares(n_modules, n_receivers)
        return
    shares = module_shares(n_modules, n_receivers)
    assert [module for share in shares for module in share] == list(range(n_modules))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(shared())
def test_parts_assemble_to_the_whole_image(case):
    spec, parts = case
    raw = np.arange(1, 1 + np.prod(spec.shape), dtype=np.float32)
    whole = assembled(raw, spec)
    found = np.zeros_like(whole)
    for part in parts:
        assert whole_shape(part) == whole.shape
        own = own_modules(raw, part, planes=1)
        image = assembled(own, part)
        place = crop(found, part)
        assert not place[image != 0].any()  # no pixel is in two parts
        place += image
        np.testing.assert_array_equal(crop(embed(image, part, np.nan), part), image)
        np.testing.assert_array_equal(
            double_pixels(part, part.layout)[image != 0], crop(double_pixels(spec, spec.layout), part)[image != 0]
        )
    np.testing.assert_array_equal(found, whole)


@given(shared(), st.data())
def test_positions_in_a_part_are_those_in_the_whole(case, data):
    spec, parts = case
    part = data.draw(st.sampled_from(parts))
    size = int(np.prod(part.layout.image_shape))
    index = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=20))), np.uint32)
    numbers = np.arange(np.prod(spec.layout.image_shape), dtype=np.uint32).reshape(spec.layout.image_shape)
    found = positions_in_whole(index, part)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, crop(numbers, part).ravel()[index])


def test_calibration_of_several_planes():
    spec = jungfrau(8)
    part = part_of(spec, range(2, 5))
    planes = np.broadcast_to(np.arange(8.0)[None, :, None], (3, 8, 512 * 1024))
    found = own_modules(planes.ravel(), part, planes=3)
    np.testing.assert_array_equal(found.reshape(3, 3, -1)[:, :, 0], [[2, 3, 4]] * 3)


def test_calibration_of_another_size_stays_and_is_refused_where_it_is_used():
    values = np.zeros(7)
    assert own_modules(values, part_of(jungfrau(8), range(2)), planes=3) is values


def test_a_part_of_a_part_less_detector_is_refused():
    spec = msgspec.structs.replace(jungfrau(1), layout=None)
    with pytest.raises(ParameterError, match="frames without modules"):
        part_of(spec, range(1))


def assembled(raw, spec):
    plan = assembly(spec, spec.layout)
    return np.where(plan.source >= 0, raw[plan.source], 0).astype(np.float32)
