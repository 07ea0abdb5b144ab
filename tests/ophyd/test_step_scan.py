"""Step scans: one acquisition a stage, one software trigger a point."""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
from ophyd_async.core import TriggerInfo

from lima2_receivers.messages import Prepare, Start, Stop, Trigger
from lima2_receivers.plan import TriggerMode


def of(documents, kind):
    return [document for name, document in documents if name == kind]


def test_count_is_one_acquisition_with_a_trigger_a_point(run_engine, detector, conductor, documents):
    run_engine(bp.count([detector], 3))

    assert len(conductor.requests(Prepare)) == 1
    assert len(conductor.requests(Start)) == 1
    assert [request.n_frames for request in conductor.requests(Trigger)] == [1, 1, 1]
    assert len(conductor.requests(Stop)) == 1
    plan = conductor.requests(Prepare)[0].plan
    assert plan.acquisition.trigger_mode is TriggerMode.SOFTWARE
    assert plan.acquisition.nb_frames == 0

    (descriptor,) = of(documents, "descriptor")
    keys = descriptor["data_keys"]
    assert keys["det"]["shape"] == [16, 24]
    assert keys["det"]["dtype"] == "array"
    assert keys["det"]["units"] == "photons"
    assert keys["det-raw"]["shape"] == [2, 8, 24]
    assert keys["det-background"] == {**keys["det-background"], "shape": [5], "dtype": "array", "dtype_numpy": "<f4"}
    assert keys["det-n_peaks"]["shape"] == []
    assert keys["det-n_peaks"]["dtype"] == "number"
    assert {"det-peaks", "det-is_hit", "det-frame_status", "det-last_n_peaks", "det-last_is_hit"} <= keys.keys()
    assert descriptor["hints"]["det"]["fields"] == ["det-last_n_peaks", "det-last_is_hit", "det-hit_rate"]

    resources = of(documents, "stream_resource")
    assert len(resources) == 7
    assert len({resource["uri"] for resource in resources}) == 1
    (main,) = [resource for resource in resources if resource["data_key"] == "det"]
    assert main["mimetype"] == "application/x-hdf5"
    assert main["parameters"] == {
        "dataset": "/entry_0000/measurement/data",
        "swmr": True,
        "chunk_shape": (4, 16, 24),
    }
    datums = [d for d in of(documents, "stream_datum") if d["stream_resource"] == main["uid"]]
    assert [(d["indices"]["start"], d["indices"]["stop"]) for d in datums] == [(0, 1), (1, 2), (2, 3)]
    assert [(d["seq_nums"]["start"], d["seq_nums"]["stop"]) for d in datums] == [(1, 2), (2, 3), (3, 4)]


def test_events_have_the_flushed_scalars_of_their_own_frame(run_engine, detector, documents):
    run_engine(bp.count([detector], 3))
    events = of(documents, "event")
    assert [event["data"]["det-last_n_peaks"] for event in events] == [0, 1, 2]
    assert [event["data"]["det-last_is_hit"] for event in events] == [0, 1, 0]


def test_configuration_has_parameters_and_what_prepare_found(run_engine, detector, conductor, documents):
    run_engine(bps.mv(detector.acquisition.expo_time, 0.003, detector.pipeline.noise, 2.5))
    run_engine(bp.count([detector], 1))
    (descriptor,) = of(documents, "descriptor")
    data = descriptor["configuration"]["det"]["data"]
    assert data["det-acquisition-expo_time"] == 0.003
    assert data["det-pipeline-noise"] == 2.5
    assert data["det-opencl_device"] == "fake"
    assert data["det-acquisition_id"] == conductor.latest().id
    assert data["det-master_file"] == str(conductor.latest().files.master)


def test_each_stage_is_an_acquisition_of_its_own(run_engine, detector, conductor, documents):
    run_engine(bp.count([detector], 2))
    run_engine(bp.count([detector], 2))
    assert len(conductor.runs) == 2
    assert len(conductor.requests(Stop)) == 2
    assert [run.written for run in conductor.runs.values()] == [2, 2]
    starts = [d["indices"]["start"] for d in of(documents, "stream_datum") if d["indices"]["start"] == 0]
    assert len(starts) == 14


def test_later_prepares_change_exposure_and_frame_count(run_engine, detector, conductor, documents):
    @bpp.stage_decorator([detector])
    @bpp.run_decorator()
    def plan():
        for exposure in (0.001, 0.002):
            yield from bps.prepare(detector, TriggerInfo(livetime=exposure, deadtime=0.0005), wait=True)
            yield from bps.trigger_and_read([detector])

    run_engine(plan())
    assert len(conductor.requests(Prepare)) == 1
    assert conductor.latest().exposures == [(1, 0.001, 0.0005), (1, 0.002, 0.0005)]


def test_many_frames_an_event(run_engine, detector, conductor, documents):
    @bpp.stage_decorator([detector])
    @bpp.run_decorator()
    def plan():
        yield from bps.prepare(detector, TriggerInfo(collections_per_event=4), wait=True)
        yield from bps.trigger_and_read([detector])
        yield from bps.trigger_and_read([detector])

    run_engine(plan())
    assert [request.n_frames for request in conductor.requests(Trigger)] == [4, 4]
    (descriptor,) = of(documents, "descriptor")
    assert descriptor["data_keys"]["det"]["shape"] == [4, 16, 24]
    assert descriptor["data_keys"]["det-n_peaks"]["shape"] == [4]
    assert "det-last_n_peaks" not in descriptor["data_keys"]
    assert descriptor["hints"]["det"]["fields"] == []


def test_two_detectors_side_by_side(run_engine, make_detector, conductor, documents):
    first, second = make_detector("one"), make_detector("two")
    run_engine(bp.count([first, second], 2))
    assert len(conductor.runs) == 2
    (descriptor,) = of(documents, "descriptor")
    assert {"one", "two", "one-n_peaks", "two-n_peaks"} <= descriptor["data_keys"].keys()
