"""What every pipeline promises, as tests that its author inherits. Needs pytest."""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
import pytest

from .device import Device, open_device
from .errors import ProcessingError
from .frame import Batch, Frame, FrameIdx, FrameResult, FrameSpec, Output, OutputKind, SparseFrame
from .pipeline import Calibration, Pipeline, PipelinePlugin

_TIMEOUT = 60  # seconds for a fresh interpreter to import parameters


class PipelineContract(ABC):
    """Tests of a pipeline: subclass it as ``class TestMine(PipelineContract)`` and say what to run on which frames."""

    plugin: PipelinePlugin

    @abstractmethod
    def spec(self) -> FrameSpec:
        """Return what the frames of the tests look like."""

    @abstractmethod
    def frames(self) -> Batch:
        """Return three or more frames, numbered upwards, that look like ``spec``."""

    def parameters(self) -> msgspec.Struct:
        """Return the parameters to test with; all defaults unless replaced."""
        return self.plugin.params()

    def files(self) -> Mapping[str, Calibration]:
        """Return the contents of the parameters' calibration files; none unless replaced."""
        return {}

    @pytest.fixture
    def device(self) -> Iterator[Device]:
        """Yield the device that pipelines run on."""
        with open_device() as device:
            yield device

    @pytest.fixture
    def pipeline(self, device: Device) -> Iterator[Pipeline[msgspec.Struct]]:
        """Yield a new pipeline."""
        pipeline = self.make(device)
        yield pipeline
        pipeline.close()

    def make(self, device: Device) -> Pipeline[msgspec.Struct]:
        """Return a new pipeline on the device."""
        return self.plugin.load()(self.parameters(), self.spec(), device, self.files())

    def test_streams_are_those_that_the_plugin_names(self, pipeline: Pipeline[msgspec.Struct]) -> None:
        """Outputs and constants go to streams that are known before the pipeline is made."""
        used = {output.stream for output in pipeline.outputs()} | {one.stream for one in pipeline.constants()}
        assert used <= set(self.plugin.streams)  # noqa: S101 - a test

    def test_outputs_are_declared_once(self, pipeline: Pipeline[msgspec.Struct]) -> None:
        """Names are unique, types parse, only scalars are hinted, and asking again gives the same."""
        outputs = pipeline.outputs()
        names = [output.name for output in outputs] + [constant.name for constant in pipeline.constants()]
        _check(bool(outputs), "no outputs")
        _check(len(set(names)) == len(names), f"a name is there twice: {names}")
        _check(outputs == pipeline.outputs(), "outputs() is not the same when asked again")
        for output in outputs:
            _check(np.dtype(output.dtype).str == output.dtype, f"{output.name}: {output.dtype!r} has no byte order")
            _check(not output.hinted or output.kind is OutputKind.SCALAR, f"{output.name}: hinted, but no scalar")
            _check((output.kind is OutputKind.SCALAR) == (output.shape == ()), f"{output.name}: {output.shape}")

    def test_results_are_as_declared(self, pipeline: Pipeline[msgspec.Struct]) -> None:
        """One result a frame, in order, with a value of the declared shape and type for each output."""
        frames = self.frames()
        results = pipeline.process(frames)
        _check([result.index for result in results.frames] == [frame.index for frame in frames], "wrong frames")
        for result in results.frames:
            check_result(result, pipeline.outputs())

    def test_batches_change_nothing(self, pipeline: Pipeline[msgspec.Struct]) -> None:
        """A batch gives what its frames give one by one."""
        together = pipeline.process(self.frames()).frames
        alone = [pipeline.process((frame,)).frames[0] for frame in self.frames()]
        for batched, single in zip(together, alone, strict=True):
            check_same(batched, single)

    def test_results_outlive_the_next_batch(self, pipeline: Pipeline[msgspec.Struct]) -> None:
        """What was given out doesn't change when the pipeline goes on, nor when the frame's memory is used again."""
        first, *others = self.frames()
        lent = Frame(first.index, first.data.copy(), first.modules, first.timestamp)
        kept = pipeline.process((lent,)).frames[0]
        lent.data[...] = 0
        pipeline.process(tuple(others))
        check_same(kept, pipeline.process((first,)).frames[0])

    def test_two_at_a_time(self, device: Device) -> None:
        """Two acquisitions on one device don't disturb each other."""
        one, other = self.make(device), self.make(device)
        first, second = self.frames()[:2]
        results = [one.process((first,)), other.process((second,)), one.process((second,)), other.process((first,))]
        one.close()
        check_same(results[0].frames[0], results[3].frames[0])
        check_same(results[1].frames[0], results[2].frames[0])
        check_same(other.process((first,)).frames[0], results[0].frames[0])
        other.close()

    def test_wrong_frames_are_refused(self, pipeline: Pipeline[msgspec.Struct]) -> None:
        """A frame of another shape or type is an error, and the pipeline goes on with the next one."""
        frame = self.frames()[0]
        for wrong in (frame.data[..., :-1], frame.data.astype(np.complex64)):
            with pytest.raises(ProcessingError):
                pipeline.process((Frame(FrameIdx(0), wrong, frame.modules, 0.0),))
        check_result(pipeline.process((frame,)).frames[0], pipeline.outputs())

    def test_closing_twice_is_allowed(self, device: Device) -> None:
        """Closing is idempotent."""
        pipeline = self.make(device)
        pipeline.close()
        pipeline.close()

    def test_parameters_survive_the_wire(self) -> None:
        """Parameters come back equal from MessagePack, and a misspelt one is refused."""
        parameters, kind = self.parameters(), self.plugin.params
        _check(msgspec.msgpack.decode(msgspec.msgpack.encode(parameters), type=kind) == parameters, "changed")
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode({"no_such_parameter": 1}), type=kind)

    def test_parameters_need_no_opencl(self) -> None:
        """The module that holds the parameters imports where there is no OpenCL."""
        module = self.plugin.params.__module__
        code = f"import sys; sys.modules['pyopencl'] = None; import {module}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_TIMEOUT)
        _check(done.returncode == 0, done.stderr)


def check_result(result: FrameResult, outputs: tuple[Output, ...]) -> None:
    """Check one frame's values against the declaration.

    :raises AssertionError: a value is missing, not declared, or of another shape or type.
    """
    declared = {output.name: output for output in outputs}
    needed = {output.name for output in outputs if not output.optional}
    good = needed <= result.values.keys() <= declared.keys()
    _check(good, f"got {sorted(result.values)}, declared {sorted(declared)}")
    for name, value in result.values.items():
        output = declared[name]
        if isinstance(value, SparseFrame):
            _check(output.kind is OutputKind.SPARSE, f"{name}: a sparse frame, declared {output.kind}")
            _check(value.index.dtype == np.uint32, f"{name}: index of {value.index.dtype}, expected uint32")
            _check(value.intensity.dtype.str == output.dtype, f"{name}: {value.intensity.dtype}")
            _check(value.index.shape == value.intensity.shape, f"{name}: index and intensity of different length")
            _check(bool((np.diff(value.index.astype(np.int64)) > 0).all()), f"{name}: index is not ascending")
            _check(bool((value.index < np.prod(output.shape)).all()), f"{name}: index beyond the image")
        else:
            _check(output.kind is not OutputKind.SPARSE, f"{name}: an array, declared sparse")
            _check(value.dtype.str == output.dtype, f"{name}: {value.dtype.str}, declared {output.dtype}")
            _check(value.shape == output.shape, f"{name}: {value.shape}, declared {output.shape}")


def check_same(one: FrameResult, other: FrameResult) -> None:
    """Check that two results are the same, bit by bit.

    :raises AssertionError: they are not.
    """
    _check((one.index, one.vetoed) == (other.index, other.vetoed), "another frame or decision")
    for name, value in one.values.items():
        twin = other.values[name]
        if isinstance(value, SparseFrame) and isinstance(twin, SparseFrame):
            np.testing.assert_array_equal(value.index, twin.index, err_msg=name)
            np.testing.assert_array_equal(value.intensity, twin.intensity, err_msg=name)
        else:
            np.testing.assert_array_equal(value, twin, err_msg=name)


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
