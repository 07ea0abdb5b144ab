"""The way from a simulated detector to its receivers."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
import zmq
from numpy.typing import NDArray

from lima2_processing.errors import ParameterError
from lima2_processing.frame import FrameSpec
from lima2_processing.parts import parts_of

from ..errors import ConfigError
from .faults import NO_FAULTS, Faults, FaultyWay
from .protocol import Arm
from .stream import encode_end, encode_frame_header

log = logging.getLogger(__name__)

SEND_QUEUE = 2  # messages that ZeroMQ holds for a receiver
SLICE = 0.05  # seconds after which a wait looks whether it is to end
_Message = tuple[bytes | memoryview, ...]


@dataclass(frozen=True, slots=True)
class Shot:
    """A frame that leaves the detector.

    :param series: number that is stamped on it.
    :param index: in its series.
    :param pixels: as the detector's FrameSpec says.
    :param timestamp: when it was taken, seconds since the epoch.
    """

    series: int
    index: int
    pixels: NDArray[np.generic]
    timestamp: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a frame that was sent.

    :param taken: False: its receiver did not take it, or it was time to stop.
    :param missing: packets, messages or completion records of it that got lost on the way.
    """

    taken: bool
    missing: int = 0


class Outlet(Protocol):
    """Takes frames to receivers; used by one thread, but for ``begin``."""

    @property
    def n_receivers(self) -> int:
        """How many receivers there are."""
        ...

    def begin(self, arm: Arm) -> int:
        """Begin a series, and return the number that is to be stamped on its frames."""
        ...

    def send(self, shot: Shot, receiver: int, stopping: Callable[[], bool]) -> Delivery:
        """Send a frame to a receiver."""
        ...

    def end(self, series: int, n_frames: int, stopping: Callable[[], bool]) -> None:
        """Tell all receivers that a series is over, where the protocol has a way to say so."""
        ...

    def close(self) -> None:
        """Free the sockets."""
        ...


class StreamOutlet:
    """Sends the messages of ``detectors.stream`` over ZeroMQ.

    :param spec: what frames look like.
    :param receivers: their data endpoints, in the order of ranks.
    :param patience: seconds that a receiver may not take a frame before frames for it are dropped.
    :param faults: what happens to frames on the way; the end of a series always comes, and comes last.
    """

    def __init__(
        self, spec: FrameSpec, receivers: tuple[str, ...], patience: float, faults: Faults = NO_FAULTS
    ) -> None:
        self._spec = spec
        self._patience = patience
        self._gone: set[int] = set()  # receivers that stopped taking frames
        chance = random.Random(faults.seed)
        self._ways: list[FaultyWay[_Message]] = [FaultyWay(faults, chance) for _ in receivers]
        self._sockets = [_connect(endpoint) for endpoint in receivers]

    @property
    def n_receivers(self) -> int:
        """How many receivers there are."""
        return len(self._sockets)

    def begin(self, arm: Arm) -> int:
        """Begin a series under the conductor's number."""
        self._gone.clear()
        for way in self._ways:
            way.rest()  # of a series that failed
        return arm.series

    def send(self, shot: Shot, receiver: int, stopping: Callable[[], bool]) -> Delivery:
        """Send a frame, waiting for its receiver as long as its patience lasts."""
        header = encode_frame_header(self._spec, shot.series, shot.index, self._spec.all_modules, shot.timestamp)
        message = (header, shot.pixels.data)
        arrives, now = self._ways[receiver].send(message)
        taken = [self._hand_over(receiver, each, stopping) or each is not message for each in now]
        return Delivery(all(taken), missing=0 if arrives else 1)

    def end(self, series: int, n_frames: int, stopping: Callable[[], bool]) -> None:
        """Tell all receivers that a series is over."""
        for receiver in range(self.n_receivers):
            for late in self._ways[receiver].rest():
                self._hand_over(receiver, late, stopping)
            self._hand_over(receiver, (encode_end(series, n_frames),), stopping)

    def close(self) -> None:
        """Close the sockets."""
        for socket in self._sockets:
            socket.close(linger=200)

    def _hand_over(self, receiver: int, message: _Message, stopping: Callable[[], bool]) -> bool:
        """Give a message to a receiver's socket; one that took none lately isn't waited for."""
        gone = receiver in self._gone
        deadline = time.monotonic() + (0 if gone else self._patience)
        while not _try_send(self._sockets[receiver], message, 0 if gone else SLICE):
            if stopping():
                return False
            if time.monotonic() >= deadline:
                if not gone:
                    log.warning("receiver %d takes no frames: they are dropped", receiver)
                self._gone.add(receiver)
                return False
        if gone:
            log.info("receiver %d takes frames again", receiver)
        self._gone.discard(receiver)
        return True


class PartsOutlet:
    """Sends each receiver its modules of every frame, as ``StreamOutlet`` sends whole ones: all are one destination.

    :param spec: what whole frames look like.
    :param receivers: see ``StreamOutlet``; so are the others.
    :raises ConfigError: frames can't be spread so.
    """

    n_receivers = 1

    def __init__(
        self, spec: FrameSpec, receivers: tuple[str, ...], patience: float, faults: Faults = NO_FAULTS
    ) -> None:
        try:
            parts = parts_of(spec, len(receivers))
        except ParameterError as error:
            raise ConfigError(str(error)) from error
        self._modules = [slice(part.part.first, part.part.first + part.n_modules) for part in parts if part.part]
        self._ways = [
            StreamOutlet(part, (endpoint,), patience, msgspec.structs.replace(faults, seed=faults.seed + rank))
            for rank, (part, endpoint) in enumerate(zip(parts, receivers, strict=True))
        ]

    def begin(self, arm: Arm) -> int:
        """Begin a series under the conductor's number."""
        return [way.begin(arm) for way in self._ways][-1]

    def send(self, shot: Shot, receiver: int, stopping: Callable[[], bool]) -> Delivery:
        """Send a frame's parts; those that got lost, or that no receiver took, are missing."""
        del receiver
        found = [
            way.send(Shot(shot.series, shot.index, shot.pixels[modules], shot.timestamp), 0, stopping)
            for way, modules in zip(self._ways, self._modules, strict=True)
        ]
        missing = sum(one.missing or not one.taken for one in found)
        return Delivery(any(one.taken for one in found), missing)

    def end(self, series: int, n_frames: int, stopping: Callable[[], bool]) -> None:
        """Tell all receivers that a series is over."""
        for way in self._ways:
            way.end(series, n_frames, stopping)

    def close(self) -> None:
        """Close the sockets."""
        for way in self._ways:
            way.close()


def _connect(endpoint: str) -> zmq.SyncSocket:
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.sndhwm = SEND_QUEUE
    socket.immediate = 1  # nothing is queued for a receiver that is away
    socket.set(zmq.RECONNECT_IVL, 50)
    socket.set(zmq.RECONNECT_IVL_MAX, 500)
    socket.connect(endpoint)
    return socket


def _try_send(socket: zmq.SyncSocket, message: _Message, seconds: float) -> bool:
    if not socket.poll(int(seconds * 1000), zmq.POLLOUT):
        return False
    try:
        socket.send_multipart(message, zmq.NOBLOCK, copy=False)
    except zmq.Again:  # the receiver went away since
        return False
    return True
