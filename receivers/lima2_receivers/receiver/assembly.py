"""Frames put together from packets, in ring slots. It does no I/O: packets and times are handed to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import Frame, FrameIdx, FrameSpec

from ..source import STRANGE, PacketSource, Run
from .ring import FrameRing, Slot

OPEN_FRAMES = 4  # that wait for packets at once: an older one is overtaken
PATIENCE = 0.5  # seconds after its last packet that a frame waits for more
MISSING = 0xFF  # every byte of pixels that did not come: PSI's receiver fills them like this, too


@dataclass(frozen=True, slots=True)
class Assembled:
    """A frame that gets no more packets.

    :param index: of the frame.
    :param timestamp: when its first packet came.
    :param came: which packets did (packets,).
    :param headers: of the first packet that came of each module (modules, bytes); zeros where none did.
    :param flaw: what is missing; empty: it is complete.
    :param frame: its pixels, in the slot; None: the ring had no room for them.
    """

    index: FrameIdx
    timestamp: float
    came: NDArray[np.bool_]
    headers: NDArray[np.uint8]
    flaw: str = ""
    frame: Frame | None = None
    slot: Slot | None = None


@dataclass(frozen=True, slots=True)
class Strangers:
    """What became of packets that are not this acquisition's.

    :param others: which of them (n,) may be another acquisition's, bool; of length 0: none.
    :param refusals: how many are against the protocol, by what is wrong with them.
    """

    others: NDArray[np.bool_]
    refusals: Mapping[str, int] = field(default_factory=dict)


NO_STRANGERS = Strangers(np.zeros(0, bool))


@dataclass(slots=True, eq=False)
class _Open:
    """A frame that gets packets.

    :param pixels: (packets, bytes) of its slot; None: there was no room.
    :param came: which packets did (packets,).
    :param touched: when the last one did, monotonic seconds.
    """

    began: float
    slot: Slot | None
    pixels: NDArray[np.uint8] | None
    came: NDArray[np.bool_]
    headers: NDArray[np.uint8]
    missing: int
    touched: float


class Assembler:
    """The frames of one acquisition that are being put together.

    Frames come out in the order of their numbers. One is closed when it is complete; when ``OPEN_FRAMES`` later ones
    have begun; or when no packet has come for it for ``PATIENCE`` seconds. Packets of a closed frame are late.

    :param source: knows where packets belong.
    :param ring: whose slots the frames are put together in.
    :param nb_frames: of the acquisition; packets of later ones are not its own. 0: any number.
    """

    def __init__(self, source: PacketSource, ring: FrameRing, nb_frames: int) -> None:
        self.late = 0  # packets that came for a closed frame, or again
        self._source = source
        self._ring = ring
        self._most = nb_frames
        self.n_packets = source.spec.nbytes // source.payload_bytes  # of a frame
        self._open: dict[int, _Open] = {}
        self._closed = -1  # the last frame that was

    @property
    def spec(self) -> FrameSpec:
        """What the frames look like."""
        return self._source.spec

    @property
    def keeps_partial(self) -> bool:
        """Whether frames that miss packets are wanted all the same."""
        return self._source.keeps_partial

    def place(
        self, packets: NDArray[np.uint8], sizes: NDArray[np.uint32], now: float
    ) -> tuple[list[Assembled], Strangers]:
        """Put packets where they belong.

        :param packets: (n, bytes), as they came.
        :param sizes: (n,) of the datagrams.
        :param now: monotonic seconds.
        :returns: the frames that are closed by that, and what of the packets is not this acquisition's.
        """
        located = self._source.locate(packets, sizes)
        if isinstance(located, Run):
            if located.frame < 0 or 0 < self._most <= located.frame:
                return [], Strangers(np.ones(len(packets), bool))
            places = slice(located.first, located.first + len(packets))
            return list(self._fill(located.frame, places, packets, now)), NO_STRANGERS
        frames = located.frames
        if self._most:
            frames = np.where(frames >= self._most, STRANGE, frames)
        closed: list[Assembled] = []
        for index in np.unique(frames[frames >= 0]).tolist():
            picked = np.flatnonzero(frames == index)
            closed += self._fill(index, located.places[picked], packets[picked], now)
        return closed, Strangers(frames == STRANGE, located.refusals)

    def expire(self, now: float) -> list[Assembled]:
        """Close the frames whose time is over, and return them."""
        over = [index for index, frame in self._open.items() if now - frame.touched > PATIENCE]
        return list(self._close_up_to(max(over))) if over else []

    def release(self) -> None:
        """Give the slots of all open frames back; nothing follows."""
        for frame in self._open.values():
            if frame.slot is not None:
                self._ring.give(frame.slot)
        self._open.clear()

    def _fill(
        self, index: int, places: NDArray[np.intp] | slice, packets: NDArray[np.uint8], now: float
    ) -> Iterator[Assembled]:
        """Put packets of one frame into its slot."""
        if index <= self._closed:
            self.late += len(packets)
            return
        frame = self._open.get(index)
        if frame is None:
            frame = self._open[index] = self._begin(now)
        if frame.pixels is not None:
            frame.pixels[places] = packets[:, self._source.header_bytes :]
        self._note_headers(frame, places, packets)
        frame.came[places] = True
        missing = self.n_packets - int(np.count_nonzero(frame.came))
        self.late += len(packets) - (frame.missing - missing)
        frame.missing, frame.touched = missing, now
        if len(self._open) > OPEN_FRAMES:
            yield from self._close_up_to(sorted(self._open)[-OPEN_FRAMES - 1])
        while self._open and self._open[oldest := min(self._open)].missing == 0:
            yield self._close(oldest)

    def _note_headers(self, frame: _Open, places: NDArray[np.intp] | slice, packets: NDArray[np.uint8]) -> None:
        """Keep the header of the first packet of each module."""
        size, each = self._source.header_bytes, self.n_packets // len(frame.headers)
        if isinstance(places, slice):
            modules, at = [places.start // each], [0]
        else:
            modules, at = (found.tolist() for found in np.unique(places // each, return_index=True))
        for module, packet in zip(modules, at, strict=True):
            if not frame.came[module * each : (module + 1) * each].any():
                frame.headers[module] = packets[packet, :size]

    def _begin(self, now: float) -> _Open:
        slot = self._ring.take(0)
        pixels = None
        if slot is not None:
            pixels = slot.memory[: self._source.spec.nbytes].reshape(self.n_packets, self._source.payload_bytes)
        came = np.zeros(self.n_packets, bool)
        headers = np.zeros((self._source.spec.n_modules, self._source.header_bytes), np.uint8)
        return _Open(time.time(), slot, pixels, came, headers, self.n_packets, now)

    def _close_up_to(self, index: int) -> Iterator[Assembled]:
        for each in sorted(each for each in self._open if each <= index):
            yield self._close(each)

    def _close(self, index: int) -> Assembled:
        self._closed = index
        frame = self._open.pop(index)
        if frame.slot is None or frame.pixels is None:
            flaw = "there was no room in the ring"
            return Assembled(FrameIdx(index), frame.began, frame.came, frame.headers, flaw)
        spec = self._source.spec
        modules, flaw = spec.all_modules, ""
        if frame.missing:
            frame.pixels[~frame.came] = MISSING
            whole = frame.came.reshape(spec.n_modules, -1).all(axis=1)
            modules = sum(1 << int(module) for module in np.flatnonzero(whole))
            flaw = f"{frame.missing} of {self.n_packets} packets are missing"
        data = frame.slot.memory[: spec.nbytes].view(spec.dtype).reshape(spec.shape)
        found = Frame(FrameIdx(index), data, modules, frame.began)
        return Assembled(FrameIdx(index), frame.began, frame.came, frame.headers, flaw, found, frame.slot)
