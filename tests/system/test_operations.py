"""``lima2 state`` and ``lima2 stop``, as an operator types them."""

from __future__ import annotations

import asyncio
import json
import subprocess


async def lima2(site, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(site.scripts / "lima2"), words[0], str(site.config), *words[1:]]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)


async def test_an_acquisition_that_nobody_owns_is_found_and_stopped(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        done = await lima2(site, "stop")
        assert done.returncode == 2
        assert "got 0 live acquisitions (none), name the one to stop" in done.stderr

        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, expo=0.01))
        await client.start(acquisition)
        await helpers.until(client, acquisition, lambda state: state.written > 3)
        done = await lima2(site, "state")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0] == "detector: acquiring"
        assert "receiver 1: alive" in done.stdout
        assert f"acquisition {acquisition}: running" in done.stdout
        assert str(site.data / "run_master.h5") in done.stdout

        done = await lima2(site, "stop", "--json")
        assert done.returncode == 0, done.stderr
        final = json.loads(done.stdout)
        assert (final["acquisition"], final["state"], final["outcome"]) == (acquisition, "closed", "complete")
        done = await lima2(site, "state", "--json")
        assert json.loads(done.stdout)["detector"] == "idle"


async def test_a_conductor_that_is_down_is_named(make_site):
    site = make_site()
    done = await lima2(site, "state")
    assert done.returncode == 2
    assert done.stderr.startswith("error: conductor at ipc://")
    assert done.stderr.count("\n") == 1
