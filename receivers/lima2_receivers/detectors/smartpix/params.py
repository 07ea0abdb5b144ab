"""What a Smartpix can be told: where and what it is (settings), and what one acquisition asks of it (parameters)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from lima2_processing.frame import FrameSpec, ModuleLayout

from ...control import TransferSettings
from ...errors import PlanError
from .descriptors import Descriptor, Roi

CHIP = 256  # rows and columns of a Medipix3RX
MAX_CHIPS = 8  # of a module
PIXEL = 55e-6  # metres
DTYPES = {6: "|u1", 12: "<u2", 24: "<u4"}  # that counters of so many bits are sent as
MAIN = 0  # channel of the stream that receivers take; the further ones follow
NonNegative = Annotated[int, Meta(ge=0)]


class SmartpixParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan may ask of a Smartpix.

    Receivers take the main stream, which goes to all of them in turn. Its frames are those of the acquisition: with
    ``every``, the detector exposes as many times more.

    :param depth: bits of a pixel's counter: 6, sent as 8; 12, sent as 16; 24, sent as 32. A full counter stays full.
    :param module: number of the module that is sent.
    :param roi: (row, col, height, width) of the module's image, gaps between chips included, where pixels have the
        largest value of their type; empty: all chips as they are read out.
    :param every: of so many frames, the first is sent.
    :param streams: further streams that the detector sends at the same time. They share the receivers' transfer rings;
        receivers tell them apart, count them, and do not save them.
    """

    depth: Literal[6, 12, 24] = 12
    module: NonNegative = 0
    roi: tuple[int, ...] = ()
    every: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    streams: Annotated[tuple[Descriptor, ...], Meta(max_length=15)] = ()


class SmartpixSettings(TransferSettings, frozen=True, forbid_unknown_fields=True):
    """The Smartpix's table in the configuration.

    The receivers' ``data`` is ``rashpa:///NAME``, a name on this host that each has for itself.

    :param control: endpoint of the simulated detector's commands.
    :param folder: absolute folder for the simulated detector's journals.
    :param modules: how many there are, all alike.
    :param chips: of a module (down, across), 8 at most, each of 256 x 256 pixels.
    :param chip_gap: pixels of the image between neighbouring chips (rows, cols).
    :param positions: image position (row, col) of each chip's first pixel, one after the other in the order of the
        readout, instead of ``chips`` and ``chip_gap``; empty: those hold.
    """

    control: str
    folder: str
    modules: Annotated[int, Meta(ge=1, le=64)] = 1
    chips: tuple[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=1)]] = (2, 4)
    chip_gap: tuple[Annotated[int, Meta(ge=0, le=1000)], Annotated[int, Meta(ge=0, le=1000)]] = (0, 0)
    positions: tuple[Annotated[int, Meta(ge=0, le=10_000)], ...] = ()

    def __post_init__(self) -> None:
        if len(self.positions) % 2:
            raise ValueError(f"positions: got {len(self.positions)} numbers, expected two a chip")
        n_chips = len(self.positions) // 2 or self.chips[0] * self.chips[1]
        if n_chips > MAX_CHIPS:
            raise ValueError(f"{'positions' if self.positions else 'chips'}: got {n_chips}, expected {MAX_CHIPS} chips")
        origins = self.origins
        for at, (row, col) in enumerate(origins):
            for other, (other_row, other_col) in enumerate(origins[:at]):
                if abs(row - other_row) < CHIP and abs(col - other_col) < CHIP:
                    raise ValueError(f"positions: chips {other} and {at} overlap, expected {CHIP} pixels between them")

    @property
    def origins(self) -> tuple[tuple[int, int], ...]:
        """Image position (row, col) of each chip's first pixel."""
        if self.positions:
            return tuple(zip(self.positions[::2], self.positions[1::2], strict=True))
        down, across = (CHIP + gap for gap in self.chip_gap)
        return tuple((row * down, col * across) for row in range(self.chips[0]) for col in range(self.chips[1]))

    @property
    def layout(self) -> ModuleLayout:
        """How the chips of a module form its image."""
        rows, cols = (max(axis) + CHIP for axis in zip(*self.origins, strict=True))
        return ModuleLayout(self.origins, (rows, cols), (CHIP, CHIP))


def descriptors(params: SmartpixParams) -> tuple[Descriptor, ...]:
    """Return all streams, each at the place of its channel's number; the main one is the first.

    :raises PlanError: ``roi`` is none.
    """
    roi: Roi | None = None
    if params.roi:
        if len(params.roi) != 4 or min(params.roi) < 0 or min(params.roi[2:]) < 1:
            raise PlanError(f"detector.roi: got {list(params.roi)}, expected [row, col, height, width]")
        roi = (params.roi[0], params.roi[1], params.roi[2], params.roi[3])
    return (Descriptor("main", params.module, roi, params.every), *params.streams)


def check_streams(settings: SmartpixSettings, params: SmartpixParams, slot_bytes: tuple[int, ...]) -> None:
    """See whether a detector can send the streams that a plan asks for.

    :param slot_bytes: of each receiver's transfer ring, in the order of ranks.
    :raises PlanError: it can't; the message says why.
    """
    rows, cols = settings.layout.image_shape
    names: set[str] = set()
    for channel, one in enumerate(descriptors(params)):
        place = "detector" if channel == MAIN else f"detector.streams[{channel - 1}]"
        if one.name in names:
            raise PlanError(f"{place}.name: got {one.name!r}, which another stream has, expected one of its own")
        names.add(one.name)
        if one.module >= settings.modules:
            raise PlanError(f"{place}.module: got {one.module}, the detector has {settings.modules}")
        if one.roi is not None and (one.roi[0] + one.roi[2] > rows or one.roi[1] + one.roi[3] > cols):
            raise PlanError(f"{place}.roi: got {list(one.roi)}, expected it within the image of {rows} x {cols} pixels")
        for rank in one.destinations or range(len(slot_bytes)):
            if rank >= len(slot_bytes):
                raise PlanError(f"{place}.destinations: got {rank}, there are {len(slot_bytes)} receivers")
            nbytes = frame_spec(settings, one, params.depth).nbytes
            if nbytes > slot_bytes[rank]:
                raise PlanError(
                    f"{place}: frames of {nbytes} bytes do not fit the ring: "
                    f"receivers[{rank}].ring.slot_bytes is {slot_bytes[rank]}"
                )


def frame_spec(settings: SmartpixSettings, stream: Descriptor, depth: int) -> FrameSpec:
    """Return what the frames of a stream look like: (chips, 256, 256), or the image of a ROI.

    :param depth: bits of a counter; see ``SmartpixParams``.
    """
    dtype, size = DTYPES[depth], (PIXEL, PIXEL)
    if stream.roi is not None:
        return FrameSpec(stream.roi[2:], dtype, pixel_size=size)
    return FrameSpec((len(settings.origins), CHIP, CHIP), dtype, settings.layout, size)
