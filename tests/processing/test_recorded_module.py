"""Real frames of one Jungfrau module against the conversion that PSI's own code made of them."""

import numpy as np
import pytest

from lima2_processing.calibration import CalibrationFile
from lima2_processing.frame import Frame
from lima2_processing.layouts import jungfrau
from lima2_processing.pipelines.smx import Smx
from lima2_processing.pipelines.smx_params import SmxParams

FILES = tuple(CalibrationFile(f"/G{stage}") for stage in range(3))


@pytest.fixture(scope="module")
def results(device, recorded_module):
    """Raw words (frames, rows, cols), PSI's photons, our results, and where pedestals are of bad pixels."""
    read = {
        f"{name}.{stage}": np.fromfile(recorded_module / f"mod5_{file}G{stage}.bin", "<f4")
        for name, file in (("pedestal", "pede"), ("gain", "gain"))
        for stage in range(3)
    }
    raw = [np.fromfile(recorded_module / f"mod5_raw{at}.bin", "<u2").reshape(1, 512, 1024) for at in range(5)]
    theirs = [np.fromfile(recorded_module / f"mod5_conv{at}.bin", "<f4").reshape(512, 1024) for at in range(5)]
    params = SmxParams(pedestal=FILES, gain=FILES, beam_center=(-30.0, 70.0), connected=3)
    pipeline = Smx(params, jungfrau(1, gap_pixels=False), device, read)
    ours = pipeline.process(tuple(Frame(at, words, 1, 0.0) for at, words in enumerate(raw)))
    pipeline.close()
    bad = np.stack([(read[f"pedestal.{stage}"] <= 0) | (read[f"pedestal.{stage}"] >= 16383) for stage in range(3)])
    return np.concatenate(raw), np.stack(theirs), [frame.values for frame in ours.frames], bad.any(0).reshape(512, 1024)


def test_photons_agree_in_g0(results):
    raw, theirs, ours, _ = results
    dense = np.stack([values["dense"] for values in ours])
    compared = (raw >> 14 == 0) & (theirs > 0.5)
    with np.errstate(invalid="ignore"):
        agreeing = np.abs(dense - theirs)[compared] <= 1e-5 * theirs[compared]
    assert agreeing.mean() >= 0.999


def test_saturated_words_are_infinite(results):
    raw, theirs, ours, bad = results
    saturated = (raw == 0xC000) & ~bad
    assert saturated.any()
    dense = np.stack([values["dense"] for values in ours])
    assert np.isposinf(dense[saturated]).all()
    assert (theirs[saturated] == 32678).all()


def test_only_bad_pixels_are_masked(results):
    _, _, ours, bad = results
    for values in ours:
        np.testing.assert_array_equal(np.isnan(values["dense"]), bad)
    assert 0 < bad.mean() < 1e-3


def test_every_frame_is_a_hit(results):
    _, _, ours, _ = results
    assert all(values["is_hit"] for values in ours)
    assert all(values["n_peaks"] > 60 for values in ours)
