"""The whole way, with real daemons: plans, valid documents, a real Tiled server, failures that reach the plan."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlparse

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus
from event_model import DocumentNames, schema_validators
from ophyd_async.core import DetectorTrigger, StaticPathProvider, TriggerInfo, UUIDFilenameProvider, init_devices
from tiled.client import from_uri

from lima2_ophyd.detector import Lima2Detector
from lima2_ophyd.plans import lima2_fly
from lima2_ophyd.tiled.bus import DocumentSender
from lima2_ophyd.tiled.server import set_up_server, start_server
from lima2_ophyd.tiled.writer import writer_argv
from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.detectors.simulator.params import SimulatorParams
from lima2_receivers.saving.read import read_rows

from .supervisor import Supervisor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

IN_TIME = 10.0
LEDGER = (
    *("announced", "saved", "lost", "failed", "vetoed", "announced_by"),
    *("runs_first", "runs_count", "runs_status"),
)


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
def patience():
    return 5.0


@pytest.fixture
def detector(make_site, run_engine, request, patience):
    """The device and its daemons; its parameter is how frames spread, or the saving mode."""
    param = getattr(request, "param", "round_robin")
    mode = param if param == "close_per_file" else "swmr"
    dispatch = param if param in ("dynamic", "partial_frame") else "round_robin"
    site = make_site(extra="[deadlines]\ncommand = 3.0\n", dispatch=dispatch)
    text = site.config.read_text().replace("[saving]\n", f'[saving]\nmode = "{mode}"\n')
    if dispatch == "partial_frame":
        text = text.replace('size = "tiny"', 'size = "tiles"')
        text = text.replace(f"slot_bytes = {64 * 128 * 2}", f"slot_bytes = {2 * 64 * 128 * 2}")
    site.config.write_text(text)
    site.start()
    deadline = time.monotonic() + 30
    while not ((site.sockets / "s").exists() and "is ready" in site.log("detector")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with init_devices():
        made = Lima2Detector(
            f"ipc://{site.sockets}/c",
            f"ipc://{site.sockets}/s",
            StaticPathProvider(UUIDFilenameProvider(), site.data),
            detector_params=SimulatorParams,
            patience=patience,
            name="det",
        )
    made.site = site
    for name in ("pedestal", "gain"):
        value = f'[{{"path": "{site.detector}/{name}.npy"}}]'
        call_in_bluesky_event_loop(put(getattr(made.pipeline, name), value))
    call_in_bluesky_event_loop(put(made.pipeline.min_nb_peaks, 3))
    if mode == "close_per_file":
        call_in_bluesky_event_loop(put(made.saving.nb_frames_per_file, 8))
    yield made
    call_in_bluesky_event_loop(made.disconnect())


async def put(target, value):
    await target.set(value)


async def watch(signal, callback):
    signal.subscribe_reading(callback)


def names(documents):
    return [name for name, _ in documents]


def datums(documents, key):
    resources = {doc["uid"] for name, doc in documents if name == "stream_resource" and doc["data_key"] == key}
    return [
        (doc["indices"]["start"], doc["indices"]["stop"])
        for name, doc in documents
        if name == "stream_datum" and doc["stream_resource"] in resources
    ]


@pytest.mark.parametrize("detector", ["swmr", "close_per_file"], indirect=True)
def test_step_and_fly_scan_read_back_through_tiled_also_during_the_run(detector, run_engine, documents, tmp_path):
    with tiled(detector, run_engine, tmp_path) as (sender, client, place):
        _step_scan(detector, run_engine, documents, sender, client)
        documents.clear()
        _fly_scan(detector, run_engine, documents, sender, client, place)


@pytest.mark.parametrize(
    ("detector", "reason"),
    [("dynamic", "never arrived at any receiver"), ("partial_frame", "never arrived, later frames did")],
    indirect=["detector"],
)
def test_other_topologies_read_back_through_tiled_also_during_the_run(
    detector, reason, run_engine, documents, tmp_path
):
    with tiled(detector, run_engine, tmp_path) as (sender, client, place):
        _fly_scan(detector, run_engine, documents, sender, client, place, reason)


@contextlib.contextmanager
def tiled(detector, run_engine, tmp_path):
    """A Tiled server and a writer process that get all documents: sender, client, and where the server is."""
    site = detector.site
    place = set_up_server(tmp_path / "tiled", [site.data])
    endpoint = f"ipc://{site.sockets}/documents"
    with start_server(place):
        writer = subprocess.Popen(writer_argv(endpoint, place.uri, place.key_file, tmp_path / "backup"))
        sender = DocumentSender(endpoint)
        client = from_uri(place.uri, api_key=place.api_key)
        try:
            sender.wait_ready(30)
            run_engine.subscribe(sender)
            yield sender, client, place
        finally:
            client.context.close()
            assert sender.close() == 0
            writer.terminate()
            assert writer.wait(20) == 0


def _step_scan(detector, run_engine, documents, sender, client):
    run_engine(bp.count([detector], 3))
    assert names(documents)[0] == "start"
    assert names(documents)[-1] == "stop"
    assert datums(documents, "det") == [(0, 1), (1, 2), (2, 3)]
    events = [doc for name, doc in documents if name == "event"]
    assert len(events) == 3
    sender.flush(30)
    primary = client[documents[0][1]["uid"]]["primary"]
    raw = np.asarray(primary["det-raw"].read())
    check_raw(detector.site, raw)
    n_peaks = np.asarray(primary["det-n_peaks"].read())
    assert [event["data"]["det-last_n_peaks"] for event in events] == n_peaks.tolist()
    dense = np.asarray(primary["det"].read())
    assert dense.shape == (3, 66, 130)
    assert dense.dtype == np.float32
    sparse = np.asarray(primary["det-sparse"].read())
    picked = sparse != 0
    assert picked.any()
    np.testing.assert_array_equal(sparse[picked], dense[picked])


def _fly_scan(detector, run_engine, documents, sender, client, place, reason="never arrived, later frames did"):
    seen = []
    over = threading.Event()

    def watch(uid):
        own = from_uri(place.uri, api_key=place.api_key)
        while not over.wait(0.1) and len(seen) < 3:
            if uid in own and "primary" in own[uid] and "det-raw" in own[uid]["primary"]:
                node = own[uid]["primary"]["det-raw"]
                if n := node.shape[0]:
                    seen.append((n, np.asarray(node[n - 1])))
        own.context.close()

    watchers = []

    def begin(name, document):
        watchers.append(threading.Thread(target=watch, args=(document["uid"],)))
        watchers[0].start()

    token = run_engine.subscribe(begin, "start")
    run_engine(lima2_fly([detector], 150, exposure=0.02))
    over.set()
    watchers[0].join(30)
    run_engine.unsubscribe(token)
    assert seen
    assert seen[0][0] < 150
    for n, last in seen:
        check_raw(detector.site, last[None], first=n - 1)
    assert datums(documents, "det")[-1][1] == 150
    sender.flush(30)
    run = client[documents[0][1]["uid"]]
    check_raw(detector.site, np.asarray(run["primary"]["det-raw"].read()))
    assert (np.asarray(run["primary"]["det-frame_status"].read()) == 1).all()
    one, dense = (np.asarray(run["primary"][name][148]) for name in ("det-sparse", "det"))
    np.testing.assert_array_equal(one[one != 0], dense[one != 0])
    assert run["ledger"]["det-saved"].read().tolist() == [150]
    documents.clear()
    call_in_bluesky_event_loop(put(detector.detector.lose, np.array([3, 4, 9])))
    run_engine(lima2_fly([detector], 20, exposure=0.002))
    sender.flush(30)
    ledger = client[documents[0][1]["uid"]]["ledger"]
    found = {name: np.asarray(ledger[f"det-{name}"].read()).tolist() for name in LEDGER}
    assert found == {
        "announced": [20],
        "saved": [17],
        "lost": [3],
        "failed": [0],
        "vetoed": [0],
        "announced_by": ["triggers"],
        "runs_first": [[0, 3, 5, 9, 10]],
        "runs_count": [[3, 2, 4, 1, 10]],
        "runs_status": [[1, 3, 1, 3, 1]],
    }
    (reasons,) = ledger["det-reasons"].read().tolist()
    assert json.loads(reasons) == {reason: 3}
    assert np.asarray(client[documents[0][1]["uid"]]["primary"]["det-frame_status"].read()).tolist() == list(
        np.repeat(found["runs_status"][0], found["runs_count"][0])
    )


def check_raw(site, frames, first=0):
    import zlib

    journal = read_journal(latest_journal(site.detector))
    for number, frame in enumerate(frames, first):
        assert zlib.crc32(np.ascontiguousarray(frame).data) == journal.scene_of(number).crc32


@pytest.mark.parametrize(
    ("name", "number", "cause"),
    [
        ("receiver_1", signal.SIGKILL, "receiver 1"),
        ("receiver_0", signal.SIGSTOP, "receiver 0"),
        ("conductor", signal.SIGKILL, "conductor"),
        ("conductor", signal.SIGSTOP, "conductor"),
        ("detector", signal.SIGKILL, "detector"),
    ],
)
def test_a_dead_or_frozen_part_fails_the_plan_in_time_with_the_cause(
    detector, run_engine, documents, name, number, cause
):
    when = []

    def kill(document_name, document):
        if not when:
            detector.site.signal(name, number)
            when.append(time.monotonic())

    run_engine.subscribe(kill, "stream_datum")
    with pytest.raises(FailedStatus) as caught:
        run_engine(lima2_fly([detector], 10_000, exposure=0.01))
    assert time.monotonic() - when[0] < IN_TIME
    assert cause in str(caught.value.__cause__) + str(caught.value)
    assert documents[-1][0] == "stop"
    assert documents[-1][1]["exit_status"] == "fail"
    assert cause in documents[-1][1]["reason"]


@pytest.mark.parametrize("patience", [60.0])
def test_a_fly_scan_goes_on_where_the_conductor_is_killed_and_started_again(detector, run_engine, documents):
    killed = []

    def kill(document_name, document):
        if not killed:
            killed.append(document_name)
            supervisor.kill()

    run_engine.subscribe(kill, "stream_datum")
    with Supervisor(detector.site, "conductor") as supervisor:
        run_engine(lima2_fly([detector], 600, exposure=0.02))
    assert killed
    assert supervisor.starts == 1
    assert documents[-1][1]["exit_status"] == "success"
    found = datums(documents, "det-raw")
    assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])]
    assert found[-1][1] == 600
    check_files(detector.site, documents)


@pytest.mark.parametrize("patience", [60.0])
def test_a_step_scan_goes_on_where_the_conductor_is_killed_and_started_again(detector, run_engine, documents):
    """Also where the next step triggers before another conductor is there."""

    def kill(document_name, document):
        if document["seq_num"] in (2, 4):
            supervisor.kill()

    run_engine.subscribe(kill, "event")
    with Supervisor(detector.site, "conductor") as supervisor:
        run_engine(bp.count([detector], 6))
    assert supervisor.starts == 2
    assert documents[-1][1]["exit_status"] == "success"
    assert datums(documents, "det") == [(at, at + 1) for at in range(6)]
    check_files(detector.site, documents)


def check_files(site, documents):
    """Every frame that the detector sent is in the file that the documents name."""
    (uri,) = {doc["uri"] for name, doc in documents if name == "stream_resource" and doc["data_key"] == "det-raw"}
    raw = read_rows(Path(urlparse(uri).path), "/entry_0000/measurement/raw")
    assert len(raw) == len(read_journal(latest_journal(site.detector)).sent)
    check_raw(site, raw)


@pytest.mark.parametrize("trigger", [DetectorTrigger.EXTERNAL_EDGE, DetectorTrigger.EXTERNAL_LEVEL])
def test_a_signal_triggers_the_frames_of_a_fly_scan(detector, run_engine, documents, trigger):
    call_in_bluesky_event_loop(put(detector.detector.pulse_period, 0.25))  # no pulse before the kickoff
    run_engine(signalled(detector, TriggerInfo(trigger=trigger, number_of_events=12, livetime=0.001, deadtime=0.001)))
    assert documents[-1][1]["exit_status"] == "success"
    assert datums(documents, "det")[-1][1] >= 12
    journal = read_journal(latest_journal(detector.site.detector))
    assert len(journal.sent) >= 12


def test_a_signal_that_never_comes_fails_the_plan_with_the_reason(detector, run_engine, documents):
    call_in_bluesky_event_loop(put(detector.acquisition.first_trigger_timeout, 0.5))
    info = TriggerInfo(
        trigger=DetectorTrigger.EXTERNAL_EDGE, number_of_events=2, livetime=0.001, deadtime=0.001, exposure_timeout=60.0
    )
    waited = []
    call_in_bluesky_event_loop(watch(detector.waiting, lambda news: waited.append(news["det-waiting"]["value"])))
    with pytest.raises(FailedStatus) as caught:
        run_engine(signalled(detector, info))
    assert "no external trigger came within 0.5 s" in str(caught.value.__cause__) + str(caught.value)
    assert True in waited
    assert documents[-1][1]["exit_status"] == "fail"


def signalled(detector, info):
    """A fly scan that a signal triggers."""

    @bpp.stage_decorator([detector])
    @bpp.run_decorator()
    def plan():
        yield from bps.prepare(detector, info, wait=True)
        yield from bps.declare_stream(detector, name="primary", collect=True)
        yield from bps.kickoff(detector, wait=True)
        yield from bps.collect_while_completing([detector], [detector], flush_period=0.1, stream_name="primary")

    yield from plan()


def test_a_plan_with_a_wrong_parameter_fails_at_prepare_and_the_next_works(detector, run_engine, documents):
    call_in_bluesky_event_loop(put(detector.pipeline.cutoff_peak, 1.0))
    with pytest.raises(FailedStatus) as caught:
        run_engine(bp.count([detector], 1))
    assert "cutoff_peak: got 1.0, expected at least cutoff_pick" in str(caught.value.__cause__) + str(caught.value)
    assert not list(detector.site.data.glob("*.h5"))
    call_in_bluesky_event_loop(put(detector.pipeline.cutoff_peak, 6.0))
    run_engine(bp.count([detector], 1))
    assert documents[-1][1]["exit_status"] == "success"
