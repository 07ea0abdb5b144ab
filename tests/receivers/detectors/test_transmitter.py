"""The thread of a simulated detector: what is left of a series that could not begin."""

import time

import numpy as np
import pytest

from lima2_processing.frame import FrameSpec
from lima2_receivers.detectors.outlet import Delivery
from lima2_receivers.detectors.protocol import Arm
from lima2_receivers.detectors.supply import Supply
from lima2_receivers.detectors.transmitter import Transmitter
from lima2_receivers.errors import DetectorError, StateError

SECONDS = 10.0
SUPPLY = Supply("test", FrameSpec((2, 2), "<u2"), (np.zeros((2, 2), "<u2"),), ())


class Outlet:
    """Takes everything, unless it is broken."""

    n_receivers = 1

    def __init__(self):
        self.broken = False
        self.ended = []

    def begin(self, arm):
        if self.broken:
            raise MemoryError("no room")
        return arm.series

    def send(self, shot, receiver, stopping):
        return Delivery(True)

    def end(self, series, n_frames, stopping):
        self.ended.append((series, n_frames))

    def close(self):
        pass


@pytest.fixture
def outlet():
    return Outlet()


@pytest.fixture
def transmitter(tmp_path, outlet):
    made = Transmitter(SUPPLY, outlet, tmp_path / "journals")
    made.start()
    yield made
    made.close()


def sent(transmitter, n_frames):
    """Wait until so many frames were sent and nothing is exposed."""
    deadline = time.monotonic() + SECONDS
    while (status := transmitter.status()).busy or status.sent < n_frames:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("what", ["outlet", "journal"])
def test_a_series_that_cannot_begin_leaves_nothing_that_a_halt_waits_for(transmitter, outlet, tmp_path, what):
    transmitter.arm(Arm(1, 0), SUPPLY)
    transmitter.expose(2, 0.0)
    sent(transmitter, 2)
    outlet.broken = what == "outlet"
    if what == "journal":
        (tmp_path / "journals" / "journal_2.jsonl").mkdir()
    with pytest.raises(MemoryError if what == "outlet" else DetectorError):
        transmitter.arm(Arm(2, 0), SUPPLY)
    with pytest.raises(StateError, match="not armed"):
        transmitter.expose(1, 0.0)
    transmitter.halt()
    assert not transmitter.status().busy
    outlet.broken = False
    assert transmitter.arm(Arm(3, 1), SUPPLY) == 3
    transmitter.expose(1, 0.0)
    sent(transmitter, 1)
    assert outlet.ended[-1] == (3, 1)
