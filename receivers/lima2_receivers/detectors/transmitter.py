"""The thread of a simulated detector that exposes frames at their time and sends them to the receivers."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import zmq

from ..control import DetectorStatus
from ..errors import StateError
from .journal import JournalWriter, Sent
from .protocol import Arm
from .stream import encode_end, encode_frame_header
from .supply import Supply

log = logging.getLogger(__name__)

SEND_QUEUE = 2  # messages that ZeroMQ holds for a receiver
PATIENCE = 5.0  # seconds that a receiver may not take a frame before frames for it are dropped
SLICE = 0.05  # seconds after which a wait looks whether it is to end


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
    """

    def __init__(self, supply: Supply, receivers: tuple[str, ...], folder: Path) -> None:
        self._supply = supply
        self._receivers = receivers
        self._folder = folder
        self._changed = threading.Condition()
        self._bursts: deque[_Burst] = deque()
        self._arm: Arm | None = None
        self._journal: JournalWriter | None = None
        self._random = random.Random(0)
        self._triggered = self._index = 0
        self._exposing = self._halted = self._closed = False
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
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def arm(self, arm: Arm) -> None:
        """Begin a series.

        :raises StateError: another one is still being sent.
        """
        with self._changed:
            if self._exposing:
                raise StateError(f"series {self._arm.series if self._arm else 0} is still being sent")
            if self._journal is not None:
                self._journal.close()
            self._journal = JournalWriter(self._folder, arm.series, self._supply.scenes)
            self._arm = arm
            self._random = random.Random(arm.series)
            self._triggered = self._index = 0
            self._halted = False
            self._gone.clear()
            self._bursts.clear()

    def expose(self, n_frames: int, period: float) -> None:
        """Send more frames.

        :param n_frames: how many; 0: until halted.
        :param period: seconds from frame to frame.
        :raises StateError: no series is armed.
        """
        with self._changed:
            if self._arm is None or self._halted:
                raise StateError("the detector is not armed")
            self._triggered += n_frames
            self._bursts.append(_Burst(n_frames or -1, period))
            self._exposing = True
            self._changed.notify_all()

    def halt(self) -> None:
        """Stop, and return when no frame will be sent any more."""
        with self._changed:
            self._halt()
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not self._exposing, timeout=PATIENCE):
                raise StateError(f"the detector did not stop within {PATIENCE:g} s")

    def status(self) -> DetectorStatus:
        """Return what is going on."""
        with self._changed:
            series = self._arm.series if self._arm else 0
            return DetectorStatus(series, self._triggered, self._index, self._exposing, self._fault)

    def _halt(self) -> None:
        self._halted = True
        self._bursts.clear()

    def _run(self) -> None:
        context = zmq.Context.instance()
        sockets = [self._connect(context, endpoint) for endpoint in self._receivers]
        try:
            while True:
                with self._changed:
                    ending = self._exposing and not self._bursts
                    series = self._arm
                if ending and series is not None:
                    self._finish(sockets, series)
                with self._changed:
                    self._changed.wait_for(lambda: self._bursts or self._closed, timeout=1.0)
                    if self._closed:
                        break
                    burst = self._bursts[0] if self._bursts else None
                    series = self._arm
                if burst is not None and series is not None:
                    self._send_burst(sockets, series, burst)
        except Exception as error:  # a thread's bug must be seen by the conductor
            log.exception("the transmitter ended")
            self._fault = f"internal error: {type(error).__name__}: {error}"
        finally:
            for socket in sockets:
                socket.close(linger=200)

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
        scene = index % len(self._supply.frames)
        receiver = index % len(sockets)
        fate = "sent"
        if index in series.lose or (series.loss and self._random.random() < series.loss):
            fate = "lost"
        elif not self._wait_for(sockets[receiver], receiver, burst):
            if self._stopping(burst):
                return False
            fate = "dropped"
        else:
            frame = self._supply.frames[scene]
            header = encode_frame_header(series.series, index, self._supply.spec.all_modules, time.time(), frame.nbytes)
            sockets[receiver].send(header, zmq.SNDMORE)
            sockets[receiver].send(frame.data, copy=False)
        if self._journal is not None:
            self._journal.note(Sent(index, scene, receiver, fate))
        with self._changed:
            self._index += 1
        return True

    def _wait_for(self, socket: zmq.SyncSocket, receiver: int, burst: _Burst) -> bool:
        """Wait until a receiver takes a frame; one that didn't lately isn't waited for."""
        deadline = time.monotonic() + (0 if receiver in self._gone else PATIENCE)
        while not socket.poll(int(SLICE * 1000) if receiver not in self._gone else 0, zmq.POLLOUT):
            if self._stopping(burst):
                return False
            if time.monotonic() >= deadline:
                if receiver not in self._gone:
                    log.warning("receiver %d takes no frames: they are dropped", receiver)
                self._gone.add(receiver)
                return False
        self._gone.discard(receiver)
        return True

    def _finish(self, sockets: list[zmq.SyncSocket], series: Arm) -> None:
        """When all that was asked for is sent: end the series where no trigger can follow."""
        with self._changed:
            if self._bursts:
                return
            over = self._halted or (series.nb_frames and self._index >= series.nb_frames)
            index = self._index
        if over:
            for socket in sockets:
                if socket.poll(int(SLICE * 1000), zmq.POLLOUT):
                    socket.send(encode_end(series.series, index))
        with self._changed:
            self._exposing = bool(self._bursts)
            self._changed.notify_all()
