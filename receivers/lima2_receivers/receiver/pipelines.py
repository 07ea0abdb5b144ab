"""Pipelines of a receiver: made at prepare, and kept for the next acquisition that wants the same.

To make one takes seconds where frames are large: calibration is read, the geometry of every pixel computed, all of it
sent to the device. Nothing of that changes from one acquisition to the next of a series.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from lima2_processing.errors import DeviceMemoryError, ParameterError, ProcessingError
from lima2_processing.failover import Failover
from lima2_processing.frame import AcquisitionId, FrameSpec
from lima2_processing.pipeline import Calibration, Pipeline

from ..config import Config
from ..errors import PipelineError, PlanError, ReceiverError
from ..plan import PipelineChoice
from ..plugins import PIPELINES, decode_pipeline
from .calibration import load_calibration
from .device_memory import DeviceMemory, Room

if TYPE_CHECKING:
    from lima2_processing.device import Device

    from .ring import FrameRing

log = logging.getLogger(__name__)

_Key = tuple[str, bytes]  # name, and parameters, in which calibration files have their hashes


class PipelineMaker:
    """Makes the pipelines of one receiver. Its methods block; any thread may call them.

    :param config: of the detector's daemons.
    :param rank: of this receiver.
    :param ring: where frames wait.
    """

    def __init__(self, config: Config, rank: int, ring: FrameRing) -> None:
        self._config = config
        self._rank = rank
        self._receiver = config.receivers[rank]
        self._ring = ring
        self._device: Device | None = None
        self._memory = DeviceMemory(f"receiver {rank}")
        self._lock = threading.Lock()
        self._loaded: tuple[_Key, Mapping[str, Calibration]] | None = None  # by a check, for what is made next
        self._idle: tuple[_Key, Pipeline[msgspec.Struct]] | None = None

    def check(self, choice: PipelineChoice) -> None:
        """See whether a pipeline's calibration files are there, and are those that the plan means.

        :raises PlanError: they aren't.
        """
        key = _key(choice)
        with self._lock:
            if self._idle is not None and self._idle[0] == key:  # made from the same bytes
                return
            if self._loaded is not None and self._loaded[0] == key:
                return
        calibration = load_calibration(decode_pipeline(choice), self._config.calibration_roots)
        with self._lock:
            self._loaded = key, calibration

    def make(self, acquisition: AcquisitionId, choice: PipelineChoice, spec: FrameSpec) -> Failover:
        """Make a pipeline, or take the one that is kept, if it is the same.

        :param spec: of the frames.
        :raises ReceiverError: parameters do not fit, or the device has no room.
        """
        device = self._open_device()
        kept = self._take_idle(_key(choice), spec, device)
        files = None if kept else self._take_loaded(choice)
        params = decode_pipeline(choice)
        kind = PIPELINES.get(choice.name).load()

        def build(on: Device) -> Pipeline[msgspec.Struct]:
            held = self._take_loaded(choice) if files is None else files
            return kind(params, spec, on, held, self._receiver.batch)

        try:
            try:
                pipeline = kept or build(device)
            except DeviceMemoryError as error:
                raise self._memory.explain(error, self._room(device)) from error
            made = Failover(pipeline, lambda: build(self._open_spare()), lambda: self._keep(choice, pipeline))
        except ParameterError as error:
            raise PlanError(str(error)) from error
        except ProcessingError as error:
            raise PipelineError(f"receiver {self._rank}: {error}") from error
        try:
            self._memory.admit(acquisition, made, self._room(device))
        except ReceiverError:
            pipeline.close()
            raise
        return made

    def close(self) -> None:
        """Close the pipeline that is kept."""
        with self._lock:
            idle, self._idle = self._idle, None
        if idle is not None:
            idle[1].close()

    def _take_loaded(self, choice: PipelineChoice) -> Mapping[str, Calibration]:
        """Return what calibration files hold; what a check has read is let go."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
        if loaded is not None and loaded[0] == _key(choice):
            return loaded[1]
        return load_calibration(decode_pipeline(choice), self._config.calibration_roots)

    def _take_idle(self, key: _Key, spec: FrameSpec, device: Device) -> Pipeline[msgspec.Struct] | None:
        """Return the pipeline that is kept, where it is the one that is wanted; else make room on the device."""
        with self._lock:
            idle, self._idle = self._idle, None
        if idle is None:
            return None
        found, pipeline = idle
        if found == key and pipeline.spec == spec and pipeline.device is device:
            return pipeline
        pipeline.close()
        return None

    def _keep(self, choice: PipelineChoice, pipeline: Pipeline[msgspec.Struct]) -> bool:
        """Keep a pipeline that an acquisition does not need any more, in the place of another; False: it can't be."""
        if pipeline.device is not self._device or not pipeline.renew():
            return False
        with self._lock:
            former, self._idle = self._idle, (_key(choice), pipeline)
        if former is not None:
            former[1].close()
        return True

    def _room(self, device: Device) -> Room:
        """Return how much of the device this receiver may use."""
        limit = self._receiver.opencl.memory
        ring = self._ring.memory.nbytes if device.is_host else 0
        if limit and limit < device.memory:
            return Room(device.name, limit, f"receivers[{self._rank}].opencl.memory", ring)
        return Room(device.name, device.memory, "all it has", ring)

    def _open_device(self) -> Device:
        """Return this process's device, opened when first needed and kept for all acquisitions."""
        from lima2_processing.device import open_device  # imports OpenCL, which the daemon's settings must precede

        try:
            device = self._device or open_device(self._receiver.opencl.device)
        except ProcessingError as error:
            raise PipelineError(f"receiver {self._rank}: {error}") from error
        if self._device is None:
            log.info("OpenCL device: %s", device.name)
        self._device = device
        return device

    def _open_spare(self) -> Device:
        """Return a new CPU device, for an acquisition whose device failed; the next acquisition chooses again."""
        from lima2_processing.device import open_cpu  # see above

        self._device = None
        return open_cpu()


def _key(choice: PipelineChoice) -> _Key:
    return choice.name, bytes(choice.params)
