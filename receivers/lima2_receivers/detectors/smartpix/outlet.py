"""A simulated Smartpix's way to its receivers: their transfer rings, with what may happen to completion records."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...plan import decode_params
from ...transfers import Completion, TransferInitiator
from ...transport.shared_ring import SharedInitiator, ring_path
from ..faults import NO_FAULTS, Faults, FaultyWay
from ..outlet import Delivery, Shot
from ..protocol import Arm
from ..supply import Supply
from .descriptors import Descriptor
from .params import MAIN, SmartpixParams, descriptors
from .supply import SmartpixSupply

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.2  # between looks for a receiver that is away


@dataclass(slots=True)
class _Way:
    """The way to one receiver.

    :param records: what happens to completion records; the pixels have arrived all the same.
    :param ring: None: it is away.
    :param retry: when to look for it again, monotonic seconds.
    :param told: whether it was said that it is away.
    """

    endpoint: str
    place: str
    records: FaultyWay[Completion]
    ring: TransferInitiator | None = None
    retry: float = 0.0
    told: bool = False


@dataclass(frozen=True, slots=True)
class _Stream:
    """A further stream of a series."""

    channel: int
    descriptor: Descriptor
    frames: tuple[NDArray[np.generic], ...]


class SmartpixOutlet:
    """Writes frames into the receivers' rings, and says so by completion records. It waits for nobody.

    :param supply: makes the frames of streams.
    :param whole: all distinct frames, of all chips.
    :param receivers: their data endpoints, in the order of ranks.
    :param faults: what happens to completion records on the way.
    :raises ConfigError: an endpoint is not ``rashpa:///NAME``.
    """

    def __init__(
        self, supply: SmartpixSupply, whole: Supply, receivers: tuple[str, ...], faults: Faults = NO_FAULTS
    ) -> None:
        self._supply = supply
        self._whole = whole
        chance = random.Random(faults.seed)
        self._main = Descriptor("main")
        self._further: tuple[_Stream, ...] = ()
        self._ways = [
            _Way(endpoint, f"receivers[{rank}].data", FaultyWay(faults, chance))
            for rank, endpoint in enumerate(receivers)
        ]
        for way in self._ways:
            ring_path(way.endpoint, way.place)

    @property
    def n_receivers(self) -> int:
        """How many receivers there are."""
        return len(self._ways)

    def begin(self, arm: Arm) -> int:
        """Begin a series under the conductor's number."""
        params = decode_params(arm.parameters, SmartpixParams, "detector")
        self._main, *further = descriptors(params)
        self._further = tuple(
            _Stream(channel, one, tuple(self._supply.send_as(self._whole, one, params.depth).frames))
            for channel, one in enumerate(further, MAIN + 1)
        )
        for way in self._ways:
            way.retry = 0.0
            way.records.rest()
        return arm.series

    def send(self, shot: Shot, receiver: int, stopping: Callable[[], bool]) -> Delivery:
        """Send what the other streams have since the last frame of the main stream, then that frame."""
        del stopping
        last = self._main.frame(shot.index)
        for number in range(max(0, last - self._main.every + 1), last + 1):
            for stream in self._further:
                if (position := stream.descriptor.position(number)) is not None:
                    way = self._ways[stream.descriptor.destination(position, self.n_receivers)]
                    self._transfer(way, stream.channel, stream.frames[position % len(stream.frames)], number, shot)
        return self._transfer(self._ways[receiver], MAIN, shot.pixels, last, shot)

    def end(self, series: int, n_frames: int, stopping: Callable[[], bool]) -> None:
        """Send what is still late: nothing says that a series is over."""
        del series, n_frames, stopping
        for way in self._ways:
            if way.ring is not None:
                for completion in way.records.rest():
                    way.ring.post(completion)

    def close(self) -> None:
        """Let go of the rings."""
        for way in self._ways:
            if way.ring is not None:
                way.ring.close()

    def _transfer(self, way: _Way, channel: int, pixels: NDArray[np.generic], frame: int, shot: Shot) -> Delivery:
        """Write pixels, and say so, or do to the record what the faults are."""
        if (ring := self._attached(way)) is None:
            return Delivery(taken=False)
        sequence, slot = ring.write(np.ascontiguousarray(pixels).data)
        completion = Completion(sequence, shot.series, frame, channel, slot, pixels.nbytes, shot.timestamp)
        arrives, now = way.records.send(completion)
        for each in now:
            ring.post(each)
        return Delivery(taken=True, missing=0 if arrives else 1)

    def _attached(self, way: _Way) -> TransferInitiator | None:
        """Return the ring of a receiver, attached again where it was made again; None: it is away."""
        if way.ring is not None and way.ring.alive:
            return way.ring
        if time.monotonic() < way.retry:
            return None
        if way.ring is not None:
            way.ring.close()
            way.ring = None
            way.records.rest()
        try:
            way.ring = SharedInitiator(way.endpoint, way.place)
            way.told = False
        except ConfigError as error:
            if not way.told:
                log.warning("frames for a receiver are dropped: %s", error)
            way.told = True
            way.retry = time.monotonic() + RETRY_SECONDS
        return way.ring
