"""Two devices in front of one conductor: the second prepares while the first's ``complete`` still waits."""

from __future__ import annotations

import os
import time
from pathlib import Path

import h5py
import pytest
from bluesky import RunEngine
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus
from event_model import DocumentNames, schema_validators
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices

from lima2_ophyd.detector import Lima2Detector
from lima2_ophyd.plans import lima2_overlap

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

STAND_INS = str(Path(__file__).parent / "stand_ins" / "pipelines")
N_FRAMES = 12


@pytest.fixture
def documents():
    return []


@pytest.fixture
def run_engine(documents):
    engine = RunEngine({}, context_managers=[])

    def take(name, document):
        schema_validators[DocumentNames[name]].validate(document)
        documents.append((name, document))

    engine.subscribe(take)
    yield engine
    if engine.state != "idle":
        engine.halt()


@pytest.fixture
def devices(make_site, monkeypatch, run_engine):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((STAND_INS, os.environ.get("PYTHONPATH", ""))))
    monkeypatch.syspath_prepend(STAND_INS)
    site = make_site()
    site.config.write_text(site.config.read_text().replace("slots = 8", "slots = 32"))
    site.start()
    deadline = time.monotonic() + 30
    while not ((site.sockets / "s").exists() and "is ready" in site.log("detector")):
        assert time.monotonic() < deadline
        time.sleep(0.02)

    def make() -> Lima2Detector:
        places = StaticPathProvider(UUIDFilenameProvider(), site.data)
        return Lima2Detector(f"ipc://{site.sockets}/c", f"ipc://{site.sockets}/s", places, pipeline="held")

    with init_devices():
        first = make()
        second = make()
    made = (first, second)
    made[0].site = site
    yield made
    for device in made:
        call_in_bluesky_event_loop(device.disconnect())


async def put(target, value):
    await target.set(value)


async def get(signal):
    return await signal.get_value()


def last(documents, data_key):
    """Where the last datum of a data key ends."""
    resources = {doc["uid"] for name, doc in documents if name == "stream_resource" and doc["data_key"] == data_key}
    ends = [
        doc["indices"]["stop"]
        for name, doc in documents
        if name == "stream_datum"
        if doc["stream_resource"] in resources
    ]
    return max(ends, default=0)


def test_the_second_prepares_while_the_first_still_drains(devices, run_engine, documents):
    first, second = devices
    hold = first.site.folder / "hold"
    hold.touch()
    call_in_bluesky_event_loop(put(first.pipeline.hold, str(hold)))
    seen = []

    def let_go(name, document):
        """Only when the second is prepared may the first one's frames go on: else this plan would never end."""
        if document["name"] == "second":
            seen.append(first.session.connection.acquisition)
            seen.append(second.session.prepared)
            hold.unlink()

    run_engine.subscribe(let_go, "descriptor")
    run_engine(lima2_overlap(devices, N_FRAMES, exposure=0.002))
    assert documents[-1][1]["exit_status"] == "success"
    draining, prepared = seen
    assert (draining.state, draining.announced, draining.written) == ("draining", N_FRAMES, 0)
    assert prepared.acquisition != draining.acquisition
    counters = [[call_in_bluesky_event_loop(get(one)) for one in (device.written, device.saved)] for device in devices]
    assert counters == [[N_FRAMES, N_FRAMES]] * 2
    assert [last(documents, name) for name in ("first", "second")] == [N_FRAMES, N_FRAMES]
    assert len({call_in_bluesky_event_loop(get(device.acquisition_id)) for device in devices}) == 2
    masters = [Path(call_in_bluesky_event_loop(get(device.master_file))) for device in devices]
    assert masters[0] != masters[1]
    for master in masters:
        with h5py.File(master, "r", swmr=True, libver="latest") as file:
            assert file["/entry_0000/measurement/frame_status"][:].tolist() == [1] * N_FRAMES


def test_a_first_one_that_fails_while_the_second_exposes_leaves_its_frames_alone(devices, run_engine, documents):
    first, second = devices
    hold = first.site.folder / "hold"
    hold.touch()
    call_in_bluesky_event_loop(put(first.pipeline.hold, str(hold)))
    call_in_bluesky_event_loop(put(first.pipeline.fail, "bug"))
    run_engine.subscribe(lambda _, document: document["name"] == "second" and hold.unlink(), "descriptor")
    with pytest.raises(FailedStatus) as caught:
        run_engine(lima2_overlap(devices, N_FRAMES, exposure=0.002))
    assert "a bug, as the test wants" in str(caught.value.__cause__) + str(caught.value)
    assert documents[-1][1]["exit_status"] == "fail"
    assert call_in_bluesky_event_loop(get(second.failed)) == 0
    master = Path(call_in_bluesky_event_loop(get(second.master_file)))
    with h5py.File(master, "r", swmr=True, libver="latest") as file:
        assert set(file["/entry_0000/measurement/frame_status"][:].tolist()) <= {1}
