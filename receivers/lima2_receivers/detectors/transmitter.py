"""The thread of a simulated detector that exposes frames at their time and sends them to the receivers."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from isal import isal_zlib

from ..control import DetectorStatus
from ..errors import DetectorError, StateError
from ..plan import TriggerMode
from .journal import JournalWriter, Sent
from .order import Order, choose_receiver
from .outlet import Outlet, Shot
from .protocol import Arm
from .pulses import Pulses, SignalGenerator
from .supply import Supply

log = logging.getLogger(__name__)

HALT_SECONDS = 5.0  # deadline of a halt


@dataclass(slots=True)
class _Burst:
    """Frames that one trigger asked for."""

    remaining: int  # -1: until stopped
    period: float
    receiver: int  # that the next frame goes to


class Transmitter:
    """Sends the frames of a series to the receivers, one after the other or as ``order`` says.

    :param supply: the frames, as the detector has them when it is not told otherwise.
    :param outlet: the way to the receivers.
    :param folder: where journals go.
    :param order: which receiver gets which frame.
    """

    def __init__(self, supply: Supply, outlet: Outlet, folder: Path, order: Order = Order.IN_TURN) -> None:
        self.whole = supply
        self._supply = supply
        self._outlet = outlet
        self._folder = folder
        self._order = order
        self._number = -1  # of the series, as it is stamped on frames
        self._changed = threading.Condition()
        self._bursts: deque[_Burst] = deque()
        self._arm: Arm | None = None
        self._journal: JournalWriter | None = None
        self._random = random.Random(0)
        self._triggered = self._index = 0
        self._lose: frozenset[int] = frozenset()
        self._signal = SignalGenerator(Pulses(), lambda _: False)
        self._attentive = False  # takes the signal
        self._period = 0.0  # of the frames that the signal exposes
        self._exposing = self._halted = self._ended = self._closed = False
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

    def arm(self, arm: Arm, supply: Supply) -> int:
        """Begin a series, and return the number that is stamped on its frames.

        :param supply: the frames, as this series has them.
        :raises StateError: another one is still being sent.
        :raises DetectorError: the journal can't be made.
        """
        with self._changed:
            if self._exposing:
                raise StateError(f"series {self._arm.series if self._arm else 0} is still being sent")
            self._arm = None  # until all of what follows is done; there is nothing to end where it fails
            self._triggered = self._index = 0
            self._halted = self._ended = False
            self._fault = ""
            self._bursts.clear()
            if self._journal is not None:
                self._journal.close()
                self._journal = None
            number = self._outlet.begin(arm)
            try:
                self._journal = JournalWriter(self._folder, arm.series, supply.scenes)
            except OSError as error:
                raise DetectorError(f"the journal in {self._folder} can't be made: {error.strerror}") from error
            self._arm = arm
            self._supply = supply
            self._lose = frozenset(arm.lose)
            self._random = random.Random(arm.series)
            self._attentive = False
            self._signal.end()
            self._signal = SignalGenerator(arm.pulses, lambda width: self.pulse(width, arm))
            self._number = number
            return number

    def expose(self, n_frames: int, period: float, first: int = 0) -> None:
        """Send more frames; where a signal triggers, take it from now on.

        :param n_frames: how many; 0: until halted.
        :param period: seconds from frame to frame.
        :param first: rank of the receiver that gets the first of them.
        :raises StateError: no series is armed, or it has not so many frames left.
        """
        with self._changed:
            if self._arm is None or self._halted or self._ended:
                raise StateError("the detector is not armed")
            if self._arm.mode.by_signal:
                self._attend(period)
                return
            most = self._arm.nb_frames or self._supply.limit
            if most and self._triggered + n_frames > most:
                left = most - self._triggered
                raise StateError(f"got a trigger for {n_frames} frames, the series has {left} of {most} left")
            remaining = n_frames or (most - self._triggered if most else -1)
            self._triggered += max(remaining, 0)
            self._bursts.append(_Burst(remaining, period, first % self._outlet.n_receivers))
            self._exposing = True
            self._changed.notify_all()

    def _attend(self, period: float) -> None:
        if not self._attentive:
            self._attentive, self._period = True, period
            self._signal.begin()

    def pulse(self, width: float, arm: Arm | None = None) -> bool:
        """Take a pulse of the signal; False: nothing waits for one, or its series has all its frames.

        :param width: seconds, which is what a gate exposes; 0: the exposure.
        :param arm: of the series that it is for; None: whichever there is.
        """
        with self._changed:
            series = self._arm
            if series is None or not self._attentive or arm not in (None, series):
                return False
            gated = series.mode is TriggerMode.GATE
            n_frames = 1 if gated else series.per_trigger
            if most := series.nb_frames or self._supply.limit:
                n_frames = min(n_frames, most - self._triggered)
            if not n_frames:
                return False
            period = width if gated and width else self._period
            self._bursts.append(_Burst(n_frames, period, self._triggered % self._outlet.n_receivers))
            self._triggered += n_frames
            self._exposing = True
            self._changed.notify_all()
            return True

    def halt(self) -> None:
        """Stop, and return when no frame will be sent any more."""
        with self._changed:
            self._halt()
            if not self._changed.wait_for(lambda: not self._exposing, timeout=HALT_SECONDS):
                raise DetectorError(f"the detector did not stop within {HALT_SECONDS:g} s")

    def status(self) -> DetectorStatus:
        """Return what is going on."""
        with self._changed:
            return DetectorStatus(self._number, self._triggered, self._index, self._exposing, self._fault)

    def _halt(self) -> None:
        self._halted = True
        self._attentive = False
        self._signal.end()
        self._bursts.clear()
        self._exposing |= self._index > 0 and not self._ended  # the thread has to tell the end
        self._changed.notify_all()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                try:
                    self._work()
                except Exception as error:  # a full disk or a bug must be seen by the conductor, and not end the thread
                    log.exception("series failed")
                    self._fail(f"{type(error).__name__}: {error}")
        finally:
            self._outlet.close()

    def _wait_for_work(self) -> bool:
        """Wait until there is something to send; False: the thread is to end."""
        with self._changed:
            while not self._exposing and not self._closed:
                self._changed.wait(1.0)
            return self._exposing

    def _work(self) -> None:
        with self._changed:
            burst = self._bursts[0] if self._bursts else None
            series = self._arm
        if burst is not None and series is not None:
            self._send_burst(series, burst)
        elif series is not None:
            self._finish(series)

    def _fail(self, reason: str) -> None:
        with self._changed:
            self._fault = reason
            self._halted = self._ended = True
            self._bursts.clear()
            self._exposing = False
            self._changed.notify_all()

    def _send_burst(self, series: Arm, burst: _Burst) -> None:
        due = time.monotonic()
        while burst.remaining and not self._stopping(burst):
            due = max(due + burst.period, time.monotonic() - burst.period)  # a late frame is not made up for by a burst
            if not self._sleep_until(due, burst):
                return
            if not self._send_frame(series, burst):
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

    def _send_frame(self, series: Arm, burst: _Burst) -> bool:
        """Send the next frame, or note why it wasn't sent; False: the series was halted before."""
        index = self._index
        scene = index % len(self._supply.frames)
        turn = burst.receiver
        receiver = choose_receiver(self._order, self._number, index, turn, self._outlet.n_receivers)
        stamp = time.time()
        fate, missing, checksum = "lost", 0, 0
        if index not in self._lose and not (series.loss and self._random.random() < series.loss):
            pixels = self._supply.frames[scene]
            if not self._supply.scenes:
                checksum = isal_zlib.crc32(pixels.data)
            delivery = self._outlet.send(
                Shot(self._number, index, pixels, stamp), receiver, lambda: self._stopping(burst)
            )
            missing = delivery.missing
            if delivery.taken:
                fate = "sent"
            elif self._stopping(burst):
                return False
            else:
                fate = "dropped"
        burst.receiver = (turn + 1) % self._outlet.n_receivers
        if self._journal is not None:
            self._journal.note(Sent(index, scene, receiver, fate, stamp, missing, checksum))
        with self._changed:
            self._index += 1
        return True

    def _finish(self, series: Arm) -> None:
        """When all that was asked for is sent: end the series where no trigger can follow."""
        with self._changed:
            if self._bursts:
                return
            most = series.nb_frames or self._supply.limit
            over = not self._ended and (self._halted or (most and self._index >= most))
            self._ended |= bool(over)
            index = self._index
        if over:
            self._outlet.end(self._number, index, lambda: self._halted)
        with self._changed:
            self._exposing = bool(self._bursts)
            self._changed.notify_all()
