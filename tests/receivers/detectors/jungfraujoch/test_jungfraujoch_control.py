"""A Jungfraujoch's control half against a mock broker: order, states, limits, errors, slow answers."""

import asyncio
import threading
import time

import msgspec
import pytest

from lima2_processing.frame import FrameSpec
from lima2_receivers.control import TriggerMode
from lima2_receivers.detectors.eiger2.stream2 import decode_map
from lima2_receivers.detectors.jungfraujoch import PLUGIN
from lima2_receivers.detectors.jungfraujoch.params import JungfraujochSettings
from lima2_receivers.errors import DetectorError, PlanError, StateError
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, SavingParams
from lima2_receivers.topology import Dispatch

SECONDS = 10.0
SERIES = 1_795_000_000_123_456_789
RUN = 1_795_000_000_123


@pytest.fixture
async def control(mock):
    made = connect(mock)
    yield made
    await made.close()


def connect(mock, timeout=2.0, start_timeout=SECONDS):
    return PLUGIN.load_control()(JungfraujochSettings(mock.url, start_timeout), (), timeout, Dispatch.ROUND_ROBIN)


def plan(nb_frames=6, per_trigger=3, expo=0.001, latency=0.0, mode=TriggerMode.SOFTWARE, **detector):
    acquisition = AcquisitionParams(nb_frames, expo, latency, mode, per_trigger)
    asked = {"photon_energy": 12400.0, **detector}
    return AcquisitionPlan(SavingParams("/d"), acquisition, detector=msgspec.Raw(msgspec.msgpack.encode(asked)))


async def until(control, condition):
    deadline = time.monotonic() + SECONDS
    while not condition(status := await control.status()):
        assert time.monotonic() < deadline, status
    return status


async def test_connecting_tells_what_it_is(control):
    found = await control.connect()
    assert (found.model, found.max_receivers) == ("Mock JUNGFRAU", 1)
    assert found.frame_spec == FrameSpec((64, 80), "<u4", pixel_size=(75e-6, 75e-6))


async def test_a_series_from_start_to_end(control, mock):
    armed = await control.prepare(SERIES, plan(pixel_type="int16", detector_distance=0.1, beam_center=(30.0, 40.5)))
    assert (armed.series, armed.frame_spec.dtype) == (RUN, "<i2")
    assert mock.calls == ["/config/image_format", "/start"]
    assert mock.format == {"summation": True, "geometry_transform": True, "bit_depth_image": 16, "signed_output": True}
    assert mock.dataset == {
        "images_per_trigger": 3,
        "ntrigger": 2,
        "image_time_us": 1000,
        "beam_x_pxl": 40.5,
        "beam_y_pxl": 30.0,
        "detector_distance_mm": 100.0,
        "incident_energy_keV": 12.4,
        "file_prefix": "lima2",
        "compression": "bslz4",
        "run_number": RUN,
        "images_per_file": 0,
        "save_calibration": False,
    }
    for trigger in (1, 2):
        await control.trigger(3, 0.001, 0.0)
        status = await until(control, lambda status: not status.busy)
        assert (status.series, status.triggered, status.sent) == (RUN, 3 * trigger, 3 * trigger)
    kinds = [decode_map(memoryview(mock.stream.recv()))["type"] for _ in range(9)]
    assert kinds == ["start", "calibration", *["image"] * 6, "end"]
    assert (await control.stop()).sent == 6
    assert "/cancel" not in mock.calls
    assert (await control.prepare(SERIES + 10**9, plan(pixel_type="int16"))).series == RUN + 1000
    assert mock.calls.count("/config/image_format") == 1, "it is so already"


async def test_an_internal_series_is_one_trigger(control, mock):
    await control.prepare(SERIES, plan(5, 1, mode=TriggerMode.INTERNAL))
    assert not (await control.status()).busy, "it waits for its trigger"
    await control.trigger(5, 0.001, 0.0)
    assert (await until(control, lambda status: not status.busy)).sent == 5


async def test_lost_images_hold_nothing_up(mock):
    control = connect(mock, timeout=0.3)
    mock.lose = {1}
    await control.prepare(SERIES, plan())
    await control.trigger(3, 0.001, 0.0)
    assert (await until(control, lambda status: not status.busy)).sent == 3
    await control.trigger(3, 0.001, 0.0)
    assert (await until(control, lambda status: not status.busy)).sent == 6
    await control.close()


async def test_a_long_exposure_is_cut_short(control, mock):
    await control.prepare(SERIES, plan(1000, 1000, 0.1))
    await control.trigger(1000, 0.1, 0.0)
    assert (await control.status()).busy
    final = await control.stop()
    assert (final.sent, final.busy) == (-1, False), "it can't say how many"
    assert mock.state == "Idle"
    assert (await control.stop()).sent == -1
    await control.prepare(SERIES, plan())


async def test_a_stop_between_triggers_knows_how_many(control, mock):
    await control.prepare(SERIES, plan())
    await control.trigger(3, 0.001, 0.0)
    await until(control, lambda status: not status.busy)
    assert (await control.stop()).sent == 3
    assert mock.state == "Idle"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nb_frames": 0}, "nb_frames: got 0, expected a number"),
        ({"nb_frames": 7}, "got 7, expected a multiple of nb_frames_per_trigger, 3"),
        ({"photon_energy": 0.0}, "photon_energy: got 0, expected some eV"),
        ({"expo": 1.0005e-3 + 3e-7}, "expected whole microseconds"),
    ],
)
async def test_what_it_can_not_do_is_refused_before_it_is_touched(control, mock, changes, message):
    with pytest.raises(PlanError, match=message):
        await control.prepare(SERIES, plan(**changes))
    assert mock.calls == []


async def test_what_the_broker_refuses_is_told(control, mock):
    with pytest.raises(PlanError, match="/start was refused: image time must be a multiple of frame time"):
        await control.prepare(SERIES, plan(expo=0.0007))
    mock.state = "Pedestal"
    with pytest.raises(DetectorError, match="got state Pedestal, expected Idle"):
        await control.prepare(SERIES, plan())


async def test_what_the_broker_did_not_take_is_refused(control, mock):
    mock.stubborn = {"bit_depth_image": 8}
    with pytest.raises(PlanError, match="bit_depth_image is 8 after it was set to 32"):
        await control.prepare(SERIES, plan())
    assert "/start" not in mock.calls


async def test_images_of_an_unknown_size_are_refused(control, mock, monkeypatch):
    mock.format["geometry_transform"] = False
    with pytest.raises(PlanError, match="has no geometry_transform"):
        await control.prepare(SERIES, plan())
    mock.format["geometry_transform"] = True
    entry = mock._entry
    monkeypatch.setattr(mock, "_entry", lambda number, _: entry(number, (65, 80)))
    with pytest.raises(
        PlanError, match=r"got images of rows, cols, bytes a pixel \(64, 80, 4\), expected \(65, 80, 4\)"
    ):
        await control.prepare(SERIES, plan())
    assert mock.state == "Idle", "what was started is cancelled"


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        ((2, 0.001, 0.0), "got 2, expected 3"),
        ((3, 0.002, 0.0), r"expected 0\.001 s and 0 s, which it was started with"),
    ],
)
async def test_triggers_that_it_was_not_started_for_are_refused(control, mock, trigger, message):
    with pytest.raises(StateError, match="is not armed"):
        await control.trigger(3, 0.001, 0.0)
    await control.prepare(SERIES, plan())
    with pytest.raises(StateError, match=message):
        await control.trigger(*trigger)
    assert "/trigger" not in mock.calls


async def test_one_trigger_at_a_time(control, mock):
    await control.prepare(SERIES, plan(200, 100, 0.1))
    await control.trigger(100, 0.1, 0.0)
    with pytest.raises(StateError, match="still being exposed, for"):
        await control.trigger(100, 0.1, 0.0)
    assert mock.calls.count("/trigger") == 1


async def test_faults_of_the_broker_are_told(control, mock):
    await control.prepare(SERIES, plan())
    mock.state, mock.message = "Error", "no writer"
    assert (await control.status()).fault == "the broker is in error: no writer"
    with pytest.raises(DetectorError, match="is in state Error: no writer; initialize it first"):
        await control.connect()
    mock.state = "Idle"
    assert (await control.status()).fault == "the broker ended the series after 0 of 6 frames"


@pytest.mark.parametrize("pusher", [{"pusher_type": "TCP"}, {"addr": ["tcp://a:1", "tcp://a:2"]}])
async def test_other_ways_of_images_are_refused(control, mock, pusher):
    mock.pusher |= pusher
    with pytest.raises(DetectorError, match="expected one ZeroMQ socket"):
        await control.connect()


async def test_a_slow_answer_is_an_error_in_time(mock):
    control = connect(mock, timeout=0.2)
    mock.slow = threading.Event()
    began = time.monotonic()
    with pytest.raises(DetectorError, match=r"no answer to GET /status within 0\.2 s"):
        await control.status()
    assert time.monotonic() - began < SECONDS
    await control.close()


async def test_no_broker_is_an_error_with_its_address():
    away = PLUGIN.load_control()(JungfraujochSettings("http://127.0.0.1:9"), (), 0.5, Dispatch.ROUND_ROBIN)
    with pytest.raises(DetectorError, match=r"http://127\.0\.0\.1:9: GET /status"):
        await away.connect()
    await away.close()


@pytest.mark.parametrize("answer", [None, [1], {"a": 1}])
async def test_an_answer_of_another_kind_is_an_error(control, mock, monkeypatch, answer):
    monkeypatch.setattr(mock, "answer", lambda *_: answer)
    with pytest.raises(DetectorError, match="/status: got"):
        await control.connect()


async def test_a_stop_reaches_a_broker_whose_status_makes_no_sense(control, mock):
    await control.prepare(SERIES, plan())
    await control.trigger(3, 0.001, 0.0)
    if (exposure := mock._exposure) is not None:
        await asyncio.to_thread(exposure.join)
    mock.statistics = ["nonsense"]
    with pytest.raises(DetectorError, match="statistics"):
        await control.status()
    await control.stop()
    assert mock.calls[-1] == "/cancel"
    assert mock.state == "Idle"


async def test_a_collection_is_taken_over_where_the_images_tell_which_triggers_were_given(control, mock):
    armed = await control.prepare(SERIES, plan())
    other = connect(mock)
    try:
        assert (await other.adopt(armed.series, plan(), 0)).triggered == 0
        await control.trigger(3, 0.001, 0.0)
        await until(control, lambda status: not status.busy)
        status = await other.adopt(armed.series, plan(), 3)
        assert (status.series, status.triggered, status.sent, status.busy) == (RUN, 3, 3, False)
        with pytest.raises(DetectorError, match="3 of 6 images are missing: the last trigger"):
            await other.adopt(armed.series, plan(), 6)
        with pytest.raises(DetectorError, match=f"has run number {RUN}, expected 7"):
            await other.adopt(7, plan(), 3)
        await other.adopt(armed.series, plan(), 3)
        await other.trigger(3, 0.001, 0.0)
        assert (await until(other, lambda status: not status.busy)).sent == 6
    finally:
        await other.close()
