import aare
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lima2_processing.errors import ParameterError
from lima2_processing.frame import FrameSpec
from lima2_processing.stages.gain_pedestal import GainPedestal

SHAPE = (6, 8)
N = 48
SPEC = FrameSpec(SHAPE, "<u2")
GAIN = np.repeat([[500.0], [-18.0], [-1.4]], N, axis=1)
PEDESTAL = np.repeat([[2500.0], [14000.0], [14500.0]], N, axis=1)


@pytest.fixture
def correct(device, run_stage):
    def run(raw, pedestal=PEDESTAL, gain=GAIN):
        stage = GainPedestal(device, SPEC, pedestal, gain, len(raw))
        return run_stage(stage, raw, SHAPE)

    return run


def words(*values):
    raw = np.full(SHAPE, 2500, np.uint16)
    raw.flat[: len(values)] = values
    return raw[None]


def test_stages_and_special_words(correct):
    photons = correct(words(3500, 1 << 14 | 13982, 3 << 14 | 14486, 0xC000, 0xFFFF, 0x4000, 2 << 14 | 3000))
    expected = [2, 1, 10, np.inf, np.nan, np.nan, np.nan, 0]
    np.testing.assert_allclose(photons.flat[:8], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("plane", [0, 1, 2])
@pytest.mark.parametrize("value", [0.0, 16383.0, np.nan, np.inf])
def test_bad_pedestals_are_masked_at_all_gains(correct, plane, value):
    pedestal = PEDESTAL.copy()
    pedestal[plane, :3] = value
    photons = correct(words(3500, 0xC000, 1 << 14 | 13982, 3500), pedestal)
    assert np.isnan(photons.flat[:3]).all()
    assert photons.flat[3] == 2


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_bad_gains_are_masked(correct, value):
    gain = GAIN.copy()
    gain[1, 0] = value
    photons = correct(words(3500, 3500), gain=gain)
    assert np.isnan(photons.flat[0])
    assert photons.flat[1] == 2


@settings(deadline=None, max_examples=50)
@given(raw=hnp.arrays(np.uint16, (2, *SHAPE)), seed=st.integers(0, 1000))
def test_any_words_as_the_reference(device, run_stage, reference, raw, seed):
    rng = np.random.default_rng(seed)
    pedestal = rng.uniform(-500, 17000, (3, N)).round()
    gain = rng.uniform(-50, 500, (3, N))
    gain[rng.random((3, N)) < 0.05] = 0
    photons = run_stage(GainPedestal(device, SPEC, pedestal, gain, 2), raw, SHAPE)
    expected = np.stack([reference.correct(frame.ravel(), pedestal, gain).reshape(SHAPE) for frame in raw])
    np.testing.assert_allclose(photons, expected, rtol=1e-6, atol=1e-30)


def test_as_aare(correct):
    rng = np.random.default_rng(1)
    stage = rng.choice([0, 1, 3], (4, *SHAPE), p=[0.8, 0.1, 0.1])
    raw = (stage << 14 | rng.integers(1, 16383, (4, *SHAPE))).astype(np.uint16)
    pedestal = PEDESTAL + rng.normal(0, 50, (3, N))
    gain = GAIN * rng.normal(1, 0.05, (3, N))
    expected = aare.apply_calibration(
        raw, pd=pedestal.reshape(3, *SHAPE).astype(np.float32), cal=gain.reshape(3, *SHAPE).astype(np.float32)
    )
    np.testing.assert_allclose(correct(raw, pedestal, gain), expected, rtol=1e-5, atol=1e-4)


def test_frames_of_another_type(device):
    with pytest.raises(ParameterError, match=r"frame\.dtype: got '<u4'"):
        GainPedestal(device, FrameSpec(SHAPE, "<u4"), PEDESTAL, GAIN, 1)


@pytest.mark.parametrize(("name", "maps"), [("pedestal", (PEDESTAL[:2], GAIN)), ("gain", (PEDESTAL, GAIN[:, 1:]))])
def test_maps_that_do_not_fit(device, name, maps):
    with pytest.raises(ParameterError, match=rf"params\.{name}: got '\d+ values', expected 3 stages of 48"):
        GainPedestal(device, SPEC, *maps, 1)
