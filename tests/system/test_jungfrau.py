"""A Jungfrau through the whole chain: UDP packets, receivers, files; the detector is simulated."""

from __future__ import annotations

import socket
import zlib

import aare
import msgspec
import numpy as np
import pytest

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.detectors.jungfrau.packets import HEADER
from lima2_receivers.plan import SavingParams, TriggerMode
from lima2_receivers.saving.read import read_rows

DATA = "/entry_0000/measurement/data"
ROWS = 64  # that are read out of a module, so that frames are small
PACKETS = ROWS // 4


async def acquire(client, helpers, wanted):
    acquisition = helpers.new_id()
    prepared = await client.prepare(acquisition, wanted)
    await client.start(acquisition)
    return prepared, await helpers.until(client, acquisition, lambda state: state.state == "closed")


@pytest.mark.parametrize(
    ("n_receivers", "modules", "interfaces"), [(1, (1, 1), 1), (2, (2, 1), 2), (3, (2, 2), 1)], ids=str
)
async def test_what_is_sent_is_what_is_saved(make_jungfrau, helpers, n_receivers, modules, interfaces):
    site = make_jungfrau(n_receivers, modules, interfaces, reordering=0.1, duplication=0.1)
    async with site.running() as client:
        prepared, state = await acquire(client, helpers, helpers.jungfrau_plan(site, 20))
    assert prepared.frame_spec.shape == (modules[0] * modules[1], ROWS, 1024)
    assert (state.reason, state.reasons, state.counts.saved) == ("", {}, 20)
    assert same_as_sent(site, range(20)) == list(range(20))


def same_as_sent(site, indices):
    """Those of the frames that are saved as they were sent."""
    journal = read_journal(latest_journal(site.detector))
    saved = read_rows(site.data / "run_master.h5", DATA)
    return [index for index in indices if zlib.crc32(saved[index]) == journal.scene_of(index).crc32]


async def test_frames_that_miss_packets_are_lost_and_say_how_many(make_jungfrau, helpers):
    site = make_jungfrau(2, loss=0.03)
    async with site.running() as client:
        _, state = await acquire(client, helpers, helpers.jungfrau_plan(site, 60))
    sent = read_journal(latest_journal(site.detector)).sent
    whole = [frame.index for frame in sent if not frame.missing]
    partial = [frame.missing for frame in sent if 0 < frame.missing < PACKETS]
    assert 0 < len(whole) < 60
    assert state.reason == ""
    assert state.counts.saved == len(whole)
    assert state.counts.lost == 60 - len(whole)
    for missing in set(partial):
        reason = f"incomplete: {missing} of {PACKETS} packets are missing"
        assert state.reasons[reason] == partial.count(missing)
    assert same_as_sent(site, whole) == whole


async def test_packets_are_saved_as_they_came_beside_the_frames(make_jungfrau, helpers):
    """Also those of incomplete frames, which are lost to the rest; PSI's library reads them."""
    site = make_jungfrau(2, (2, 1), 2, loss=0.03)
    async with site.running() as client:
        _, state = await acquire(client, helpers, helpers.jungfrau_plan(site, 40, save_packets=True))
    assert state.reason == ""
    assert 0 < state.counts.lost < 40
    sent = read_journal(latest_journal(site.detector)).sent
    whole = read_rows(site.data / "run_master.h5", DATA)
    found = {}
    for rank in range(2):
        with aare.RawFile(site.data / f"run_{rank}_master_0.json") as file:
            for _ in range(file.total_frames):
                header, image = file.read_frame()
                found[int(header["frameNumber"].max()) - 1] = image.reshape(2, ROWS, 1024), header["packetNumber"].sum()
    assert sorted(found) == [frame.index for frame in sent if frame.missing < 2 * PACKETS]
    for frame in sent:
        image, n_packets = found[frame.index]
        assert n_packets == 2 * PACKETS - frame.missing
        assert frame.missing or (image == whole[frame.index]).all()


async def test_partial_frames_are_saved_where_they_are_wanted(make_jungfrau, helpers):
    site = make_jungfrau(1, loss=0.05)
    async with site.running() as client:
        _, state = await acquire(client, helpers, helpers.jungfrau_plan(site, 40, partial_frames="process"))
    sent = read_journal(latest_journal(site.detector)).sent
    partial = [frame for frame in sent if 0 < frame.missing < PACKETS]
    assert partial
    assert state.counts.saved == sum(frame.missing < PACKETS for frame in sent)
    saved = read_rows(site.data / "run_master.h5", DATA)
    for frame in partial:
        rows = saved[frame.index].reshape(PACKETS, -1)
        assert (rows == 0xFFFF).all(axis=1).sum() == frame.missing
        assert state.reasons[f"partial: {frame.missing} of {PACKETS} packets are missing"] > 0


async def test_receivers_take_turns_over_triggers(make_jungfrau, helpers):
    """Each trigger starts the detector again: control says where, or the second would begin at receiver 0."""
    site = make_jungfrau(2)
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, helpers.jungfrau_plan(site, 15, TriggerMode.SOFTWARE, 3))
        await client.start(acquisition)
        for n_frames in (3, 6, 12, 15):
            await client.trigger(acquisition, 3)
            if n_frames == 6:
                await client.trigger(acquisition, 3)
            await helpers.until(client, acquisition, lambda state, n=n_frames: state.written >= n)
        state = await helpers.until(client, acquisition, lambda state: state.state == "closed")
    assert (state.reason, state.counts.saved) == ("", 15)
    assert [frame.receiver for frame in read_journal(latest_journal(site.detector)).sent] == [i % 2 for i in range(15)]


async def test_acquisitions_follow_each_other_and_strangers_are_counted(make_jungfrau, helpers):
    site = make_jungfrau(1, reordering=0.2)
    _, _, rest = site.config.read_text().partition("udp://127.0.0.1:")
    port = int(rest.split('"')[0])
    header = np.zeros((), HEADER)
    header["frame"], header["packet"], header["type"], header["version"] = 1, 60, 3, 2
    straggler = header.tobytes() + bytes(8192)  # once the first acquisition is over
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        async with site.running() as client:
            for number in range(3):
                acquisition = helpers.new_id()
                wanted = helpers.jungfrau_plan(site, 12)
                saving = SavingParams(str(site.data), f"run{number}")
                await client.prepare(acquisition, msgspec.structs.replace(wanted, saving=saving))
                for garbage in (b"", b"short", bytes(8240), bytes(9000), straggler):
                    stranger.sendto(garbage, ("127.0.0.1", port))
                await client.start(acquisition)
                state = await helpers.until(client, acquisition, lambda state: state.state == "closed")
                if number:  # before, it is a packet of the first frame
                    assert (state.reason, state.counts.saved) == ("", 12)
            assert client.state.receivers[0].strangers == 5 + 5 + 4
    assert "has 5 bytes, expected 8240" in site.log("receiver_0")


async def test_the_pipeline_finds_what_the_detector_sent(make_jungfrau, helpers):
    """Whole modules, corrected with the simulated detector's own maps."""
    site = make_jungfrau(1, (1, 1), 2)
    text = site.config.read_text()
    site.config.write_text(text.replace(f"slot_bytes = {ROWS * 2048}", f"slot_bytes = {512 * 2048}"))
    maps = {
        "pedestal": [{"path": str(site.detector / "pedestal.npy")}],
        "gain": [{"path": str(site.detector / "gain.npy")}],
        "min_nb_peaks": 3,
    }
    async with site.running() as client:
        _, state = await acquire(
            client, helpers, helpers.jungfrau_plan(site, 12, pipeline=maps, expo=0.02, read_rows=512)
        )
    assert (state.reason, state.counts.saved) == ("", 12)
    journal = read_journal(latest_journal(site.detector))
    peaks = read_rows(site.data / "run_master.h5", "/entry_0000/measurement/n_peaks")
    for index, found in enumerate(peaks):
        spots = len(journal.scene_of(index).spots)
        assert spots * 0.8 <= found <= spots * 1.2 if spots else found <= 2
