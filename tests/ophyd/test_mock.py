"""Mock mode: everything that plans do, and nothing is sent."""

import bluesky.plans as bp
import pytest
from bluesky.run_engine import call_in_bluesky_event_loop
from ophyd_async.core import DetectorTrigger, TriggerInfo, get_mock_execute, set_mock_value

from lima2_ophyd._plan_signals import decode_plan
from lima2_ophyd.plans import lima2_fly


def of(documents, kind):
    return [document for name, document in documents if name == kind]


def test_step_scan(run_engine, mock_detector, documents):
    run_engine(bp.count([mock_detector], 3))
    commands = mock_detector.conductor
    assert get_mock_execute(commands.prepare_acquisition).await_count == 1
    assert get_mock_execute(commands.start_acquisition).await_count == 1
    assert [call.args[1] for call in get_mock_execute(commands.trigger_frames).await_args_list] == [1, 1, 1]
    assert get_mock_execute(commands.stop_acquisition).await_count == 1
    assert [event["data"]["det-last_n_peaks"] for event in of(documents, "event")] == [0, 0, 0]


def test_the_plan_is_what_the_signals_say(run_engine, mock_detector, tmp_path):
    async def set_up():
        await mock_detector.pipeline.noise.set(4.0)
        await mock_detector.saving.raw.compression.set("zip")
        await mock_detector.saving.file_exists_policy.set("overwrite")

    call_in_bluesky_event_loop(set_up(), 5)
    run_engine(bp.count([mock_detector], 1))
    plan = decode_plan(get_mock_execute(mock_detector.conductor.prepare_acquisition).await_args.args[1])
    assert plan.saving.base_path == str(tmp_path)
    assert plan.saving.streams.keys() == {"raw"}
    assert plan.saving.streams["raw"].compression == "zip"
    assert plan.saving.file_exists_policy == "overwrite"
    assert plan.pipeline.name == "fake"


def test_fly_scan_advances_the_counter(run_engine, mock_detector, documents):
    run_engine(lima2_fly([mock_detector], 10, exposure=0.1))
    assert of(documents, "stream_datum")[-1]["indices"]["stop"] == 10
    assert get_mock_execute(mock_detector.conductor.trigger_frames).await_args.args[1:] == (10, 0.1, 0.0)


@pytest.mark.parametrize("trigger", list(DetectorTrigger))
async def test_stage_prepare_kickoff_complete(mock_detector, trigger):
    # In the test's own loop, without a RunEngine.
    await mock_detector.connect(mock=True)
    await mock_detector.stage()
    await mock_detector.prepare(TriggerInfo(trigger=trigger, number_of_events=4))
    await mock_detector.kickoff()
    set_mock_value(mock_detector.written, 4)
    await mock_detector.complete()
    assert await mock_detector.written.get_value() == 4
    await mock_detector.unstage()
    assert await mock_detector.acquisition_state.get_value() == "closed"
