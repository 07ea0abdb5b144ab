"""What goes wrong reaches the plan, with its cause, and nothing is stopped twice."""

import threading
import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus, RunEngineInterrupted
from ophyd_async.core import NotConnectedError, TriggerInfo

from lima2_ophyd.plans import lima2_fly
from lima2_receivers.errors import DetectorError, PlanError, SavingError, StateError, UnreachableError
from lima2_receivers.messages import GetLedger, GetValues, Prepare, Start, Stop, Trigger
from lima2_receivers.published import DetectorState


def cause_of(failure):
    """The error that a status failed with."""
    error = failure.value
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def when_taken(conductor, frames, action):
    """Call ``action`` in a thread once the latest acquisition has that many frames."""

    def wait():
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if conductor.runs and conductor.latest().written >= frames:
                action()
                return
            time.sleep(0.005)  # polls another thread's counter

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not come true")
        time.sleep(0.005)  # polls another thread's state


def test_a_failed_acquisition_fails_the_plan_with_the_reason(run_engine, detector, conductor):
    conductor.period = 0.02
    thread = when_taken(conductor, 3, lambda: conductor.fail("receiver 1: disk is full"))
    with pytest.raises(FailedStatus) as failure:
        run_engine(lima2_fly([detector], 1000, exposure=0.001))
    thread.join(5)
    error = cause_of(failure)
    assert isinstance(error, DetectorError)
    assert "receiver 1: disk is full" in str(error)
    assert len(conductor.requests(Stop)) == 1


def test_a_failure_in_a_step_scan_reaches_the_plan(run_engine, detector, conductor):
    conductor.frames_left = 1
    thread = when_taken(conductor, 1, lambda: wait_until(lambda: len(conductor.requests(Trigger)) == 2))
    failer = threading.Thread(target=lambda: (thread.join(10), conductor.fail("sensor is too hot")))
    failer.start()
    with pytest.raises(FailedStatus) as failure:
        run_engine(bp.count([detector], 3))
    failer.join(5)
    assert "sensor is too hot" in str(cause_of(failure))


def test_a_silent_conductor_fails_the_plan(run_engine, detector, conductor):
    conductor.period = 0.02

    def silence():
        conductor.silent = True

    thread = when_taken(conductor, 3, silence)
    with pytest.raises(FailedStatus) as failure:
        run_engine(lima2_fly([detector], 1000, exposure=0.001))
    thread.join(5)
    error = cause_of(failure)
    assert isinstance(error, UnreachableError)
    assert "silent" in str(error)
    assert conductor.commands in str(error)
    conductor.silent = False


@pytest.mark.parametrize(
    ("accident", "words"),
    [("restart_empty", "does not know"), ("forget", "does not know"), ("stop_latest", "was stopped after")],
)
def test_a_conductor_that_lost_the_acquisition_fails_the_plan(run_engine, detector, conductor, accident, words):
    conductor.period = 0.02
    thread = when_taken(conductor, 3, getattr(conductor, accident))
    with pytest.raises(FailedStatus) as failure:
        run_engine(lima2_fly([detector], 1000, exposure=0.001))
    thread.join(5)
    error = cause_of(failure)
    assert isinstance(error, StateError)
    assert words in str(error)


def test_a_conductor_that_was_restarted_and_knows_the_acquisition_disturbs_nothing(run_engine, detector, conductor):
    thread = when_taken(conductor, 3, conductor.restart)
    run_engine(lima2_fly([detector], 100, exposure=0.001))
    thread.join(5)
    assert conductor.latest().written == 100


@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize("request_kind", [Start, Trigger, GetValues, GetLedger, Stop])
def test_what_a_conductor_did_not_answer_is_asked_again_where_that_is_safe(
    run_engine, detector, conductor, request_kind, carried_out
):
    """As it is killed, and another takes over that knows what was carried out."""
    conductor.killed_by[request_kind] = carried_out
    run_engine(lima2_fly([detector], 2, exposure=0.001) if request_kind is GetLedger else bp.count([detector], 2))
    assert conductor.killed_by == {}
    assert conductor.latest().written == 2


def test_an_exposure_that_never_ends_says_what_is_known(run_engine, detector, conductor):
    conductor.frames_left = 0

    def plan():
        yield from bps.prepare(detector, TriggerInfo(exposure_timeout=0.5), wait=True)
        yield from bps.trigger(detector, wait=True)

    with pytest.raises(FailedStatus) as failure:
        run_engine(bpp.stage_wrapper(plan(), [detector]))
    error = failure.value.__cause__
    assert isinstance(error, DetectorError)
    assert "1 frames asked for, 1 announced, 0 received, 0 settled" in str(error)


def test_a_refused_prepare_leaves_nothing_and_the_next_works(run_engine, detector, conductor):
    conductor.refuse = SavingError("saving.base_path: /nowhere is not there")
    with pytest.raises(FailedStatus) as failure:
        run_engine(bp.count([detector], 1))
    assert "/nowhere is not there" in str(cause_of(failure))
    assert conductor.requests(Stop) == []
    run_engine(bp.count([detector], 1))


def test_a_prepare_that_nobody_answered_is_stopped_before_the_next(run_engine, detector, conductor):
    conductor.refuse = UnreachableError("the conductor did not answer Prepare within 30 s")

    def plan():
        yield from bps.stage(detector)
        with pytest.raises(FailedStatus):
            yield from bps.prepare(detector, TriggerInfo(number_of_events=1), wait=True)
        yield from bps.prepare(detector, TriggerInfo(number_of_events=1), wait=True)
        yield from bps.unstage(detector, wait=True)

    run_engine(plan())
    first, second = conductor.requests(Prepare)
    assert [stop.acquisition for stop in conductor.requests(Stop)] == [first.acquisition, second.acquisition]


def test_a_parameter_out_of_range_is_refused_before_anything_is_sent(run_engine, detector, conductor):
    run_engine(bps.mv(detector.acquisition.expo_time, -1.0))
    with pytest.raises(FailedStatus) as failure:
        run_engine(bp.count([detector], 1))
    error = cause_of(failure)
    assert (
        "acquisition: Expected `float` > 0.0 - at `$.expo_time`"
        in f"{error} {error.__context__} {failure.value.__cause__}"
    )
    assert conductor.requests(Prepare) == []


def test_a_parameter_changed_after_prepare_is_refused(run_engine, detector, conductor):
    @bpp.stage_decorator([detector])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([detector])
        yield from bps.mv(detector.pipeline.noise, 9.0)
        yield from bps.trigger_and_read([detector])

    with pytest.raises(FailedStatus) as failure:
        run_engine(plan())
    error = cause_of(failure)
    assert isinstance(error, PlanError)
    assert "pipeline.fake.noise: prepared with '1.0', now '9.0'" in str(error)
    assert len(conductor.requests(Trigger)) == 1
    assert len(conductor.requests(Stop)) == 1


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (TriggerInfo(collections_per_event=3), "collections_per_event"),
        (TriggerInfo(number_of_events=0), "endless"),
        (TriggerInfo(trigger="EXTERNAL_EDGE", deadtime=0.1), "stage it again"),
    ],
)
def test_what_a_stage_cannot_change_is_refused(run_engine, detector, second, words):
    @bpp.stage_decorator([detector])
    def plan():
        yield from bps.prepare(detector, TriggerInfo(), wait=True)
        yield from bps.prepare(detector, second, wait=True)

    with pytest.raises(FailedStatus) as failure:
        run_engine(plan())
    assert words in str(cause_of(failure))


def test_a_parameter_changed_before_a_later_prepare_is_refused(run_engine, detector):
    @bpp.stage_decorator([detector])
    def plan():
        yield from bps.prepare(detector, TriggerInfo(), wait=True)
        yield from bps.mv(detector.saving.raw.compression, "none")
        yield from bps.prepare(detector, TriggerInfo(), wait=True)

    with pytest.raises(FailedStatus) as failure:
        run_engine(plan())
    assert "saving.streams.raw.compression" in str(cause_of(failure))


def test_unstage_after_a_failure_logs_and_does_not_hide_it(run_engine, detector, conductor, caplog):
    conductor.period = 0.02

    conductor.stop_error = SavingError("the ledger is out of reach")
    thread = when_taken(conductor, 3, lambda: conductor.fail("cable is out"))
    with pytest.raises(FailedStatus) as failure:
        run_engine(lima2_fly([detector], 1000, exposure=0.001))
    thread.join(5)
    assert "cable is out" in str(cause_of(failure))
    assert "while stopping after a failure: the ledger is out of reach" in caplog.text
    run_engine(bp.count([detector], 1))


def test_a_failure_that_only_the_stop_finds_is_raised(run_engine, detector, conductor):
    @bpp.stage_decorator([detector])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([detector])
        conductor.fail("the ledger could not be written")

    with pytest.raises(FailedStatus) as failure:
        run_engine(plan())
    assert "the ledger could not be written" in str(cause_of(failure))


def test_unstage_twice_stops_once(run_engine, detector, conductor):
    @bpp.stage_decorator([detector])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([detector])
        yield from bps.unstage(detector, wait=True)

    run_engine(plan())
    assert len(conductor.requests(Stop)) == 1


@pytest.mark.parametrize("how", ["abort", "stop", "halt"])
def test_an_interrupted_step_stops_once(run_engine, detector, conductor, how):
    conductor.frames_left = 1
    thread = when_taken(
        conductor,
        1,
        lambda: (wait_until(lambda: len(conductor.requests(Trigger)) == 2), run_engine.request_pause()),
    )
    with pytest.raises(RunEngineInterrupted):
        run_engine(bp.count([detector], 3))
    thread.join(5)
    getattr(run_engine, how)()
    wait_until(lambda: conductor.requests(Stop))
    wait_until(lambda: detector.session.acquisition is None)
    assert len(conductor.requests(Stop)) == 1
    assert conductor.latest().machine.state.value == "closed"


def test_a_step_paused_in_the_middle_of_an_exposure_is_not_resumed(run_engine, detector, conductor):
    conductor.frames_left = 1
    thread = when_taken(
        conductor,
        1,
        lambda: (wait_until(lambda: len(conductor.requests(Trigger)) == 2), run_engine.request_pause()),
    )
    with pytest.raises(RunEngineInterrupted):
        run_engine(bp.count([detector], 3))
    thread.join(5)
    with pytest.raises(StateError, match="can't be resumed"):
        run_engine.resume()
    with pytest.raises(StateError, match=r"RE\.abort"):
        run_engine.resume()
    run_engine.abort()
    assert len(conductor.requests(Trigger)) == 2
    assert len(conductor.requests(Stop)) == 1


def test_a_step_scan_paused_between_points_goes_on(run_engine, detector, conductor, documents):
    def pause(name, document):
        if document["seq_num"] == 1:
            run_engine.loop.create_task(run_engine._request_pause_coro(defer=True))

    run_engine.subscribe(pause, "event")
    with pytest.raises(RunEngineInterrupted):
        run_engine(bp.count([detector], 3))
    result = run_engine.resume()
    assert result.exit_status == "success"
    assert len(conductor.requests(Trigger)) == 3
    assert len(conductor.requests(Prepare)) == 1


def test_a_hard_pause_in_a_fly_scan_aborts_it(run_engine, detector, conductor, documents):
    conductor.period = 0.02
    thread = when_taken(conductor, 5, run_engine.request_pause)
    with pytest.raises(RunEngineInterrupted):
        run_engine(lima2_fly([detector], 1000, exposure=0.001))
    thread.join(5)
    assert run_engine.state == "idle"
    (stop,) = [document for name, document in documents if name == "stop"]
    assert stop["exit_status"] in ("abort", "fail")
    wait_until(lambda: detector.session.acquisition is None)
    assert len(conductor.requests(Stop)) == 1
    assert conductor.latest().machine.state.value == "closed"


def test_a_fly_scan_of_another_plan_is_not_resumed_in_its_middle(run_engine, detector, conductor):
    conductor.period = 0.02
    thread = when_taken(conductor, 5, run_engine.request_pause)

    @bpp.stage_decorator([detector])
    @bpp.run_decorator()
    def plan():
        yield from bps.prepare(detector, TriggerInfo(number_of_events=1000), wait=True)
        yield from bps.declare_stream(detector, name="primary", collect=True)
        yield from bps.checkpoint()
        yield from bps.kickoff(detector, wait=True)
        yield from bps.collect_while_completing([detector], [detector], flush_period=0.1, stream_name="primary")

    with pytest.raises(RunEngineInterrupted):
        run_engine(plan())
    thread.join(5)
    with pytest.raises(StateError, match="can't be resumed"):
        run_engine.resume()
    run_engine.abort()
    assert len(conductor.requests(Start)) == 1
    assert len(conductor.requests(Stop)) == 1


def test_stage_of_a_silent_conductor_fails_at_once(run_engine, detector, conductor):
    conductor.silent = True
    wait_until(lambda: detector.session.connection.silent)
    with pytest.raises(FailedStatus) as failure:
        run_engine(bp.count([detector], 1))
    assert isinstance(cause_of(failure), UnreachableError)
    conductor.silent = False
    wait_until(lambda: not detector.session.connection.silent)
    run_engine(bp.count([detector], 1))


def test_no_conductor_is_not_connected(run_engine, detector, conductor):
    conductor.silent = True
    with pytest.raises(NotConnectedError, match="conductor at ipc"):
        call_in_bluesky_event_loop(detector.connect(timeout=0.3, force_reconnect=True), 5)
    conductor.silent = False
    call_in_bluesky_event_loop(detector.connect(force_reconnect=True), 5)
    run_engine(bp.count([detector], 1))


def test_health_follows_receivers_and_detector(run_engine, detector, conductor):
    def healthy():
        return call_in_bluesky_event_loop(detector.healthy.get_value(), 5)

    wait_until(healthy)
    conductor.alive = False
    wait_until(lambda: not healthy())
    conductor.alive = True
    wait_until(healthy)
    conductor.detector = DetectorState.FAULT
    wait_until(lambda: not healthy())
