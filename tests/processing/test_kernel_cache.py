"""Kernels that a second process takes from the cache give the same numbers.

Some kernels lose their names on the way through PoCL's cache, so the first use of a cache shows nothing about the
second.
"""

import os
import subprocess
import sys

import pytest

CODE = """
import hashlib
import numpy as np
from lima2_processing.device import open_device
from lima2_processing.calibration import CalibrationFile
from lima2_processing.frame import Frame
from lima2_processing.layouts import grid
from lima2_processing.pipelines.smx import Smx
from lima2_processing.pipelines.smx_params import SmxParams

spec = grid((2, 1), (64, 64), (32, 32), gap_pixels=True, module_gap=(2, 0))
rng = np.random.default_rng(0)
pedestal = np.repeat([[2500.0], [14000.0], [14500.0]], 8192, axis=1)
gain = np.repeat([[500.0], [-18.0], [-1.4]], 8192, axis=1)
raw = (2500 + 500 * rng.poisson(2, spec.shape)).astype(np.uint16)
raw[:, 20:23, 40:43] += 5000
file = (CalibrationFile("/x"),)
params = SmxParams(pedestal=file, gain=file, n_bins=20)
with open_device() as device:
    pipeline = Smx(params, spec, device, {"pedestal.0": pedestal, "gain.0": gain})
    values = pipeline.process((Frame(0, raw, 3, 0.0),)).frames[0].values
    pipeline.close()
digest = hashlib.sha256()
for name in ("dense", "background_avg", "background_std", "peaks"):
    digest.update(values[name].tobytes())
digest.update(values["sparse"].index.tobytes() + values["sparse"].intensity.tobytes())
print(int(values["n_peaks"]), digest.hexdigest())
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("kernels")


def run(cache, threads=2):
    settings = {"POCL_CACHE_DIR": str(cache), "POCL_MAX_PTHREAD_COUNT": str(threads), "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env={**os.environ, **settings}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_second_process_on_the_same_cache_gives_the_same(cache):
    first = run(cache)
    assert first.startswith("2 ")
    assert run(cache) == first


def test_one_thread_gives_the_same(cache):
    assert run(cache, threads=1) == run(cache)
