"""Suspenders on the detector's health."""

import threading
import time

import bluesky.plans as bp
from bluesky.suspenders import SuspendBoolLow

from lima2_ophyd.suspenders import SuspenderSignal
from lima2_receivers.messages import Prepare


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not come true")
        time.sleep(0.005)  # polls another thread's state


def test_a_plan_waits_until_the_detector_is_healthy(run_engine, detector, conductor):
    conductor.alive = False
    suspender = SuspendBoolLow(SuspenderSignal(detector.healthy))
    run_engine.install_suspender(suspender)
    wait_until(lambda: suspender.tripped)

    def heal():
        wait_until(lambda: run_engine.state == "running")
        prepared_early.extend(conductor.requests(Prepare))
        conductor.alive = True

    prepared_early = []
    thread = threading.Thread(target=heal)
    thread.start()
    result = run_engine(bp.count([detector], 2))
    thread.join(5)
    assert prepared_early == []
    assert result.exit_status == "success"
    run_engine.remove_suspender(suspender)
