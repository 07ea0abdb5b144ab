"""An Eiger2's control half against the simulated detector: order, side effects, limits, errors, slow answers."""

import threading
import time

import msgspec
import pytest
import zmq

from lima2_processing.frame import FrameSpec
from lima2_receivers.detectors.eiger2.control import Eiger2Control
from lima2_receivers.detectors.eiger2.params import Eiger2Settings
from lima2_receivers.detectors.eiger2.simulated import Look, Server, SimulatedEiger2
from lima2_receivers.detectors.eiger2.stream2 import parse_stream2
from lima2_receivers.errors import DetectorError, PlanError, StateError
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, SavingParams, TriggerMode
from lima2_receivers.topology import Dispatch

LOOK = Look(rows=64, columns=80)
SECONDS = 5.0


class Bench:
    """A simulated detector, its server, the end of its stream, and our control half."""

    def __init__(self, folder, timeout=2.0, stream="cbor"):
        self.stream = zmq.Context.instance().socket(zmq.PULL)
        self.stream.linger = 0
        self.stream.rcvtimeo = int(1000 * SECONDS)
        self.detector = SimulatedEiger2(f"ipc://{folder}/stream", LOOK)
        self.stream.connect(f"ipc://{folder}/stream")
        self.server = Server(self.detector)
        self._thread = threading.Thread(target=self.server.serve)
        self._thread.start()
        self.control = Eiger2Control(Eiger2Settings(self.server.url, stream=stream), (), timeout, Dispatch.DYNAMIC)

    def events(self, count):
        return [parse_stream2(memoryview(self.stream.recv())) for _ in range(count)]

    async def until(self, condition):
        deadline = time.monotonic() + SECONDS
        while not condition(status := await self.control.status()):
            assert time.monotonic() < deadline, status
        return status

    async def close(self):
        await self.control.close()
        self.server.close()
        self._thread.join()
        self.detector.close()
        self.stream.close(linger=0)


@pytest.fixture
async def bench(sockets):
    made = Bench(sockets)
    yield made
    await made.close()


def plan(nb_frames=6, per_trigger=3, expo=0.001, latency=0.0, mode=TriggerMode.SOFTWARE, **detector):
    acquisition = AcquisitionParams(nb_frames, expo, latency, mode, per_trigger)
    return AcquisitionPlan(SavingParams("/d"), acquisition, detector=msgspec.Raw(msgspec.msgpack.encode(detector)))


async def test_connecting_tells_what_it_is(bench):
    found = await bench.control.connect()
    assert found.model == "Simulated Eiger2 64x80"
    assert found.frame_spec == FrameSpec((64, 80), "<u2", pixel_size=(75e-6, 75e-6))
    assert found.max_receivers == 0


async def test_a_series_from_arm_to_end(bench):
    armed = await bench.control.prepare(99, plan())
    assert armed.series == 1, "the detector's own number"
    for trigger in (1, 2):
        await bench.control.trigger(3, 0.001, 0.0)
        status = await bench.until(lambda status: not status.busy)
        assert (status.series, status.triggered, status.sent) == (1, 3 * trigger, 3 * trigger)
    events = bench.events(8)
    assert [type(event).__name__ for event in events] == ["StreamStart", *["StreamImage"] * 6, "StreamEnd"]
    assert [event.index for event in events[1:-1]] == list(range(6))
    final = await bench.control.stop()
    assert (final.sent, final.busy) == (6, False)
    assert (await bench.control.prepare(99, plan())).series == 2


async def test_configuring_keeps_the_order_that_side_effects_ask_for(bench):
    await bench.control.prepare(1, plan(photon_energy=12700, threshold_energy=6350))
    calls = [call for call in bench.detector.calls if call != "disarm"]
    for first, then in (
        ("photon_energy", "threshold_energy"),
        ("threshold_energy", "frame_time"),
        ("frame_time", "count_time"),
        ("count_time", "arm"),
        ("format", "arm"),
    ):
        assert calls.index(first) < calls.index(then)
    settings = bench.detector.config["detector"]
    assert (settings["nimages"], settings["ntrigger"], settings["count_time"]) == (3, 2, 0.001)


async def test_an_internal_series_is_one_trigger(bench):
    await bench.control.prepare(1, plan(5, 1, mode=TriggerMode.INTERNAL))
    await bench.control.trigger(5, 0.001, 0.0)
    assert (await bench.until(lambda status: not status.busy)).sent == 5
    assert len(bench.events(7)) == 7


@pytest.mark.parametrize(
    ("mode", "per_trigger", "setting"), [(TriggerMode.EXTERNAL, 3, "exts"), (TriggerMode.GATE, 1, "exte")]
)
async def test_a_signal_triggers_and_the_detector_says_when_it_has_had_all(bench, mode, per_trigger, setting):
    await bench.control.prepare(1, plan(2 * per_trigger, per_trigger, mode=mode))
    settings = bench.detector.config["detector"]
    assert (settings["trigger_mode"], settings["nimages"], settings["ntrigger"]) == (setting, per_trigger, 2)
    await bench.control.trigger(2 * per_trigger, 0.001, 0.0)  # takes the signal, and exposes nothing
    assert bench.detector.pulse()
    status = await bench.control.status()
    assert (status.sent, status.busy, status.fault) == (-1, False, "")
    assert bench.detector.pulse()
    status = await bench.until(lambda status: status.sent >= 0)
    assert (status.triggered, status.sent) == (2 * per_trigger, 2 * per_trigger)
    assert not bench.detector.pulse()
    events = bench.events(2 + 2 * per_trigger)
    assert [event.index for event in events[1:-1]] == list(range(2 * per_trigger))
    assert "trigger" not in bench.detector.calls
    assert (await bench.control.stop()).sent == 2 * per_trigger


@pytest.mark.parametrize("mode", [TriggerMode.SOFTWARE, TriggerMode.EXTERNAL])
async def test_triggers_come_until_it_is_stopped(bench, mode):
    await bench.control.prepare(1, plan(0, 2, mode=mode))
    if mode is TriggerMode.SOFTWARE:
        await bench.control.trigger(4, 0.001, 0.0)
        await bench.until(lambda status: status.sent == 4 and not status.busy)
    else:
        assert bench.detector.pulse()
        assert bench.detector.pulse()
    assert bench.detector.state == "ready", "for more"
    final = await bench.control.stop()
    assert final.sent == (4 if mode is TriggerMode.SOFTWARE else -1)
    assert type(bench.events(6)[-1]).__name__ == "StreamEnd"
    assert bench.detector.state == "idle"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nb_frames": 0, "mode": TriggerMode.INTERNAL, "per_trigger": 1}, "nb_frames: got 0, expected a number"),
        ({"nb_frames": 7}, "got 7, expected a multiple of nb_frames_per_trigger, 3"),
    ],
)
async def test_what_it_can_not_do_is_refused_before_it_is_touched(bench, changes, message):
    with pytest.raises(PlanError, match=message):
        await bench.control.prepare(1, plan(**changes))
    assert bench.detector.calls == []


async def test_what_the_detector_did_not_take_is_refused(bench, monkeypatch):
    put = bench.detector.put

    def stubborn(module, name, value):
        return put(module, name, 7000.0 if name == "threshold_energy" else value)

    monkeypatch.setattr(bench.detector, "put", stubborn)
    with pytest.raises(PlanError, match=r"threshold_energy is 7000\.0 after it was set to 6350\.0"):
        await bench.control.prepare(1, plan(threshold_energy=6350))
    assert bench.detector.state == "idle"


async def test_times_that_the_detector_bends_are_refused(bench, monkeypatch):
    put = bench.detector.put

    def slow(module, name, value):
        return put(module, name, max(value, 0.5) if name == "frame_time" else value)

    monkeypatch.setattr(bench.detector, "put", slow)
    with pytest.raises(PlanError, match=r"the detector took frame_time 0\.5 s, expected 0\.001 s"):
        await bench.control.prepare(1, plan())


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        ((2, 0.001, 0.0), "got 2, expected a multiple of 3"),
        ((3, 0.002, 0.0), r"expected 0\.001 s and 0 s, which it was armed with"),
    ],
)
async def test_triggers_that_it_was_not_armed_for_are_refused(bench, trigger, message):
    await bench.control.prepare(1, plan())
    with pytest.raises(StateError, match=message):
        await bench.control.trigger(*trigger)
    assert "trigger" not in bench.detector.calls


async def test_one_trigger_at_a_time(bench):
    await bench.control.prepare(1, plan(expo=2.0))
    await bench.control.trigger(3, 2.0, 0.0)
    with pytest.raises(StateError, match="still being exposed"):
        await bench.control.trigger(3, 2.0, 0.0)
    assert bench.detector.calls.count("trigger") == 1


async def test_a_trigger_right_behind_another_waits_for_its_end(bench):
    await bench.control.prepare(1, plan(expo=0.05))
    await bench.control.trigger(3, 0.05, 0.0)
    await bench.control.trigger(3, 0.05, 0.0)
    assert (await bench.until(lambda status: not status.busy)).sent == 6


async def test_a_long_exposure_is_cut_short(bench):
    await bench.control.prepare(1, plan(expo=1.0))
    await bench.control.trigger(3, 1.0, 0.0)
    assert (await bench.control.status()).busy
    began = time.monotonic()
    final = await bench.control.stop()
    assert time.monotonic() - began < 1.0
    assert (final.sent, final.busy) == (-1, False), "it can't say how many"
    assert "cancel" in bench.detector.calls
    await bench.until(lambda status: not status.busy)
    assert (await bench.control.stop()).sent == -1
    assert (await bench.control.prepare(1, plan())).series == 2


async def test_a_trigger_that_is_refused_is_told(bench):
    await bench.control.prepare(1, plan())
    bench.detector.state = "idle"  # somebody disarmed it
    with pytest.raises(DetectorError, match=r"trigger was refused: 400 Bad Request.*it is idle, expected ready"):
        await bench.control.trigger(3, 0.001, 0.0)
    assert "it is idle" in (await bench.control.status()).fault


async def test_a_detector_in_error_is_a_fault(bench, monkeypatch):
    get = bench.detector.get

    def broken(module, kind, name):
        return {"state": "error", "error": ["high_voltage/state"]}.get(name) or get(module, kind, name)

    monkeypatch.setattr(bench.detector, "get", broken)
    status = await bench.control.status()
    assert status.fault == "is in error: high_voltage/state"
    assert not status.busy


async def test_one_that_was_never_initialized_says_so(bench):
    bench.detector.state = "na"
    with pytest.raises(DetectorError, match="is not initialized"):
        await bench.control.connect()


async def test_a_slow_answer_is_an_error_in_time(sockets, monkeypatch):
    bench = Bench(sockets, timeout=0.2)
    slow = threading.Event()
    monkeypatch.setattr(bench.detector, "get", lambda *_: slow.wait(SECONDS))
    began = time.monotonic()
    with pytest.raises(DetectorError, match=r"no answer to GET detector/status/state within 0\.2 s"):
        await bench.control.status()
    assert time.monotonic() - began < SECONDS
    slow.set()
    await bench.close()


async def test_no_detector_is_an_error_with_its_address(bench):
    away = Eiger2Control(Eiger2Settings("http://127.0.0.1:9"), (), 0.5, Dispatch.DYNAMIC)
    with pytest.raises(DetectorError, match=r"http://127\.0\.0\.1:9: GET detector/status/state"):
        await away.connect()
    await away.close()


@pytest.mark.parametrize("answer", [None, [1], {"a": 1}])
async def test_an_answer_of_another_kind_is_an_error(bench, monkeypatch, answer):
    monkeypatch.setattr(bench.detector, "get", lambda *_: answer)
    with pytest.raises(DetectorError, match=r"detector/status/state: got .*, expected"):
        await bench.control.prepare(1, plan())


async def test_two_thresholds_are_channels(bench):
    bench.detector.config["detector"] |= {
        "threshold/1/mode": "enabled",
        "threshold/2/mode": "enabled",
        "threshold/difference/mode": "disabled",
    }
    assert (await bench.control.connect()).frame_spec.shape == (2, 64, 80)


async def test_a_detector_that_is_not_initialized_is_if_it_may_be(bench):
    bench.detector.state = "na"
    with pytest.raises(DetectorError, match=r"is not initialized: .* or set `initialize = true`"):
        await bench.control.connect()
    willing = Eiger2Control(Eiger2Settings(bench.server.url, initialize=True), (), 2.0, Dispatch.DYNAMIC)
    try:
        assert (await willing.connect()).model
        assert bench.detector.state == "idle"
    finally:
        await willing.close()


@pytest.mark.parametrize(
    ("asked", "shape"),
    [
        ({}, (64, 80)),
        ({"thresholds": 2, "threshold_2_energy": 9000.0}, (2, 64, 80)),
        ({"thresholds": 2, "difference": True}, (3, 64, 80)),
    ],
    ids=str,
)
async def test_thresholds_and_their_difference_are_channels(bench, asked, shape):
    armed = await bench.control.prepare(1, plan(**asked))
    assert armed.frame_spec.shape == shape
    await bench.control.stop()
    one = await bench.control.prepare(1, plan(thresholds=1, difference=False))
    assert one.frame_spec.shape == (64, 80)


async def test_corrections_are_the_detectors_unless_they_are_chosen(bench):
    config = bench.detector.config["detector"]
    await bench.control.prepare(1, plan(flatfield=False))
    assert (config["flatfield_correction_applied"], config["pixel_mask_applied"]) == (False, True)
    await bench.control.stop()
    await bench.control.prepare(1, plan(pixel_mask=False))
    assert (config["flatfield_correction_applied"], config["pixel_mask_applied"]) == (False, False)


async def test_an_appendix_is_not_sent_again(bench):
    await bench.control.prepare(1, plan(header_appendix="first"))
    assert bench.detector.config["stream"]["header_appendix"] == "first"
    await bench.control.stop()
    await bench.control.prepare(1, plan())
    assert bench.detector.config["stream"]["header_appendix"] == ""


async def test_images_are_stamped_with_when_they_began(bench):
    await bench.control.prepare(1, plan(3, expo=0.01))
    await bench.control.trigger(3, 0.01, 0.0)
    _, *images, _ = bench.events(5)
    first, *later = (image.timestamp for image in images)
    assert [round(stamp - first, 4) for stamp in later] == [0.01, 0.02]


async def successor(bench, series, asked, **choice):
    """The control half of another conductor, which has adopted the series."""
    made = Eiger2Control(Eiger2Settings(bench.server.url), (), 2.0, Dispatch.DYNAMIC)
    await made.connect()
    try:
        return made, await made.adopt(series, plan(**choice), asked)
    except BaseException:
        await made.close()
        raise


async def test_an_exposure_under_way_is_taken_over(bench):
    choice = {"nb_frames": 10, "expo": 0.1, "mode": TriggerMode.INTERNAL}
    armed = await bench.control.prepare(1, plan(**choice))
    await bench.control.trigger(10, 0.1, 0.0)
    made, status = await successor(bench, armed.series, 10, **choice)
    first, bench.control = bench.control, made
    assert (status.series, status.triggered, status.sent, status.busy) == (1, 10, 0, True)
    assert (await bench.until(lambda status: not status.busy)).sent == 10
    await first.close()


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (6, 0)])
async def test_an_armed_detector_is_taken_over_and_tells_whether_it_was_triggered(bench, asked, given):
    choice = {"nb_frames": 6, "per_trigger": 6}
    await bench.control.prepare(1, plan(**choice))
    made, status = await successor(bench, 1, asked, **choice)
    assert (status.triggered, status.sent, status.busy) == (given, given, False)
    await made.trigger(6, 0.001, 0.0)
    first, bench.control = bench.control, made
    assert (await bench.until(lambda status: not status.busy)).sent == 6
    await first.close()


async def test_what_was_sent_whole_is_taken_over_and_what_was_triggered_by_halves_is_not(bench):
    await bench.control.prepare(1, plan())
    await bench.control.trigger(3, 0.001, 0.0)
    await bench.until(lambda status: not status.busy)
    with pytest.raises(DetectorError, match="state ready, which does not tell how many of 3 frames"):
        await successor(bench, 1, 3)
    await bench.control.trigger(3, 0.001, 0.0)
    await bench.until(lambda status: not status.busy)
    made, status = await successor(bench, 1, 6)
    assert (status.triggered, status.sent, status.busy) == (6, 6, False)
    await made.close()
    await bench.control.stop()
    with pytest.raises(DetectorError, match="state idle, which does not tell"):
        await successor(bench, 1, 0)
