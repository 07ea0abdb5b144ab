"""A detector whose control has a part on each receiver host: all are told, in time, also of the end."""

from __future__ import annotations

import time

import msgspec
import pytest

from lima2_receivers.detectors.simulator.host import Told
from lima2_receivers.errors import DetectorError


def told(site, rank):
    path = site.detector / f"host_{rank}.jsonl"
    return [msgspec.json.decode(line, type=Told) for line in path.read_text().splitlines()] if path.exists() else []


def series_of(site, rank, what):
    return [each.series for each in told(site, rank) if each.what == what]


async def test_every_host_is_told_of_each_acquisition(make_site, helpers):
    site = make_site(n_receivers=3, settings="hosts = true")
    async with site.running() as client:
        for number in range(2):
            acquisition = helpers.new_id()
            await client.prepare(acquisition, site.plan(f"run{number}", 12))
            assert all(len(series_of(site, rank, "prepare")) == number + 1 for rank in range(3))
            await client.start(acquisition)
            state = await helpers.until(client, acquisition, lambda state: state.state == "closed")
            assert (state.reason, state.counts.saved) == ("", 12)
    site.close()
    first = told(site, 0)
    assert [each.what for each in first] == ["prepare", "stop"] * 2 + ["close"]
    assert first[0].series == first[1].series != first[2].series
    assert told(site, 1) == told(site, 2) == first


async def test_a_host_that_refuses_leaves_nothing_behind(make_site, helpers):
    site = make_site(n_receivers=2, settings="hosts = true")
    async with site.running() as client:
        with pytest.raises(DetectorError, match="receiver 1: the host's part of the detector simulator: it refuses"):
            await client.prepare(helpers.new_id(), site.plan("run", 4, hosts_refuse=[1]))
        assert not list(site.data.iterdir())
        for rank in range(2):
            assert series_of(site, rank, "prepare") == series_of(site, rank, "stop")
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 4))
        await client.start(acquisition)
        state = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert state.counts.saved == 4


async def test_a_host_that_hangs_is_given_up_in_time(make_site, helpers):
    site = make_site(n_receivers=2, settings="hosts = true", extra="[deadlines]\ncommand = 0.5\n")
    async with site.running() as client:
        began = time.monotonic()
        with pytest.raises(DetectorError, match=r"receiver 0: .* did not prepare within 0\.5 s"):
            await client.prepare(helpers.new_id(), site.plan("run", 4, hosts_hang=[0]), timeout=10)
        assert time.monotonic() - began < 8
        assert not list(site.data.iterdir())
        assert series_of(site, 0, "prepare") == series_of(site, 0, "stop")


async def test_files_that_can_not_be_made_are_told_to_the_hosts(make_site, helpers):
    site = make_site(n_receivers=1, settings="hosts = true")
    async with site.running() as client:
        wrong = site.plan("run", 4, pipeline=True, params={"pedestal": [{"path": str(site.detector / "gain.npy")}] * 2})
        with pytest.raises(Exception, match="pedestal"):
            await client.prepare(helpers.new_id(), wrong)
        assert series_of(site, 0, "prepare") == series_of(site, 0, "stop")
