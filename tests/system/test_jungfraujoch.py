"""A Jungfraujoch through the whole chain: broker, stream, a receiver, files; broker and detector are a mock."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import msgspec
import numpy as np
import pytest

from lima2_receivers.errors import PlanError
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, PipelineChoice, SavingParams, TriggerMode
from lima2_receivers.saving.read import read_rows

MOCK = Path(__file__).parent.parent / "receivers" / "detectors" / "jungfraujoch" / "mock_broker.py"
SHAPE = (128, 192)
DATA = "/entry_0000/measurement/data"


@pytest.fixture
def make_broker(make_site):
    """Make a site of one receiver that a mock broker sends to; returns both."""
    spec = util.spec_from_file_location("mock_broker", MOCK)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    running = []

    def make():
        site = make_site(n_receivers=1)
        broker = module.MockBroker(f"ipc://{site.sockets}/d0", SHAPE)
        running.append(broker)
        _, rest = site.config.read_text().split("[conductor]")
        small, large = f"slot_bytes = {64 * 128 * 2}", f"slot_bytes = {SHAPE[0] * SHAPE[1] * 4}"
        settings = f'[detector]\nplugin = "jungfraujoch"\n[detector.settings]\nurl = "{broker.url}"\n'
        site.config.write_text(f"{settings}[conductor]{rest.replace(small, large)}")
        site.names = lambda: ["conductor", "receiver_0"]
        return site, broker

    yield make
    for broker in running:
        broker.close()


def plan(site, nb_frames, mode=TriggerMode.INTERNAL, per_trigger=1, pipeline=False, expo=0.001, **detector):
    asked = {"photon_energy": 12400.0, **detector}
    return AcquisitionPlan(
        saving=SavingParams(str(site.data), "run"),
        acquisition=AcquisitionParams(nb_frames, expo, 0.0, mode, per_trigger),
        pipeline=PipelineChoice("smx", msgspec.Raw(msgspec.msgpack.encode({"min_nb_peaks": 5}))) if pipeline else None,
        detector=msgspec.Raw(msgspec.msgpack.encode(asked)),
    )


@pytest.mark.parametrize(
    ("pixel_type", "compression", "pipeline"),
    [("int32", "bslz4", True), ("int16", "bslz4", False), ("uint16", "none", False), ("uint32", "bslz4", True)],
)
async def test_what_is_sent_is_what_is_saved(make_broker, helpers, pixel_type, compression, pipeline):
    site, broker = make_broker()
    async with site.running() as client:
        acquisition = helpers.new_id()
        wanted = plan(site, 20, pipeline=pipeline, pixel_type=pixel_type, compression=compression)
        prepared = await client.prepare(acquisition, wanted)
        assert (prepared.frame_spec.shape, np.dtype(prepared.frame_spec.dtype)) == (SHAPE, np.dtype(pixel_type))
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced, final.counts.saved) == ("complete", 20, 20)
    master = site.data / "run_master.h5"
    raw = read_rows(master, "/entry_0000/measurement/raw") if pipeline else read_rows(master, DATA)
    np.testing.assert_array_equal(raw, [broker.image(frame) for frame in range(20)])
    if compression == "bslz4" and not pipeline:  # as it came
        with h5py.File(site.data / "run_raw_0.h5", "r") as file:
            assert file["/entry_0000/raw/raw"].id.get_create_plist().get_filter(0)[0] == 32008


async def test_software_triggers_lost_images_and_a_stop(make_broker, helpers):
    site, broker = make_broker()
    broker.lose = {3}
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, plan(site, 20, TriggerMode.SOFTWARE, 5))
        await client.start(acquisition)
        await client.trigger(acquisition, 5)
        await helpers.until(client, acquisition, lambda state: state.written == 5)
        final = await client.stop(acquisition)
        assert (final.outcome, final.announced, final.counts.saved, final.counts.lost) == ("stopped", 5, 4, 1)
        assert broker.state == "Idle"


async def test_a_refusal_reaches_the_client_and_leaves_nothing(make_broker, helpers):
    site, broker = make_broker()
    async with site.running() as client:
        with pytest.raises(PlanError, match="image time must be a multiple of frame time"):
            await client.prepare(helpers.new_id(), plan(site, 5, expo=0.0007))
        assert broker.state == "Idle"
        assert not list(site.data.iterdir())
