"""A device, the NumPy reference, and a way to run one stage."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pyopencl as cl
import pytest

from lima2_processing.device import open_device


def _load(name):
    spec = importlib.util.spec_from_file_location(f"lima2_tests_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_reference = _load("reference")


@pytest.fixture(scope="session")
def reference():
    """The same computations in plain NumPy."""
    return _reference


@pytest.fixture(scope="session", params=[False, True], ids=["long-items", "many-items"])
def device(request):
    """A device, with work cut up as for a CPU and as for a GPU, whatever it is."""
    with open_device(many_items=request.param) as opened:
        yield opened


@pytest.fixture(scope="session")
def download(device):
    """Copies a buffer to an array of a shape and type."""

    def run(buffer, shape, dtype=np.float32):
        host = np.empty(shape, dtype)
        cl.enqueue_copy(device.queue(), host, buffer)
        return host

    return run


@pytest.fixture(scope="session")
def run_stage(device, download):
    """Runs a stage on frames (n, ...) and returns its float32 result of one shape a frame."""

    def run(stage, frames, shape):
        queue = device.queue()
        result = stage.enqueue(queue, device.upload(frames), len(frames))
        queue.finish()
        return download(result, (len(frames), *shape))

    return run
