"""Frames that go to any receiver: the same plan, and the same frames in the files."""

from __future__ import annotations

import zlib

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.saving.read import read_rows, read_statuses

DATA = "/entry_0000/measurement/data"
COLUMNS = "/entry_0000/ledger"
SAVED, LOST = 1, 3


def check_raw(site, prefix, n_frames, lost=()):
    """See that the files hold what the simulator says that it sent, for our readers and for plain h5py."""
    master = site.data / f"{prefix}_master.h5"
    journal = read_journal(latest_journal(site.detector))
    raw = read_rows(master, "/entry_0000/measurement/raw")
    statuses = read_statuses(site.data / f"{prefix}_ledger.h5")
    assert len(raw) == len(statuses) == n_frames
    with h5py.File(master) as file:
        plain = file["/entry_0000/measurement/raw"][()]
        receivers = file["/entry_0000/measurement/receiver"][()]
    for frame in range(n_frames):
        if frame in lost:
            assert (statuses[frame], receivers[frame]) == (LOST, 65535)
            assert (raw[frame] == np.iinfo(raw.dtype).max).all()
        else:
            assert (statuses[frame], receivers[frame]) == (SAVED, journal.sent[frame].receiver)
            assert zlib.crc32(raw[frame].data) == journal.scene_of(frame).crc32
    np.testing.assert_array_equal(plain, raw)


@pytest.mark.parametrize("order", ["random", "predictive"])
@pytest.mark.parametrize("n_receivers", [2, 4])
async def test_any_frame_goes_to_any_receiver(make_site, helpers, n_receivers, order):
    site = make_site(n_receivers=n_receivers, settings=f'order = "{order}"', dispatch="dynamic")
    lost = (3, 17, 39)
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 40, pipeline=True, lose=list(lost)))
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced, final.written) == ("complete", 40, 40)
        assert (final.counts.saved, final.counts.lost) == (37, 3)
        assert final.reasons == {"never arrived at any receiver": 3}
    check_raw(site, "run", 40, lost)
