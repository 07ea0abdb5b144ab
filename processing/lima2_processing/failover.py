"""Going on with a pipeline on the CPU when its device fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

import msgspec
import numpy as np

from .errors import DeviceError
from .frame import Accumulated, Batch, Constant, FrameResult, Output, OutputKind, PipelineFacts, Results
from .pipeline import Pipeline

log = logging.getLogger(__name__)

STREAM = "results"
OUTPUT = Output("fallback", OutputKind.SCALAR, "|u1", (), STREAM, "", "processed on the CPU: the device had failed")


class Failover:
    """A pipeline that is made anew on a spare device when its own fails, with the frames in flight done again.

    It adds the output ``fallback`` to those of a pipeline that has a stream ``results``: 1 for frames that the spare
    device did. Used by one thread, as pipelines are.

    :param pipeline: on the device that was chosen.
    :param spare: makes the same pipeline on the CPU; called once at most.
    :param keep: takes the pipeline back when it is not needed any more and its device has not failed; False: it is to
        be closed.
    """

    def __init__(
        self,
        pipeline: Pipeline[msgspec.Struct],
        spare: Callable[[], Pipeline[msgspec.Struct]],
        keep: Callable[[], bool] = lambda: False,
    ) -> None:
        self._pipeline = pipeline
        self._spare = spare
        self._keep = keep
        self._failed = ""  # why the device is not used any more
        self._closed = False
        self._tells = any(output.stream == STREAM for output in pipeline.outputs())

    def outputs(self) -> tuple[Output, ...]:
        """Return the pipeline's outputs, and ``fallback``."""
        return self._pipeline.outputs() + ((OUTPUT,) if self._tells else ())

    def constants(self) -> tuple[Constant, ...]:
        """Return the pipeline's constants."""
        return self._pipeline.constants()

    def facts(self) -> PipelineFacts:
        """Return the facts of the pipeline on the device that was chosen."""
        return self._pipeline.facts()

    @property
    def device_bytes(self) -> int:
        """Bytes that it takes on the device that was chosen; 0 once it is closed or goes on with the CPU."""
        return 0 if self._closed or self._failed else self._pipeline.facts().device_bytes

    def process(self, frames: Batch) -> Results:
        """Process a batch.

        :raises ProcessingError: it could not be processed, by neither device.
        """
        try:
            return self._tell(self._pipeline.process(frames))
        except DeviceError as error:
            if self._failed:
                raise
            self._fail_over(error)
        return self._tell(self._pipeline.process(frames))

    def finish(self) -> tuple[Accumulated, ...]:
        """Return what is still being accumulated; what a lost device had of it is lost.

        :raises ProcessingError: the device failed.
        """
        return self._pipeline.finish()

    def close(self) -> None:
        """Free what the pipeline holds, unless it is kept. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._failed or not self._keep():
            self._pipeline.close()

    def _fail_over(self, error: DeviceError) -> None:
        log.error("%s; going on with the CPU", error)
        self._failed = str(error)
        with suppress(Exception):  # a lost device may refuse even to be let go
            self._pipeline.close()
        self._pipeline = self._spare()

    def _tell(self, results: Results) -> Results:
        if not self._tells:
            return results
        mark = np.array(bool(self._failed), np.uint8)
        return Results(
            tuple(
                FrameResult(frame.index, {**frame.values, OUTPUT.name: mark}, frame.vetoed) for frame in results.frames
            ),
            results.accumulated,
        )
