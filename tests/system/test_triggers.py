"""Frames that a signal exposes: the detector counts, the conductor announces, and nothing comes where no signal is."""

from __future__ import annotations

import asyncio
import subprocess
import zlib

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import msgspec
import numpy as np
import pytest

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.plan import TriggerMode


def with_triggers(plan, **changes):
    return msgspec.structs.replace(plan, acquisition=msgspec.structs.replace(plan.acquisition, **changes))


async def pulse(site, *words):
    command = [str(site.scripts / "lima2"), "simulate", "pulse", str(site.config), *words]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)


def check_saved(site, prefix, lost=()):
    """Compare all frames with the journal."""
    journal = read_journal(latest_journal(site.detector))
    with h5py.File(site.data / f"{prefix}_master.h5", "r", swmr=True, libver="latest") as master:
        measurement = master["entry_0000/measurement"]
        status = measurement["frame_status"][:]
        assert len(status) == len(journal.sent)
        assert np.flatnonzero(status == 3).tolist() == list(lost)
        for sent in journal.sent:
            if sent.fate == "sent":
                data = measurement["data"][sent.index]
                assert zlib.crc32(data.data) == journal.scene_of(sent.index).crc32
    return journal


async def test_each_edge_exposes_the_frames_of_a_trigger(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        acquisition = helpers.new_id()
        plan = with_triggers(site.plan("run", 9, mode="external", lose=[4, 8]), nb_frames_per_trigger=3)
        await client.prepare(acquisition, plan)
        done = await pulse(site)
        assert done.returncode == 2
        assert "no acquisition takes the signal" in done.stderr
        await client.start(acquisition)
        state = await helpers.until(client, acquisition, lambda state: state.waiting)
        assert (state.state, state.announced) == ("running", 0)
        assert (await pulse(site)).returncode == 0
        state = await helpers.until(client, acquisition, lambda state: state.written == 3)
        assert (state.announced, state.announced_by, state.waiting) == (3, "control", False)
        assert (await pulse(site)).returncode == 0  # its second frame gets lost, and no other follows it here
        state = await helpers.until(client, acquisition, lambda state: state.written == 6)
        assert (state.announced, state.counts.lost) == (6, 1)
        assert (await pulse(site)).returncode == 0
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced, final.announced_by) == ("complete", 9, "control")
        assert (final.counts.saved, final.counts.lost) == (7, 2)
        assert "no acquisition takes the signal" in (await pulse(site)).stderr
    check_saved(site, "run", lost=(4, 8))


async def test_each_gate_exposes_a_frame_while_it_is_open(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(
            acquisition, site.plan("run", 5, mode="gate", expo=20.0, pulse_period=0.01, pulse_width=0.05)
        )
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced, final.counts.saved) == ("complete", 5, 5)
    check_saved(site, "run")  # in time: the exposure alone would be 20 s


@pytest.mark.parametrize("mode", ["external", "gate"])
async def test_a_signal_goes_on_until_the_acquisition_is_stopped(make_site, helpers, mode):
    site = make_site()
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, mode=mode, pulse_period=0.005))
        await client.start(acquisition)
        await helpers.until(client, acquisition, lambda state: state.written > 8)
        final = await client.stop(acquisition)
        assert (final.outcome, final.announced_by) == ("complete", "control")
        assert final.announced == final.counts.saved == final.written > 8
    check_saved(site, "run")


@pytest.mark.parametrize("mode", ["software", "external", "gate"])
async def test_an_acquisition_that_no_trigger_reaches_ends_with_a_reason_if_it_is_asked_to(make_site, helpers, mode):
    site = make_site()
    async with site.running() as client:
        patient, hasty = helpers.new_id(), helpers.new_id()
        await client.prepare(patient, site.plan("patient", 3, mode=mode))
        await client.start(patient)
        await asyncio.sleep(0.5)  # the wait itself is what is tested
        state = await helpers.until(client, patient, lambda state: state.waiting)
        assert (state.state, state.reason) == ("running", "")
        lines = await asyncio.to_thread(
            subprocess.check_output, [str(site.scripts / "lima2"), "state", str(site.config)], text=True, timeout=60
        )
        assert f"acquisition {patient}: running, waits for its first trigger" in lines
        final = await client.stop(patient)
        assert (final.outcome, final.announced, final.waiting) == ("stopped", 0, False)

        await client.prepare(hasty, with_triggers(site.plan("hasty", 3, mode=mode), first_trigger_timeout=0.3))
        await client.start(hasty)
        final = await helpers.until(client, hasty, lambda state: state.state == "closed")
        assert (final.outcome, final.announced) == ("failed", 0)
        assert final.reason == (f"no {mode} trigger came within 0.3 s of the start (acquisition.first_trigger_timeout)")


async def test_a_trigger_in_time_ends_the_wait_for_good(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        acquisition = helpers.new_id()
        plan = with_triggers(site.plan("run", 2, mode="software"), first_trigger_timeout=2.0)
        await client.prepare(acquisition, plan)
        await client.start(acquisition)
        await client.trigger(acquisition)
        await helpers.until(client, acquisition, lambda state: state.written == 1)
        await asyncio.sleep(2.2)  # longer than the first trigger may take
        await client.trigger(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.saved) == ("complete", 2)


async def test_a_simulated_jungfrau_takes_the_signal_too(make_jungfrau, helpers):
    site = make_jungfrau(n_receivers=2)
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, helpers.jungfrau_plan(site, 9, TriggerMode.EXTERNAL, 3))
        await client.start(acquisition)
        assert (await pulse(site, "--number", "3", "--period", "0.05")).returncode == 0
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced, final.announced_by) == ("complete", 9, "control")
        assert final.counts.saved == 9
