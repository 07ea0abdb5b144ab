"""A real Tiled server and a real writer process: read back after the run, and while it goes on."""

import shutil
import socket
import stat
import subprocess
import threading

import bluesky.plans as bp
import httpx
import numpy as np
import pytest
from tiled.client import from_uri

from lima2_ophyd.plans import lima2_fly
from lima2_ophyd.tiled.bus import DocumentSender
from lima2_ophyd.tiled.server import ServerError, set_up_server, start_server
from lima2_ophyd.tiled.writer import writer_argv

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """A server and a writer process; gives the server's place, the writer's endpoint and the data folder."""
    folder = tmp_path_factory.mktemp("services")
    data = folder / "data"
    data.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    place = set_up_server(folder / "tiled", [data])
    with start_server(place):
        process = subprocess.Popen(writer_argv(endpoint, place.uri, place.key_file, folder / "backup"))
        try:
            yield place, endpoint, data
        finally:
            process.terminate()
            process.wait(20)
    assert process.returncode == 0
    assert list((folder / "backup").iterdir()) == []


@pytest.fixture
def tmp_path(services):
    """The data folder that the server may read, where detectors write."""
    return services[2]


@pytest.fixture
def sender(services, run_engine, tmp_path_factory):
    made = DocumentSender(services[1], tmp_path_factory.mktemp("untaken"))
    made.wait_ready(30)
    run_engine.subscribe(made)
    yield made
    assert made.close() == 0
    assert made.failures == 0


@pytest.fixture
def catalog(services):
    client = from_uri(services[0].uri, api_key=services[0].api_key)
    yield client
    client.context.close()


def expected(fake, name, n):
    return np.stack([fake.frame(i)[name] for i in range(n)])


def test_the_key_is_for_its_owner_only(services):
    assert stat.S_IMODE(services[0].key_file.stat().st_mode) == 0o600
    assert httpx.get(f"{services[0].uri}/api/v1/metadata/").status_code == 401


def test_step_scan_reads_back(run_engine, detector, sender, catalog, fake, documents):
    run_engine(bp.count([detector], 3))
    sender.flush(30)
    primary = catalog[documents[0][1]["uid"]]["primary"]
    np.testing.assert_array_equal(primary["det"].read(), expected(fake, "dense", 3))
    np.testing.assert_array_equal(primary["det-raw"].read(), expected(fake, "raw", 3))
    np.testing.assert_array_equal(primary["det-background"].read(), expected(fake, "background", 3))
    np.testing.assert_array_equal(primary["det-peaks"].read(), expected(fake, "peaks", 3))
    np.testing.assert_array_equal(primary["det-n_peaks"].read(), expected(fake, "n_peaks", 3))
    assert primary["det-last_n_peaks"].read().tolist() == [0, 1, 2]
    np.testing.assert_array_equal(primary["det"][1], fake.frame(1)["dense"])


def test_fly_scan_reads_back_while_it_runs(run_engine, detector, conductor, sender, services, fake, documents):
    conductor.period = 0.05
    found = []

    def watch():
        place = services[0]
        client = from_uri(place.uri, api_key=place.api_key)
        uid = documents[0][1]["uid"]
        while len(found) < 4 and not finished.wait(0.1):
            if uid in client and "primary" in client[uid] and "det" in client[uid]["primary"]:
                node = client[uid]["primary"]["det"]
                if (n := node.shape[0]) > 0:
                    found.append((n, node[n - 1], node[0]))
        client.context.close()

    finished = threading.Event()
    started = []

    def start(name, document):
        started.append(threading.Thread(target=watch))
        started[0].start()

    run_engine.subscribe(start, "start")
    run_engine(lima2_fly([detector], 100, exposure=0.001))
    finished.set()
    started[0].join(30)
    assert len(found) >= 2
    assert found[0][0] < 100
    for n, last, first in found:
        np.testing.assert_array_equal(last, fake.frame(n - 1)["dense"])
        np.testing.assert_array_equal(first, fake.frame(0)["dense"])

    sender.flush(30)
    client = from_uri(services[0].uri, api_key=services[0].api_key)
    run = client[documents[0][1]["uid"]]
    np.testing.assert_array_equal(run["primary"]["det"].read(), expected(fake, "dense", 100))
    np.testing.assert_array_equal(run["primary"]["det-frame_status"].read(), np.ones(100))
    assert run["ledger"]["det-saved"].read().tolist() == [100]
    assert run.metadata["stop"]["exit_status"] == "success"
    client.context.close()


def test_many_frames_an_event_read_back(run_engine, detector, sender, catalog, fake, documents):
    import bluesky.plan_stubs as bps
    import bluesky.preprocessors as bpp
    from ophyd_async.core import TriggerInfo

    @bpp.stage_decorator([detector])
    @bpp.run_decorator()
    def plan():
        yield from bps.prepare(detector, TriggerInfo(collections_per_event=4), wait=True)
        yield from bps.trigger_and_read([detector])
        yield from bps.trigger_and_read([detector])

    run_engine(plan())
    sender.flush(30)
    primary = catalog[documents[0][1]["uid"]]["primary"]
    assert primary["det"].shape == (2, 4, 16, 24)
    np.testing.assert_array_equal(primary["det"].read(), expected(fake, "dense", 8).reshape(2, 4, 16, 24))
    np.testing.assert_array_equal(primary["det-n_peaks"].read(), expected(fake, "n_peaks", 8).reshape(2, 4))
    np.testing.assert_array_equal(primary["det"][1, 2], fake.frame(6)["dense"])


def test_a_frame_as_a_picture(run_engine, detector, sender, services, documents):
    run_engine(bp.count([detector], 1))
    sender.flush(30)
    place = services[0]
    path = f"/api/v1/array/full/{documents[0][1]['uid']}/primary/det"
    answer = httpx.get(
        place.uri + path,
        params={"slice": "0", "format": "image/png"},
        headers={"Authorization": f"Apikey {place.api_key}"},
    )
    assert answer.status_code == 200
    assert answer.content.startswith(b"\x89PNG")


def test_a_server_that_cannot_start_says_why(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    place = set_up_server(folder, [folder])
    shutil.rmtree(folder / "storage")
    (folder / "tiled.yml").write_text("trees: [{path: /, tree: nonsense}]\n")
    with pytest.raises(ServerError, match="nonsense"):
        start_server(place)
