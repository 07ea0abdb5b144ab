"""The thread of a simulated detector that exposes frames at their time and sends them to the receivers."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq

from ..control import DetectorStatus
from ..errors import DetectorError, StateError
from .journal import JournalWriter, Sent
from .protocol import Arm
from .stream import encode_end, encode_frame_header
from .supply import Supply

log = logging.getLogger(__name__)

SEND_QUEUE = 2  # messages that ZeroMQ holds for a receiver
SLICE = 0.05  # seconds after which a wait looks whether it is to end
HALT_SECONDS = 5.0  # deadline of a halt


@dataclass(slots=True)
class _Burst:
    """Frames that one trigger asked for."""

    remaining: int  # -1: until stopped
    period: float


class Transmitter:
    """Sends frame i of a series to receiver i modulo n: strict round robin.

    :param supply: the frames.
    :param receivers: their data endpoints, in the order of ranks.
    :param folder: where journals go.
    :param patience: seconds that a receiver may not take a frame before frames for it are dropped.
    """

    def __init__(self, supply: Supply, receivers: tuple[str, ...], folder: Path, patience: float) -> None:
        self.supply = supply
        self._receivers = receivers
        self._folder = folder
        self._patience = patience
        self._changed = threading.Condition()
        self._bursts: deque[_Burst] = deque()
        self._arm: Arm | None = None
        self._journal: JournalWriter | None = None
        self._random = random.Random(0)
        self._triggered = self._index = 0
        self._lose: frozenset[int] = frozenset()
        self._exposing = self._halted = self._ended = self._closed = False
        self._gone: set[int] = set()  # receivers that stopped taking frames
        self._fault = ""
        self._thread = threading.Thread(target=self._run, name="transmitter", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop sending and end the thread."""
        with self._changed:
            self._closed = True
            self._halt()
        if self._thread.is_alive():
            self._thread.join(timeout=HALT_SECONDS)
        if self._journal is not None:
            self._journal.close()

    def arm(self, arm: Arm) -> None:
        """Begin a series.

        :raises StateError: another one is still being sent.
        :raises DetectorError: the journal can't be made.
        """
        with self._changed:
            if self._exposing:
                raise StateError(f"series {self._arm.series if self._arm else 0} is still being sent")
            if self._journal is not None:
                self._journal.close()
            try:
                self._journal = JournalWriter(self._folder, arm.series, self.supply.scenes)
            except OSError as error:
                self._journal = self._arm = None
                raise DetectorError(f"the journal in {self._folder} can't be made: {error.strerror}") from error
            self._arm = arm
            self._lose = frozenset(arm.lose)
            self._fault = ""
            self._random = random.Random(arm.series)
            self._triggered = self._index = 0
            self._halted = self._ended = False
            self._gone.clear()
            self._bursts.clear()

    def expose(self, n_frames: int, period: float) -> None:
        """Send more frames.

        :param n_frames: how many; 0: until halted.
        :param period: seconds from frame to frame.
        :raises StateError: no series is armed, or it has not so many frames left.
        """
        with self._changed:
            if self._arm is None or self._halted or self._ended:
                raise StateError("the detector is not armed")
            most = self._arm.nb_frames or self.supply.limit
            if most and self._triggered + n_frames > most:
                left = most - self._triggered
                raise StateError(f"got a trigger for {n_frames} frames, the series has {left} of {most} left")
            remaining = n_frames or (most - self._triggered if most else -1)
            self._triggered += max(remaining, 0)
            self._bursts.append(_Burst(remaining, period))
            self._exposing = True
            self._changed.notify_all()

    def halt(self) -> None:
        """Stop, and return when no frame will be sent any more."""
        with self._changed:
            self._halt()
            if not self._changed.wait_for(lambda: not self._exposing, timeout=HALT_SECONDS):
                raise DetectorError(f"the detector did not stop within {HALT_SECONDS:g} s")

    def status(self) -> DetectorStatus:
        """Return what is going on."""
        with self._changed:
            series = self._arm.series if self._arm else -1
            return DetectorStatus(series, self._triggered, self._index, self._exposing, self._fault)

    def _halt(self) -> None:
        self._halted = True
        self._bursts.clear()
        self._exposing |= self._index > 0 and not self._ended  # the thread has to tell the end
        self._changed.notify_all()

    def _run(self) -> None:
        context = zmq.Context.instance()
        sockets = [self._connect(context, endpoint) for endpoint in self._receivers]
        try:
            while self._wait_for_work():
                try:
                    self._work(sockets)
                except Exception as error:  # a full disk or a bug must be seen by the conductor, and not end the thread
                    log.exception("series failed")
                    self._fail(f"{type(error).__name__}: {error}")
        finally:
            for socket in sockets:
                socket.close(linger=200)

    def _wait_for_work(self) -> bool:
        """Wait until there is something to send; False: the thread is to end."""
        with self._changed:
            while not self._exposing and not self._closed:
                self._changed.wait(1.0)
            return self._exposing

    def _work(self, sockets: list[zmq.SyncSocket]) -> None:
        with self._changed:
            burst = self._bursts[0] if self._bursts else None
            series = self._arm
        if burst is not None and series is not None:
            self._send_burst(sockets, series, burst)
        elif series is not None:
            self._finish(sockets, series)

    def _fail(self, reason: str) -> None:
        with self._changed:
            self._fault = reason
            self._halted = self._ended = True
            self._bursts.clear()
            self._exposing = False
            self._changed.notify_all()

    def _connect(self, context: zmq.Context[zmq.SyncSocket], endpoint: str) -> zmq.SyncSocket:
        socket = context.socket(zmq.PUSH)
        socket.sndhwm = SEND_QUEUE
        socket.immediate = 1  # nothing is queued for a receiver that is away
        socket.set(zmq.RECONNECT_IVL, 50)
        socket.set(zmq.RECONNECT_IVL_MAX, 500)
        socket.connect(endpoint)
        return socket

    def _send_burst(self, sockets: list[zmq.SyncSocket], series: Arm, burst: _Burst) -> None:
        due = time.monotonic()
        while burst.remaining and not self._stopping(burst):
            due = max(due + burst.period, time.monotonic() - burst.period)  # a late frame is not made up for by a burst
            if not self._sleep_until(due, burst):
                return
            if not self._send_frame(sockets, series, burst):
                return
            burst.remaining -= burst.remaining > 0
        with self._changed:
            if self._bursts and self._bursts[0] is burst:
                self._bursts.popleft()

    def _stopping(self, burst: _Burst) -> bool:
        with self._changed:
            return self._closed or not self._bursts or self._bursts[0] is not burst

    def _sleep_until(self, due: float, burst: _Burst) -> bool:
        with self._changed:
            while (left := due - time.monotonic()) > 0:
                if self._stopping(burst):
                    return False
                self._changed.wait(left)
        return not self._stopping(burst)

    def _send_frame(self, sockets: list[zmq.SyncSocket], series: Arm, burst: _Burst) -> bool:
        """Send the next frame, or note why it wasn't sent; False: the series was halted before."""
        index = self._index
        scene = index % len(self.supply.frames)
        receiver = index % len(sockets)
        stamp = time.time()
        fate = "lost"
        if index not in self._lose and not (series.loss and self._random.random() < series.loss):
            frame = self.supply.frames[scene]
            header = encode_frame_header(self.supply.spec, series.series, index, self.supply.spec.all_modules, stamp)
            if self._hand_over(sockets[receiver], receiver, (header, frame.data), lambda: self._stopping(burst)):
                fate = "sent"
            elif self._stopping(burst):
                return False
            else:
                fate = "dropped"
        if self._journal is not None:
            self._journal.note(Sent(index, scene, receiver, fate, stamp))
        with self._changed:
            self._index += 1
        return True

    def _hand_over(
        self,
        socket: zmq.SyncSocket,
        receiver: int,
        message: tuple[bytes | memoryview, ...],
        stopping: Callable[[], bool],
    ) -> bool:
        """Give a message to a receiver's socket; one that took none lately isn't waited for.

        :param stopping: tells whether to give up early.
        :returns: False where it wasn't taken.
        """
        gone = receiver in self._gone
        deadline = time.monotonic() + (0 if gone else self._patience)
        while not self._try_send(socket, message, 0 if gone else SLICE):
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

    def _try_send(self, socket: zmq.SyncSocket, message: tuple[bytes | memoryview, ...], seconds: float) -> bool:
        if not socket.poll(int(seconds * 1000), zmq.POLLOUT):
            return False
        try:
            socket.send_multipart(message, zmq.NOBLOCK, copy=False)
        except zmq.Again:  # the receiver went away since
            return False
        return True

    def _finish(self, sockets: list[zmq.SyncSocket], series: Arm) -> None:
        """When all that was asked for is sent: end the series where no trigger can follow."""
        with self._changed:
            if self._bursts:
                return
            most = series.nb_frames or self.supply.limit
            over = not self._ended and (self._halted or (most and self._index >= most))
            self._ended |= bool(over)
            index = self._index
        if over:
            for receiver, socket in enumerate(sockets):
                self._hand_over(socket, receiver, (encode_end(series.series, index),), lambda: self._halted)
        with self._changed:
            self._exposing = bool(self._bursts)
            self._changed.notify_all()
