"""Plans on real daemons that die or freeze: the plan fails with the cause, and files stay readable."""

import asyncio
import signal
import threading

import h5py
import pytest
from bluesky import RunEngine
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices

from lima2_ophyd.detector import Lima2Detector
from lima2_ophyd.plans import lima2_fly

pytestmark = pytest.mark.slow


@pytest.fixture
def run_engine():
    engine = RunEngine({}, context_managers=[])
    yield engine
    call_in_bluesky_event_loop(_cancel_all(), 5)
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    for thread in threading.enumerate():
        if thread.name == "bluesky-run-engine":
            thread.join(5)
    engine.loop.close()


async def _cancel_all():
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def site(make_site):
    made = make_site()
    made.start()

    async def wait():
        client = made.client()
        await made.connect(client)
        await client.close()

    asyncio.run(wait())
    return made


@pytest.fixture
def detector(site, run_engine):
    provider = StaticPathProvider(UUIDFilenameProvider(), site.data)
    with init_devices():
        det = Lima2Detector(f"ipc://{site.sockets}/c", f"ipc://{site.sockets}/s", provider, pipeline=None)
    yield det
    call_in_bluesky_event_loop(det.disconnect(), 5)


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("receiver_1", signal.SIGKILL, "receiver 1"),
        ("receiver_1", signal.SIGSTOP, "receiver 1"),
        ("conductor", signal.SIGKILL, "conductor"),
        ("conductor", signal.SIGSTOP, "conductor"),
    ],
)
def test_a_dead_or_frozen_daemon_fails_the_plan(site, run_engine, detector, name, number, words):
    hurt = []

    def accident(kind, document):
        if not hurt:
            hurt.append(kind)
            site.signal(name, number)

    run_engine.subscribe(accident, "stream_datum")
    with pytest.raises(FailedStatus) as failure:
        run_engine(lima2_fly([detector], 20_000, exposure=0.005))
    assert words in str(failure.value.__cause__)
    (master,) = site.data.glob("*_master.h5")
    with h5py.File(master, "r", swmr=True, libver="latest") as file:
        assert len(file["/entry_0000/measurement/frame_status"]) > 0
