"""Fly scans: one trigger for all frames, documents while they come."""

import itertools
import threading

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from ophyd_async.core import DetectorTrigger, TriggerInfo

from lima2_ophyd.plans import lima2_fly
from lima2_receivers.messages import Prepare, Start, Stop, Trigger
from lima2_receivers.plan import TriggerMode


def of(documents, kind):
    return [document for name, document in documents if name == kind]


def datums_of(documents, key):
    uids = {d["uid"] for d in of(documents, "stream_resource") if d["data_key"] == key}
    return [d for d in of(documents, "stream_datum") if d["stream_resource"] in uids]


def ranges(datums, what):
    return [(d[what]["start"], d[what]["stop"]) for d in datums]


def test_fly_is_one_trigger_and_contiguous_documents(run_engine, detector, conductor, documents):
    conductor.period = 0.02
    result = run_engine(lima2_fly([detector], 40, exposure=0.004, latency=0.001, md={"sample": "lysozyme"}))

    assert result.exit_status == "success"
    assert conductor.latest().exposures == [(40, 0.004, 0.001)]
    for kind in (Prepare, Start, Trigger, Stop):
        assert len(conductor.requests(kind)) == 1
    (start,) = of(documents, "start")
    assert start["sample"] == "lysozyme"
    assert start["plan_name"] == "lima2_fly"
    for key in ("det", "det-n_peaks", "det-frame_status"):
        datums = datums_of(documents, key)
        indices = ranges(datums, "indices")
        assert len(indices) > 1
        assert indices[0][0] == 0
        assert indices[-1][1] == 40
        assert all(one[1] == other[0] for one, other in itertools.pairwise(indices))
        assert [(a + 1, b + 1) for a, b in indices] == ranges(datums, "seq_nums")
    (primary,) = [d for d in of(documents, "descriptor") if d["name"] == "primary"]
    assert primary["hints"]["det"]["fields"] == []


def test_fly_reads_the_ledger_into_a_stream(run_engine, detector, documents):
    run_engine(lima2_fly([detector], 10, exposure=0.001))
    (ledger,) = [d for d in of(documents, "descriptor") if d["name"] == "ledger"]
    (event,) = [d for d in of(documents, "event") if d["descriptor"] == ledger["uid"]]
    assert event["data"]["det-announced"] == 10
    assert event["data"]["det-saved"] == 10
    assert event["data"]["det-lost"] == 0
    assert 0 < event["data"]["det-hit_rate"] < 1
    assert event["data"]["det-announced_by"] == "triggers"
    assert event["data"]["det-reasons"] == "{}"
    assert [list(event["data"][f"det-runs_{name}"]) for name in ("first", "count", "status")] == [[0], [10], [1]]


def test_frames_of_the_scan_before_do_not_complete_the_next(run_engine, detector, conductor, documents):
    run_engine(lima2_fly([detector], 20, exposure=0.001))
    documents.clear()
    conductor.period = 0.03
    run_engine(lima2_fly([detector], 5, exposure=0.001))
    indices = ranges(datums_of(documents, "det"), "indices")
    assert (indices[0][0], indices[-1][1]) == (0, 5)


def test_several_kickoffs_of_one_prepare(run_engine, detector, conductor, documents):
    @bpp.stage_decorator([detector])
    @bpp.run_decorator()
    def plan():
        info = TriggerInfo(number_of_events=6, collections_per_event=2, livetime=0.001)
        yield from bps.prepare(detector, info, wait=True)
        yield from bps.declare_stream(detector, name="primary", collect=True)
        for events in (4, 2):
            yield from bps.mv(detector.events_to_kickoff, events)
            yield from bps.kickoff(detector, wait=True)
            yield from bps.collect_while_completing([detector], [detector], flush_period=0.1, stream_name="primary")

    run_engine(plan())
    assert [request.n_frames for request in conductor.requests(Trigger)] == [8, 4]
    assert ranges(datums_of(documents, "det"), "indices")[-1][1] == 6
    (primary,) = of(documents, "descriptor")
    assert primary["data_keys"]["det"]["shape"] == [2, 16, 24]


def test_external_triggers_arm_at_prepare(run_engine, detector, conductor, documents):
    @bpp.stage_decorator([detector])
    @bpp.run_decorator()
    def plan():
        info = TriggerInfo(trigger=DetectorTrigger.EXTERNAL_EDGE, number_of_events=5, livetime=0.001, deadtime=0.001)
        yield from bps.prepare(detector, info, wait=True)
        yield from bps.declare_stream(detector, name="primary", collect=True)
        yield from bps.kickoff(detector, wait=True)
        conductor.edges.set()
        yield from bps.collect_while_completing([detector], [detector], flush_period=0.1, stream_name="primary")

    conductor.edges.clear()
    conductor.frames_left = 5
    run_engine(plan())
    assert conductor.requests(Prepare)[0].plan.acquisition.trigger_mode is TriggerMode.EXTERNAL
    assert len(conductor.requests(Start)) == 1
    assert conductor.requests(Trigger) == []
    assert ranges(datums_of(documents, "det"), "indices")[-1][1] == 5


def test_progress_is_watched(run_engine, detector, conductor):
    seen = []

    class Hook:
        def __call__(self, statuses):
            for status in statuses or ():
                if hasattr(status, "watch"):
                    status.watch(lambda *_, **values: seen.append((values["current"], values["target"])))

    run_engine.waiting_hook = Hook()
    conductor.period = 0.01
    run_engine(lima2_fly([detector], 10, exposure=0.001))
    assert (10, 10) in seen


def test_a_first_interruption_lets_the_scan_finish(run_engine, detector, conductor, documents):
    conductor.period = 0.02
    asked = threading.Event()

    def pause(name, document):
        if not asked.is_set():
            asked.set()
            threading.Thread(target=run_engine.request_pause, kwargs={"defer": True}).start()

    run_engine.subscribe(pause, "stream_datum")
    result = run_engine(lima2_fly([detector], 40, exposure=0.001))
    assert asked.is_set()
    assert result.exit_status == "success"
    assert ranges(datums_of(documents, "det"), "indices")[-1][1] == 40
