"""Images of any type and number of channels through the whole chain, from the simulator to the files and back."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.saving.read import read_rows

DATA = "/entry_0000/measurement/data"


@pytest.mark.parametrize(("scene", "dtype", "channels"), [("gauss", "float32", 2), ("spiral", "int8", 1)])
async def test_what_is_sent_is_saved_and_played_once_more(make_site, helpers, scene, dtype, channels):
    settings = f'scene = "{scene}"\ndtype = "{dtype}"\nchannels = {channels}\nshape = [32, 64]\nn_distinct = 5'
    site = make_site(settings=settings)
    truth = await acquire(site, helpers, "first", 12)
    text = site.config.read_text()
    reader = f'recording = "{site.data}/first_master.h5"\nstart = 2\ncount = 5\nstride = 2\n'
    where = f'control = "ipc://{site.sockets}/sim"\nfolder = "{site.detector}"\n'
    table = f'plugin = "reader"\n[detector.settings]\n{where}'
    for name in list(site.processes):
        site.end(name)
    site.config.write_text(f"[detector]\n{table}{reader}{text[text.index('[conductor]') :]}")
    assert await acquire(site, helpers, "again", 5) == truth[2:12:2]
    shape = (32, 64) if channels == 1 else (channels, 32, 64)
    again = read_rows(site.data / "again_master.h5", DATA)
    assert (again[0].shape, again[0].dtype) == (shape, np.dtype(dtype))


async def acquire(site, helpers, prefix, nb_frames):
    """Take frames, see that those that are saved were sent, and return their checksums."""
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan(prefix, nb_frames))
        await client.start(acquisition)
        state = await helpers.until(client, acquisition, lambda state: state.state == "closed")
    assert (state.reason, state.counts.saved) == ("", nb_frames)
    journal = read_journal(latest_journal(site.detector))
    saved = read_rows(site.data / f"{prefix}_master.h5", DATA)
    truth = [journal.scene_of(index).crc32 for index in range(nb_frames)]
    assert [zlib.crc32(np.ascontiguousarray(frame)) for frame in saved] == truth
    return truth
