"""Pedestals against NumPy's own statistics, and every reason for a bad pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lima2_processing.pedestals import GAIN_CODES, Bad, BadPixels, PedestalSums, bad_pixels

SHAPE = (2, 8, 16)


def dark(stage, n_frames=50, seed=0):
    random = np.random.default_rng(seed)
    adc = np.clip(random.normal((2800, 14200, 14600)[stage], 20, (n_frames, *SHAPE)), 0, 0x3FFF).astype(np.uint16)
    return adc | np.uint16(GAIN_CODES[stage] << 14)


def result(frames, stage):
    sums = PedestalSums(stage, SHAPE)
    for frame in frames:
        sums.add(frame)
    return sums.result()


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_mean_and_deviation_are_numpys(stage):
    frames = dark(stage)
    found = result(frames, stage)
    adc = (frames & 0x3FFF).astype(np.float64)
    np.testing.assert_allclose(found.pedestal, adc.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.noise, adc.std(axis=0, ddof=1), rtol=1e-6)
    assert found.n_frames == len(frames)
    assert not found.wrong.any()


@given(arrays(np.uint16, (5, *SHAPE), elements=st.integers(0, 0xFFFF)), st.sampled_from([0, 1, 2]))
def test_pixels_in_another_gain_or_missing_are_left_out(frames, stage):
    found = result(frames, stage)
    right = (frames >> 14 == GAIN_CODES[stage]) & (frames != 0xFFFF)
    adc = np.ma.masked_array((frames & 0x3FFF).astype(np.float64), ~right)
    mean, deviation = adc.mean(axis=0).filled(np.nan), adc.std(axis=0, ddof=1)
    np.testing.assert_allclose(found.pedestal, mean, rtol=1e-6)
    twice = right.sum(axis=0) >= 2
    np.testing.assert_allclose(found.noise[twice], deviation.filled(np.nan)[twice], rtol=1e-5, atol=1e-3)
    assert np.isnan(found.noise[~twice]).all()
    np.testing.assert_allclose(found.wrong, 1 - right.mean(axis=0), atol=1e-7)


def test_many_frames_at_the_end_of_the_scale_stay_exact():
    sums = PedestalSums(0, (1, 1, 1))
    for number in range(20_000):
        sums.add(np.full((1, 1, 1), 0x3FFF - number % 2, np.uint16))
    assert sums.result().noise[0, 0, 0] == pytest.approx(0.5, rel=1e-4)


def test_every_reason_for_a_bad_pixel():
    frames = [dark(stage, seed=stage) for stage in range(3)]
    frames[1][:3, 0, 0, 0] = 0x0100  # not switched in 6 % of the frames
    frames[0][:, 0, 0, 1] = 2800
    frames[2][::2, 1, 0, 2] -= 1000
    frames[0][:, 1, 0, 3] += 2000
    frames[1][:, 1, 0, 4] = 0
    stages = [result(each, stage) for stage, each in enumerate(frames)]
    mask = bad_pixels(stages, BadPixels())
    assert mask[0, 0, 0] == Bad.WRONG_GAIN
    assert mask[0, 0, 1] == Bad.DEAD
    assert mask[1, 0, 2] == Bad.NOISY
    assert mask[1, 0, 3] == Bad.OFF
    assert mask[1, 0, 4] == Bad.WRONG_GAIN
    assert np.count_nonzero(mask) == 5
    assert not bad_pixels(stages, BadPixels(wrong_gain=1.0, noise=1e9, offset=1e9))[0, 0, 0]


def test_frames_have_to_fit_and_to_be_there():
    sums = PedestalSums(0, SHAPE)
    with pytest.raises(ValueError, match=r"got shape \(1, 2\), expected \(2, 8, 16\)"):
        sums.add(np.zeros((1, 2), np.uint16))
    with pytest.raises(ValueError, match="got no dark frames"):
        sums.result()
