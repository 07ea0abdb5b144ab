"""A pipeline that is as slow, or as faulty, as a test wants it: installed where this folder is in ``PYTHONPATH``."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from lima2_processing.errors import ProcessingError
from lima2_processing.frame import Batch, FrameResult, Output, OutputKind, PipelineFacts, Results
from lima2_processing.pipeline import Pipeline, PipelinePlugin

SECONDS = 60.0


class HeldParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a test wants.

    :param hold: path of a file: frames wait while it is there; empty: they don't.
    :param fail: ``frames``: what it is given can't be processed; ``bug``: it raises what nobody expects.
    :param hold_prepare: path of a file: the pipeline is not made while it is there; its name with ``_begun`` is made
        when that is waited for.
    :param memory: bytes that it takes of the device.
    """

    hold: str = ""
    fail: Literal["", "frames", "bug"] = ""
    hold_prepare: str = ""
    memory: int = 0


class HeldPipeline(Pipeline[HeldParams]):
    """Sums the pixels of each frame."""

    params_type = HeldParams

    def __init__(self, params, spec, device, files, batch=1):
        super().__init__(params, spec, device, files, batch)
        if params.hold_prepare:
            Path(f"{params.hold_prepare}_begun").touch()
        _wait_while(params.hold_prepare)
        self._buffer = device.allocate(params.memory) if params.memory else None

    def facts(self):
        return PipelineFacts(self.device.name, self.params.memory)

    def close(self):
        self._buffer = None

    def outputs(self):
        return (Output("total", OutputKind.SCALAR, "<u8", (), "results", hinted=True),)

    def process(self, frames: Batch) -> Results:
        _wait_while(self.params.hold)
        if self.params.fail == "frames":
            raise ProcessingError("it fails, as the test wants")
        if self.params.fail == "bug":
            raise ZeroDivisionError("a bug, as the test wants")
        return Results(
            tuple(FrameResult(frame.index, {"total": np.array(frame.data.sum(dtype=np.uint64))}) for frame in frames)
        )


def _wait_while(path: str) -> None:
    """Wait while a file is there."""
    waited = threading.Event()
    for _ in range(int(SECONDS / 0.01)):
        if not (path and Path(path).exists()):
            return
        waited.wait(0.01)
    raise ProcessingError(f"{path} is still there after {SECONDS:g} s")


PLUGIN = PipelinePlugin("held", HeldParams, "lima2_stand_in_pipelines:HeldPipeline", ("results",))
