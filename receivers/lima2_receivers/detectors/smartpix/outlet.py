"""A simulated Smartpix's way to its receivers: their transfer rings, with what may happen to completion records."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...errors import ConfigError
from ...plan import decode_params
from ...transfers import Completion, TransferInitiator
from ...transport.shared_ring import SharedInitiator, ring_path
from ..outlet import Delivery, Shot
from ..protocol import Arm
from ..supply import Supply
from .descriptors import Descriptor
from .params import MAIN, SmartpixParams, descriptors
from .supply import SmartpixSupply

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.2  # between looks for a receiver that is away


class Faults(Struct, frozen=True):
    """What happens to completion records on their way, by chance; the pixels have arrived all the same.

    :param loss: share that gets lost.
    :param reordering: share that comes after up to ``reach`` later ones.
    :param duplication: share that comes twice.
    :param reach: see ``reordering``.
    :param seed: of the chance.
    """

    loss: float = 0.0
    reordering: float = 0.0
    duplication: float = 0.0
    reach: int = 4
    seed: int = 0


NO_FAULTS = Faults()


@dataclass(slots=True)
class _Way:
    """The way to one receiver.

    :param ring: None: it is away.
    :param retry: when to look for it again, monotonic seconds.
    :param told: whether it was said that it is away.
    :param sent: completions, to know when late ones are due.
    :param late: completions that are held back, with when they are due.
    """

    endpoint: str
    place: str
    ring: TransferInitiator | None = None
    retry: float = 0.0
    told: bool = False
    sent: int = 0
    late: deque[tuple[int, Completion]] = field(default_factory=deque)


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
    :param faults: what happens on the way.
    :raises ConfigError: an endpoint is not ``rashpa:///NAME``.
    """

    def __init__(
        self, supply: SmartpixSupply, whole: Supply, receivers: tuple[str, ...], faults: Faults = NO_FAULTS
    ) -> None:
        self._supply = supply
        self._whole = whole
        self._faults = faults
        self._random = random.Random(faults.seed)
        self._main = Descriptor("main")
        self._further: tuple[_Stream, ...] = ()
        self._ways = [_Way(endpoint, f"receivers[{rank}].data") for rank, endpoint in enumerate(receivers)]
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
            way.late.clear()
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
                self._send_late(way, way.ring, everything=True)

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
        faults, chance = self._faults, self._random.random
        way.sent += 1
        arrives = not faults.loss or chance() >= faults.loss
        if arrives and faults.reordering and chance() < faults.reordering:
            way.late.append((way.sent + self._random.randint(1, faults.reach), completion))
        elif arrives:
            ring.post(completion)
            if faults.duplication and chance() < faults.duplication:
                ring.post(completion)
        self._send_late(way, ring)
        return Delivery(taken=True, missing=0 if arrives else 1)

    def _send_late(self, way: _Way, ring: TransferInitiator, everything: bool = False) -> None:
        while way.late and (everything or way.late[0][0] <= way.sent):
            ring.post(way.late.popleft()[1])

    def _attached(self, way: _Way) -> TransferInitiator | None:
        """Return the ring of a receiver, attached again where it was made again; None: it is away."""
        if way.ring is not None and way.ring.alive:
            return way.ring
        if time.monotonic() < way.retry:
            return None
        if way.ring is not None:
            way.ring.close()
            way.ring = None
            way.late.clear()
        try:
            way.ring = SharedInitiator(way.endpoint, way.place)
            way.told = False
        except ConfigError as error:
            if not way.told:
                log.warning("frames for a receiver are dropped: %s", error)
            way.told = True
            way.retry = time.monotonic() + RETRY_SECONDS
        return way.ring
