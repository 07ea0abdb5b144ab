"""Real processes that are killed while they write: their files are readable for every program afterwards."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import numpy as np
import pytest

from lima2_receivers.saving.read import read_rows, read_statuses, read_summary

SECONDS = 30.0
STREAMS = ("raw", "dense", "sparse", "results")


async def running(site, client, helpers, least=10, prefix="run"):
    acquisition = helpers.new_id()
    await client.prepare(acquisition, site.plan(prefix, 0, expo=0.005, pipeline=True))
    await client.start(acquisition)
    state = await helpers.until(client, acquisition, lambda state: state.written >= least)
    return acquisition, state


async def lima2(site, *words):
    command = [str(site.scripts / "lima2"), *map(str, words)]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)


def is_closed(path):
    """Tell whether a program that knows nothing of SWMR can open a file."""
    try:
        h5py.File(path, "r").close()
    except OSError:
        return False
    return True


def diaries(site):
    return list(site.data.glob(".lima2-receiver-*"))


async def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_receiver_repairs_what_its_predecessor_left(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        acquisition, before = await running(site, client, helpers)
        assert len(diaries(site)) == 2
        refused = await lima2(site, "repair", site.data / "run_master.h5")
        assert refused.returncode == 1
        assert "run_raw_1.h5: it is being written: its writer lives" in refused.stderr
        site.kill("receiver_1")
        parts = [site.data / f"run_{stream}_1.h5" for stream in STREAMS]
        assert not any(is_closed(part) for part in parts)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert final.outcome == "failed"
        site.start("receiver_1")
        await until(lambda: not diaries(site))
        assert all(is_closed(part) for part in parts)
        assert f"left by a killed receiver: {parts[0]}: repaired" in site.log("receiver_1")
        with h5py.File(site.data / "run_master.h5", "r") as master:
            data, status = (master[f"entry_0000/measurement/{name}"] for name in ("data", "frame_status"))
            saved = np.flatnonzero(status[()] == 1)
            assert len(saved) >= before.written
            assert all(np.nanmax(data[frame]) > 0 for frame in saved)
        await site.connect(client)
        again, _ = await running(site, client, helpers, prefix="again")
        assert (await client.stop(again)).outcome == "complete"
        done = await lima2(site, "repair", site.data / "again_master.h5", "--json")
        assert done.returncode == 0
        assert {report["state"] for report in json.loads(done.stdout)} == {"whole"}


@pytest.mark.parametrize("dispatch", ["round_robin", "dynamic"])
async def test_an_acquisition_whose_conductor_was_killed(make_site, helpers, dispatch):
    site = make_site(dispatch=dispatch)
    site.start()
    client = site.client()
    await site.connect(client)
    try:
        acquisition, before = await running(site, client, helpers)
    finally:
        site.kill("conductor")
        await client.close()
    master = site.data / "run_master.h5"
    early = await lima2(site, "repair", site.data / "run_ledger.h5")
    assert (early.returncode, "still being written" in early.stderr) == (1, True)
    for rank in range(2):
        site.kill(f"receiver_{rank}")
    told = await lima2(site, "repair", master, "--dry-run", "--json")
    assert told.returncode == 0, told.stderr
    assert {report["state"] for report in json.loads(told.stdout)} == {"whole", "repairable"}
    assert read_summary(site.data / "run_ledger.h5") is None
    done = await lima2(site, "repair", master)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the conductor was killed" in done.stdout
    summary = read_summary(site.data / "run_ledger.h5")
    assert (summary.acquisition, summary.outcome, summary.announced_by) == (acquisition, "failed", "ledger")
    assert summary.announced == summary.counts.settled == len(read_statuses(site.data / "run_ledger.h5"))
    assert summary.counts.saved >= before.written
    assert all(is_closed(path) for path in site.data.glob("*.h5"))
    status = read_statuses(site.data / "run_ledger.h5")
    with h5py.File(master, "r") as file:
        data = file["entry_0000/measurement/data"]
        assert len(data) >= len(status)
        assert all(np.nanmax(data[frame]) > 0 for frame in np.flatnonzero(status == 1))
    assert len(read_rows(master, "/entry_0000/measurement/n_peaks")) >= len(status)
    again = await lima2(site, "repair", master, "--json")
    assert again.returncode == 0
    assert {report["state"] for report in json.loads(again.stdout)} == {"whole"}


async def test_a_file_that_is_not_there_is_named(tmp_path, make_site):
    site = make_site()
    done = await lima2(site, "repair", tmp_path / "nowhere_master.h5")
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path / 'nowhere_master.h5'}: it is not there\n")
    assert "nowhere_master.h5: master, failed" in done.stdout
