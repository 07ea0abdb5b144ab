"""A real Jungfrau's control half with PSI's client stood in for, in the process that it runs in."""

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from lima2_receivers.control import TriggerMode
from lima2_receivers.detectors.jungfrau import PLUGIN, sls_control
from lima2_receivers.detectors.jungfrau.params import JungfrauSettings
from lima2_receivers.detectors.jungfrau.sls_control import SlsControl
from lima2_receivers.errors import ConfigError, DetectorError, PlanError, StateError
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, SavingParams
from lima2_receivers.topology import Dispatch

SECONDS = 20.0
MAC = "aa:00:00:00:00:01"


@pytest.fixture
async def connect(monkeypatch):
    """Makes controls; their processes end with the test."""
    folder = str(Path(__file__).parent / "fake")
    monkeypatch.setenv("PYTHONPATH", folder)
    monkeypatch.setattr(sls_control, "find_spec", lambda _: True)
    made = []

    def connect(*hostnames, timeout=SECONDS, n_receivers=2):
        settings = JungfrauSettings(
            modules=(len(hostnames), 1),
            hostnames=hostnames,
            source_ips=tuple(f"10.0.0.{at + 1}" for at in range(len(hostnames))),
            receiver_macs=(MAC,) * n_receivers,
        )
        receivers = tuple(f"udp://127.0.0.1:{5000 + 10 * rank}" for rank in range(n_receivers))
        made.append(PLUGIN.load_control()(settings, receivers, timeout, Dispatch.ROUND_ROBIN))
        return made[-1]

    yield connect
    for control in made:
        await control.close()


def plan(nb_frames=6, per_trigger=3, expo=0.001, **detector):
    acquisition = AcquisitionParams(nb_frames, expo, 0.0, TriggerMode.SOFTWARE, per_trigger)
    return AcquisitionPlan(SavingParams("/d"), acquisition, detector=msgspec.Raw(msgspec.msgpack.encode(detector)))


async def until(control, condition):
    deadline = time.monotonic() + SECONDS
    while not condition(status := await control.status()):
        assert time.monotonic() < deadline, status
    return status


async def test_an_acquisition_from_connect_to_stop(connect):
    control = connect("m0", "m1")
    assert isinstance(control, SlsControl)
    found = await control.connect()
    assert (found.model, found.frame_spec.shape) == ("Jungfrau of 2 modules", (2, 512, 1024))
    assert found.trigger_modes == (TriggerMode.INTERNAL, TriggerMode.SOFTWARE)
    armed = await control.prepare(99, plan(read_rows=256, gain="forceswitchg2"))
    assert (armed.series, armed.frame_spec.shape) == (1, (2, 256, 1024)), "the detector's own number"
    for trigger in (1, 2):
        await control.trigger(3, 0.001, 0.0)
        status = await until(control, lambda status: not status.busy)
        assert (status.series, status.triggered, status.sent) == (1, 3 * trigger, 3 * trigger)
    assert (await control.stop()).sent == 6
    await control.connect()
    assert (await control.prepare(99, plan())).series == 7


async def test_a_trigger_right_behind_another_waits_for_its_end(connect):
    control = connect("m0")
    await control.connect()
    await control.prepare(1, plan())
    await control.trigger(3, 0.02, 0.0)
    await control.trigger(3, 0.02, 0.0)
    assert (await until(control, lambda status: not status.busy)).sent == 6


async def test_a_long_exposure_is_cut_short(connect):
    control = connect("m0", "m1")
    await control.connect()
    await control.prepare(1, plan(nb_frames=1000, per_trigger=1000))
    await control.trigger(1000, 1.0, 0.0)
    assert (await control.status()).busy
    final = await control.stop()
    assert (final.sent, final.busy) == (-1, False), "it can't say how many"
    assert (await control.stop()).sent == -1
    assert (await control.prepare(1, plan())).series > 3, "modules disagreed"


async def test_triggers_without_an_end_are_refused(connect):
    control = connect("m0")
    await control.connect()
    with pytest.raises(StateError, match="is not armed"):
        await control.trigger(1, 0.1, 0.0)
    with pytest.raises(PlanError, match="nb_frames: got 0, expected a number"):
        await control.prepare(1, plan(nb_frames=0))
    await control.prepare(1, plan())
    with pytest.raises(StateError, match="got 0, expected a number"):
        await control.trigger(0, 0.1, 0.0)


async def test_what_the_detector_refuses_names_it_and_the_call(connect):
    control = connect("m0", "away")
    with pytest.raises(DetectorError, match=r"jungfrau m0\+away: setHostname: .*Cannot connect to Detector:away"):
        await control.connect()
    with pytest.raises(DetectorError, match="PSI's client is not running"):
        await control.status()


async def test_a_call_that_does_not_return_is_an_error_in_time(connect):
    control = connect("hung", timeout=1.0)
    began = time.monotonic()
    with pytest.raises(DetectorError, match="jungfrau hung: setHostname did not return within 1 s"):
        await control.connect()
    assert time.monotonic() - began < SECONDS
    assert not control._process.running


async def test_a_request_that_is_cancelled_does_not_mix_up_the_next(connect):
    control = connect("m0")
    await control.connect()
    await control.prepare(1, plan())
    asking = asyncio.create_task(control.status())
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await control.prepare(1, plan())).series == 1


async def test_several_may_connect_at_once(connect):
    control = connect("m0")
    found = await asyncio.gather(*(control.connect() for _ in range(3)))
    assert len({each.model for each in found}) == 1
    assert (await control.prepare(1, plan())).series == 1


async def test_a_process_that_ended_is_told_and_replaced(connect):
    control = connect("m0")
    await control.connect()
    control._process._process.kill()
    with pytest.raises(DetectorError, match=r"PSI's client (ended with status -9|is not running)"):
        await control.status()
    await control.connect()
    assert not (await control.status()).busy


async def test_a_detector_that_rests_early_is_a_fault(connect):
    control = connect("m0")
    await control.connect()
    await control.prepare(1, plan(nb_frames=1000))
    await control.trigger(1000, 1.0, 0.0)
    control._timeout = 0.05
    other = connect("m0")  # has a server of its own, so that the first one is told here that it was stopped
    await other.connect()
    control._process, other._process = other._process, control._process
    status = await until(control, lambda status: status.fault)
    assert status.fault == "came to rest after 0 of 1000 frames: was it stopped by someone else?"


async def test_without_the_client_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sls_control, "find_spec", lambda _: None)
    settings = JungfrauSettings(hostnames=("m0",), receiver_macs=(MAC,))
    with pytest.raises(ConfigError, match=r"pip install 'lima2-ophyd\[psi\]'"):
        PLUGIN.load_control()(settings, ("udp://127.0.0.1:5000",), 1.0, Dispatch.ROUND_ROBIN)


async def test_a_detector_at_rest_tells_another_conductor_which_triggers_it_got(connect):
    control = connect("m0")
    await control.connect()
    armed = await control.prepare(1, plan())
    status = await control.adopt(armed.series, plan(), 3)
    assert (status.series, status.triggered, status.sent, status.busy) == (armed.series, 0, 0, False)
    await control.trigger(3, 0.001, 0.0)
    await until(control, lambda status: not status.busy)
    status = await control.adopt(armed.series, plan(), 3)
    assert (status.triggered, status.sent, status.busy) == (3, 3, False)
    with pytest.raises(DetectorError, match=f"its next frame is {armed.series + 3}, expected {armed.series + 5}"):
        await control.adopt(armed.series + 5, plan(), 3)


async def test_a_detector_that_exposes_is_taken_over(connect):
    control = connect("m0")
    await control.connect()
    armed = await control.prepare(1, plan())
    await control.trigger(3, 0.1, 0.0)
    status = await control.adopt(armed.series, plan(), 3)
    assert (status.triggered, status.sent, status.busy) == (3, 0, True)
    assert (await until(control, lambda status: not status.busy)).sent == 3
