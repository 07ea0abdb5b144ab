"""What a pipeline and its stages promise, and how a plugin names one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from .frame import Accumulated, Batch, Constant, FrameSpec, Output, PipelineFacts, Results

if TYPE_CHECKING:
    import pyopencl as cl

    from .device import Device

P = TypeVar("P", bound=msgspec.Struct)

Calibration = NDArray[np.generic] | str
"""What a CalibrationFile held: an array, or the text of a PONI file."""


class Pipeline(ABC, Generic[P]):
    """What is done to the frames of one acquisition on one receiver.

    Made at prepare, so that everything that can be refused is refused then; used by one thread.

    :param params: the plan's parameters.
    :param spec: what the frames look like.
    :param device: where the kernels run.
    :param files: what the parameters' CalibrationFile fields held, by dotted field name with the position for
        tuples: ``{"poni": "...", "pedestal.0": array}``.
    :param batch: frames that go through the device together at most; ``process`` may get more, and takes them in turns.
    :raises ParameterError: a parameter or calibration does not fit.
    """

    params_type: ClassVar[type[msgspec.Struct]]

    def __init__(
        self, params: P, spec: FrameSpec, device: Device, files: Mapping[str, Calibration], batch: int = 1
    ) -> None:
        self.params = params
        self.spec = spec
        self.device = device
        self.batch = batch

    @abstractmethod
    def outputs(self) -> tuple[Output, ...]:
        """Return everything this pipeline makes of a frame: the one declaration of names, types and shapes."""

    def constants(self) -> tuple[Constant, ...]:
        """Return what is saved once for the acquisition."""
        return ()

    def facts(self) -> PipelineFacts:
        """Return what people want to know. The default names the device."""
        return PipelineFacts(self.device.name)

    @abstractmethod
    def process(self, frames: Batch) -> Results:
        """Process a batch of one or more frames and return when the results are on the host.

        Frames come in ascending order, from batch to batch, but for a few that were held up on their way.

        :raises ProcessingError: the batch could not be processed; its frames count as failed.
        """

    def finish(self) -> tuple[Accumulated, ...]:
        """Return what is still being accumulated, once no more frames come. The default accumulates nothing.

        :raises ProcessingError: the device failed.
        """
        return ()

    def renew(self) -> bool:
        """Forget all frames, so that the next acquisition may use this pipeline; False: it can't. The default can't."""
        return False

    def close(self) -> None:
        """Free what the pipeline holds on the device. The default holds nothing."""
        return


class Stage(Protocol):
    """One step of a pipeline on the device: frames in, frames out, no transfer to the host."""

    def resolve(self, spec: FrameSpec) -> FrameSpec:
        """Return what this stage makes of frames like ``spec``.

        :raises ParameterError: it cannot work on such frames.
        """
        ...

    def enqueue(self, queue: cl.CommandQueue, frames: cl.Buffer, n_frames: int) -> cl.Buffer:
        """Enqueue the work on ``n_frames`` frames lying one after the other in ``frames``.

        :returns: the stage's own buffer with the result, valid until its next call.
        """
        ...


def _always(params: Any) -> str:
    del params
    return "it is made for whole frames"


class PipelinePlugin(msgspec.Struct, frozen=True):
    """A pipeline's name, parameters and place. The module that holds one must import without OpenCL.

    :param name: as plans give it.
    :param params: frozen struct of the parameters, each with a default, unit and meaning.
    :param implementation: ``module:class`` of the Pipeline, imported only on a receiver.
    :param streams: every stream that its outputs may go to, known before the pipeline is made.
    :param whole_frames: tells why parameters need whole frames; empty: receivers that have some modules of every frame
        may run it, each on its part, as ``FrameSpec.part`` says. The default: always.
    """

    name: str
    params: type[msgspec.Struct]
    implementation: str
    streams: tuple[str, ...]
    whole_frames: Callable[[Any], str] = _always

    def load(self) -> type[Pipeline[msgspec.Struct]]:
        """Import and return the Pipeline class."""
        module, _, name = self.implementation.partition(":")
        return getattr(import_module(module), name)
