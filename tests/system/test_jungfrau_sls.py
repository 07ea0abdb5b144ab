"""A Jungfrau by PSI's client through the whole chain; a stand-in of the client sends the packets."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lima2_receivers.errors import PlanError
from lima2_receivers.plan import SavingParams, TriggerMode
from lima2_receivers.saving.read import read_rows

DATA = "/entry_0000/measurement/data"
STAND_IN = str(Path(__file__).parent / "stand_ins")


@pytest.fixture
def make_sls(make_jungfrau, monkeypatch):
    """Make a site whose conductor drives a stand-in's modules: ``make_sls(2, (2, 1), 2)``."""

    def make(n_receivers, modules, interfaces):
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((STAND_IN, os.environ.get("PYTHONPATH", ""))))
        site = make_jungfrau(n_receivers, modules, interfaces)
        n_modules = modules[0] * modules[1]
        settings = {
            "hostnames": [f"m{at}" for at in range(n_modules)],
            "source_ips": [f"10.0.0.{at + 1}" for at in range(n_modules * interfaces)],
            "receiver_macs": ["aa:00:00:00:00:01"] * n_receivers,
        }
        lines = "".join(f"{name} = {value}\n".replace("'", '"') for name, value in settings.items())
        text = site.config.read_text().replace("receive_buffer", f"{lines}receive_buffer")
        site.config.write_text(text)
        site.names = lambda: ["conductor", *(f"receiver_{rank}" for rank in range(n_receivers))]
        return site

    return make


def expected(numbers, n_modules):
    return [[100 * number + module for module in range(n_modules)] for number in numbers]


@pytest.mark.parametrize(
    ("n_receivers", "modules", "interfaces"), [(1, (1, 1), 1), (2, (2, 1), 2), (3, (2, 2), 1)], ids=str
)
async def test_triggers_go_on_where_the_last_one_ended(make_sls, helpers, n_receivers, modules, interfaces):
    site = make_sls(n_receivers, modules, interfaces)
    n_modules = modules[0] * modules[1]
    async with site.running() as client:
        for run, first in (("run", 1), ("again", 9)):
            acquisition = helpers.new_id()
            wanted = helpers.jungfrau_plan(site, 8, TriggerMode.SOFTWARE, 4)
            wanted = msgspec.structs.replace(wanted, saving=SavingParams(str(site.data), run))
            await client.prepare(acquisition, wanted)
            await client.start(acquisition)
            for taken in (4, 8):
                await client.trigger(acquisition, 4)
                await helpers.until(client, acquisition, lambda state, taken=taken: state.written >= taken)
            state = await helpers.until(client, acquisition, lambda state: state.state == "closed")
            assert (state.outcome, state.reasons, state.counts.saved) == ("complete", {}, 8)
            saved = np.asarray(read_rows(site.data / f"{run}_master.h5", DATA))
            assert (saved == saved[:, :, :1, :1]).all()
            np.testing.assert_array_equal(saved[:, :, 0, 0], expected(range(first, first + 8), n_modules))


async def test_a_stop_in_mid_run_and_another_run(make_sls, helpers):
    site = make_sls(2, (2, 1), 2)
    async with site.running() as client:
        with pytest.raises(PlanError, match="nb_frames: got 0, expected a number"):
            await client.prepare(helpers.new_id(), helpers.jungfrau_plan(site, 0))
        acquisition = helpers.new_id()
        await client.prepare(acquisition, helpers.jungfrau_plan(site, 50, expo=0.02))
        await client.start(acquisition)
        await helpers.until(client, acquisition, lambda state: state.written >= 3)
        final = await client.stop(acquisition)
        assert (final.outcome, final.announced_by) == ("stopped", "highest")
        assert 3 <= final.counts.saved == final.announced < 50
        again = helpers.new_id()
        wanted = msgspec.structs.replace(helpers.jungfrau_plan(site, 4), saving=SavingParams(str(site.data), "again"))
        await client.prepare(again, wanted)
        await client.start(again)
        after = await helpers.until(client, again, lambda state: state.state == "closed")
        assert (after.outcome, after.counts.saved) == ("complete", 4)
