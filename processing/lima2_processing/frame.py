"""Frames, what they look like, and what a pipeline makes of them: the values that cross every floor."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import NewType

import msgspec
import numpy as np
from numpy.typing import NDArray

FrameIdx = NewType("FrameIdx", int)
"""The detector's number of a frame; 0 is the acquisition's first."""
LocalIdx = NewType("LocalIdx", int)
"""The row of a frame in the files of the receiver that owns it."""
ReceiverIdx = NewType("ReceiverIdx", int)
"""The rank of a receiver in its detector's configuration."""
AcquisitionId = NewType("AcquisitionId", str)
"""The UUID of an acquisition, as 32 hexadecimal digits."""


class ModuleLayout(msgspec.Struct, frozen=True):
    """Where the modules of a tiled detector lie in the assembled image.

    :param origins: image position (row, col) of each module's first pixel, in the order of the raw frame.
    :param image_shape: the assembled image (rows, cols), gaps between modules included.
    :param chip_shape: pixels (rows, cols) of one readout chip in the raw module.
    :param chip_gap: image pixels added between neighbouring chips, 0 or 2. With 2, the double-size pixels at
        chip edges spread over two image pixels, each getting half of the charge (a quarter at chip corners).
    """

    origins: tuple[tuple[int, int], ...]
    image_shape: tuple[int, int]
    chip_shape: tuple[int, int]
    chip_gap: int = 0


class Part(msgspec.Struct, frozen=True):
    """Which part of a detector's frames one receiver has, where each has some modules of every frame.

    :param first: the first of its modules; how many it has, the FrameSpec says.
    :param origin: position (row, col) of the part's image in that of the whole detector.
    :param image_shape: of the whole detector's image (rows, cols).
    :param n_modules: of the whole detector.
    """

    first: int
    origin: tuple[int, int]
    image_shape: tuple[int, int]
    n_modules: int


class PixelKind(StrEnum):
    """What the number in a raw pixel is."""

    VALUE = "value"  # counts, or a value that is ready to use
    GAIN_ADC = "gain_adc"  # Jungfrau's: gain stage in the upper 2 bits, ADC in the lower 14; useless before correction


class FrameSpec(msgspec.Struct, frozen=True):
    """What the frames of an acquisition look like, agreed before data flows.

    :param shape: (rows, cols), (channel, rows, cols), or (modules, rows, cols) where there is a layout.
    :param dtype: NumPy type string, such as ``<u2``.
    :param layout: how modules form the image; None where a frame is an image already.
    :param pixel_size: (rows, cols) in metres.
    :param pixels: what the numbers are.
    :param part: which part of the detector's frames these are; None: they are whole.
    """

    shape: tuple[int, ...]
    dtype: str
    layout: ModuleLayout | None = None
    pixel_size: tuple[float, float] = (75e-6, 75e-6)
    pixels: PixelKind = PixelKind.VALUE
    part: Part | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of one frame."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def n_modules(self) -> int:
        """Modules a complete frame has; 1 where there is no layout."""
        return len(self.layout.origins) if self.layout else 1

    @property
    def all_modules(self) -> int:
        """The ``Frame.modules`` bitmap of a complete frame."""
        return (1 << self.n_modules) - 1


@dataclass(frozen=True, slots=True)
class Frame:
    """One detector frame.

    :param index: the detector's number; lost frames leave gaps.
    :param data: pixels, shaped as the FrameSpec says; a view of memory that the receiver lends until the frame's
        results are out, so a stage that keeps pixels must copy them.
    :param modules: bitmap of the modules present; complete when equal to ``FrameSpec.all_modules``.
    :param timestamp: when the detector took it, or where it doesn't say, when it arrived; seconds since the epoch.
    """

    index: FrameIdx
    data: NDArray[np.generic]
    modules: int
    timestamp: float


Batch = tuple[Frame, ...]
"""One or more frames that go through the pipeline together."""


class OutputKind(StrEnum):
    """What one frame's value of an output is."""

    IMAGE = "image"  # (rows, cols) or more dimensions: one chunk a frame, may be compressed
    PROFILE = "profile"  # (n,): one row a frame
    TABLE = "table"  # (max rows, columns), padded with NaN
    SCALAR = "scalar"  # (): one number
    SPARSE = "sparse"  # a SparseFrame: any number of pixels


class Output(msgspec.Struct, frozen=True):
    """One thing that is saved, announced and shown for every frame. Declared once, by its pipeline.

    :param name: unique within the acquisition: the dataset's name and the data key's suffix.
    :param kind: what one frame's value is.
    :param dtype: NumPy type string; of the intensities for ``SPARSE``.
    :param shape: of one frame's value; () for a scalar; the image (rows, cols) for ``SPARSE``.
    :param stream: which file it is saved in; outputs of one stream share its saving parameters.
    :param unit: of the values, such as ``photons``; empty for counts and flags.
    :param label: for people: axis titles, table heads.
    :param hinted: shown in live tables by default; scalars only.
    :param optional: a frame may have none, and its row reads as fill; images only.
    :param window: 0: every frame has a value. Else it is accumulated: one value for so many frames of the acquisition
        in turn, of those that this receiver has; images and scalars only, and alike for all outputs of a stream.
    """

    name: str
    kind: OutputKind
    dtype: str
    shape: tuple[int, ...]
    stream: str
    unit: str = ""
    label: str = ""
    hinted: bool = False
    optional: bool = False
    window: int = 0

    @property
    def fill(self) -> int | float:
        """What rows without data read as: the maximum of unsigned, the minimum of signed types, NaN of floats."""
        return fill_value(self.dtype)


def fill_value(dtype: str) -> int | float:
    """Return what rows without data read as in datasets of this type."""
    kind = np.dtype(dtype)
    if kind.kind == "u":
        return int(np.iinfo(kind).max)
    if kind.kind == "i":
        return int(np.iinfo(kind).min)
    return float("nan")


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that holds for the whole acquisition and is saved once, such as the radius of each bin.

    :param name: the dataset's name, unique within the acquisition.
    :param data: the array, any shape.
    :param stream: which file it is saved in.
    :param unit: of the values.
    :param label: for people.
    """

    name: str
    data: NDArray[np.generic]
    stream: str
    unit: str = ""
    label: str = ""


class PipelineFacts(msgspec.Struct, frozen=True):
    """What people want to know of a pipeline that was made.

    :param device: name of what it runs on.
    :param device_bytes: memory that it took on the device when it was made. What depends on the frames may grow, up to
        a bound that its pipeline knows.
    :param pixels: number of pixels of the image, by what they are not used for, in words.
    """

    device: str = ""
    device_bytes: int = 0
    pixels: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class SparseFrame:
    """The pixels of one frame that stand above its background.

    :param index: flat row-major positions in the image, ascending, uint32 (n,).
    :param intensity: their values (n,).
    """

    index: NDArray[np.uint32]
    intensity: NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class FrameResult:
    """What the pipeline made of one frame.

    :param index: the frame's number.
    :param values: one value per declared output, by name; optional outputs may be missing.
    :param vetoed: True where the pipeline decided against this frame. What ``values`` holds is saved all the same.
    """

    index: FrameIdx
    values: dict[str, NDArray[np.generic] | SparseFrame]
    vetoed: bool = False


@dataclass(frozen=True, slots=True)
class Accumulated:
    """What a pipeline accumulated over the frames of one window that it was given.

    :param window: its number: window *k* of *n* frames has frames *k·n* to *(k + 1)·n - 1* of the acquisition.
    :param values: one value per declared output with a window, by name.
    """

    window: int
    values: dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Results:
    """The results of a batch, in the order of its frames.

    :param frames: one FrameResult a frame.
    :param accumulated: windows that are complete: no later batch has a frame of them.
    """

    frames: tuple[FrameResult, ...]
    accumulated: tuple[Accumulated, ...] = ()
