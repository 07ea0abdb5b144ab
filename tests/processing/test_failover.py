"""A device that fails in the middle of a run: the frames in flight are done again on the CPU."""

import numpy as np
import pytest

from lima2_processing.device import open_cpu
from lima2_processing.errors import DeviceError, ProcessingError
from lima2_processing.failover import Failover
from lima2_processing.frame import Frame, FrameResult, FrameSpec, Output, OutputKind, Results
from lima2_processing.pipelines.smx import Smx
from lima2_processing.pipelines.smx_params import SmxParams
from lima2_processing.testing import check_result

TOTAL = Output("total", OutputKind.SCALAR, "<f8", (), "results")


class Fake:
    """Gives a number with each frame; fails from a frame on."""

    def __init__(self, number, fails_at=1_000, error=DeviceError, output=TOTAL):
        self.number, self.fails_at, self.error, self.output = number, fails_at, error, output
        self.closed = 0

    def outputs(self):
        return (self.output,)

    def constants(self):
        return ()

    def process(self, frames):
        if any(frame.index >= self.fails_at for frame in frames):
            raise self.error("the device is gone")
        return Results(tuple(FrameResult(f.index, {"total": np.array(self.number + f.index)}) for f in frames))

    def close(self):
        self.closed += 1
        if self.closed and self.error is DeviceError and self.fails_at < 1_000:
            raise RuntimeError("CL_DEVICE_NOT_AVAILABLE")


def batch(*indices):
    return tuple(Frame(index, np.zeros((2, 2)), 1, 0.0) for index in indices)


def values(results):
    return [(one.index, float(one.values["total"]), int(one.values["fallback"])) for one in results.frames]


def test_frames_in_flight_are_done_again_on_the_spare_and_say_so():
    first, spare = Fake(0.0, fails_at=3), Fake(100.0)
    pipeline = Failover(first, lambda: spare)
    assert [output.name for output in pipeline.outputs()] == ["total", "fallback"]
    assert values(pipeline.process(batch(0, 1))) == [(0, 0, 0), (1, 1, 0)]
    assert values(pipeline.process(batch(2, 3))) == [(2, 102, 1), (3, 103, 1)]
    assert values(pipeline.process(batch(4))) == [(4, 104, 1)]
    pipeline.close()
    assert (first.closed, spare.closed) == (1, 1)


def test_there_is_one_spare_only():
    spares = [Fake(100.0, fails_at=5)]
    pipeline = Failover(Fake(0.0, fails_at=3), spares.pop)
    pipeline.process(batch(3))
    with pytest.raises(DeviceError, match="gone"):
        pipeline.process(batch(5))


def test_other_errors_are_the_frames_own():
    pipeline = Failover(Fake(0.0, fails_at=3, error=ProcessingError), lambda: pytest.fail("no device failed"))
    with pytest.raises(ProcessingError):
        pipeline.process(batch(3))
    assert values(pipeline.process(batch(1))) == [(1, 1, 0)]


def test_a_pipeline_without_a_stream_of_results_stays_as_it_is():
    output = Output("total", OutputKind.IMAGE, "<f8", (2, 2), "dense")
    pipeline = Failover(Fake(0.0, output=output), Fake)
    assert pipeline.outputs() == (output,)
    assert pipeline.process(batch(1)).frames[0].values.keys() == {"total"}


def test_the_same_peaks_on_a_cpu_after_the_device_was_lost(device, monkeypatch):
    data = np.random.default_rng(0).poisson(2, (200, 220)).astype(np.uint16)
    data[50:52, 60:62] += 300
    spec, params = FrameSpec(data.shape, "<u2"), SmxParams(n_bins=20)
    frames = tuple(Frame(index, data, 1, 0.0) for index in range(2))

    with open_cpu() as cpu:
        pipeline = Failover(Smx(params, spec, device, {}, 2), lambda: Smx(params, spec, cpu, {}, 2))
        before = pipeline.process(frames).frames
        monkeypatch.setattr(device, "allocate", lambda nbytes: 0)
        monkeypatch.setattr(pipeline._pipeline._work.peaks, "run", lost)
        after = pipeline.process(frames).frames
        for one, other in zip(before, after, strict=True):
            check_result(other, pipeline.outputs())
            assert (one.values["fallback"], other.values["fallback"]) == (0, 1)
            np.testing.assert_array_equal(one.values["peaks"], other.values["peaks"])
            np.testing.assert_array_equal(one.values["sparse"].index, other.values["sparse"].index)
        pipeline.close()


def lost(*_):
    raise DeviceError("CL_OUT_OF_RESOURCES")
