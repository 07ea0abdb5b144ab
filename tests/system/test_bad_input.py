"""What is wrong is refused before anything moves, says where, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import math
import subprocess
import time

import msgspec
import pytest

from lima2_receivers.errors import (
    DetectorError,
    PlanError,
    ProtocolError,
    ReceiverError,
    SavingError,
    StateError,
    UnreachableError,
)
from lima2_receivers.plan import AcquisitionParams, PipelineChoice, StreamSaving


def files(site) -> list[str]:
    return sorted(path.name for path in site.data.rglob("*") if path.is_file())


def with_params(plan, **params):
    return msgspec.structs.replace(plan, pipeline=PipelineChoice("smx", msgspec.Raw(msgspec.msgpack.encode(params))))


def with_saving(plan, **changes):
    return msgspec.structs.replace(plan, saving=msgspec.structs.replace(plan.saving, **changes))


def with_acquisition(plan, **changes):
    return msgspec.structs.replace(plan, acquisition=AcquisitionParams(**changes))


async def test_a_wrong_plan_is_refused_with_its_path_and_the_next_prepare_works(make_site, helpers, tmp_path):
    site = make_site()
    async with site.running() as client:
        good = site.plan("run", 3)
        (site.data / "taken_dense_1.h5").write_text("precious")
        (site.data / "a_file").write_text("")
        (site.data / "way_out").symlink_to(tmp_path)
        text = site.data / "not_an_array.npy"
        text.write_text("no")
        before = files(site)
        none = {"dense": StreamSaving(enabled=False), "sparse": StreamSaving(enabled=False)}
        cases = [
            (with_params(good, noize=1.0), PlanError, r"pipeline\.params: .*unknown field `noize`"),
            (with_params(good, noise=-1.0), PlanError, r"pipeline\.params: .*> 0.*\$\.noise"),
            (with_params(good, cutoff_peak=1.0), PlanError, r"cutoff_peak: got 1\.0, expected at least cutoff_pick"),
            (with_params(good), PlanError, r"pipeline\.params\.pedestal: got 'none', expected pedestals and gains"),
            (with_params(good, gain=[{"path": f"{site.data}/g.npy"}]), PlanError, r"gain\.0: .*/g\.npy: No such file"),
            (with_params(good, gain=[{"path": "/etc/passwd"}]), PlanError, r"gain\.0: .*expected a file below"),
            (
                with_params(good, mask={"path": "m.npy"}),
                PlanError,
                r"mask: got path 'm\.npy', expected an absolute one",
            ),
            (with_params(good, mask={"path": str(text)}), PlanError, r"mask: .*not_an_array\.npy"),
            (
                msgspec.structs.replace(good, pipeline=PipelineChoice("smxx")),
                PlanError,
                r"pipeline\.name: got 'smxx'.*smx",
            ),
            (site.plan("run", 3, los=0.1), PlanError, r"detector: .*unknown field `los`"),
            (site.plan("run", 3, loss=1.5), PlanError, r"detector: .*<= 1.*\$\.loss"),
            (with_acquisition(good, expo_time=5000.0), PlanError, r"expo_time: got 5000 s, .* takes 1e-06 to 3600 s"),
            (with_saving(good, base_path="data"), SavingError, r"base_path: got 'data', expected an absolute folder"),
            (with_saving(good, base_path="/etc"), SavingError, r"base_path: /etc is /etc, expected a folder below"),
            (
                with_saving(good, base_path=str(site.data / "way_out")),
                SavingError,
                r"base_path: .*expected a folder below",
            ),
            (with_saving(good, base_path=f"{site.data}/../x"), SavingError, r"expected a folder without '\.\.'"),
            (with_saving(good, base_path=str(site.data / "a_file")), SavingError, r"a_file is not a folder"),
            (with_saving(good, filename_prefix="../run"), ProtocolError, r"filename_prefix"),
            (with_saving(good, filename_prefix="a/b"), ProtocolError, r"filename_prefix"),
            (with_saving(site.plan("taken", 3, pipeline=True)), SavingError, r"taken_dense_1\.h5 is there already"),
            (with_saving(good, streams={"dens": StreamSaving()}), PlanError, r"saving\.streams: got 'dens'"),
        ]
        for plan, kind, message in cases:
            with pytest.raises(ReceiverError, match=message) as caught:
                await client.prepare(helpers.new_id(), plan)
            assert type(caught.value) is kind, caught.value
            assert files(site) == before, plan
        acquisition = helpers.new_id()
        await client.prepare(acquisition, with_saving(site.plan("run", 3, pipeline=True), streams=none))
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert final.counts.saved == 3
        assert not [name for name in files(site) if name.startswith(("run_dense", "run_sparse"))]


async def test_a_frame_that_does_not_fit_the_ring_is_refused(make_site, helpers):
    site = make_site()
    site.config.write_text(site.config.read_text().replace("slot_bytes = 16384", "slot_bytes = 16383", 1))
    async with site.running() as client:
        with pytest.raises(PlanError, match=r"16384 bytes do not fit .*receivers\[0\].ring.slot_bytes is 16383"):
            await client.prepare(helpers.new_id(), site.plan("run", 3))
        assert files(site) == []


async def test_a_receiver_that_is_down_is_named_within_its_deadline(make_site, helpers):
    site = make_site(extra="[deadlines]\ncommand = 2.0\n")
    site.start("detector", "conductor", "receiver_0")
    client = site.client()
    await client.connect()
    await site.wait_for_detector(client)
    try:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"receiver 1 at ipc://.* did not answer Hello within 2 s"):
            await client.prepare(helpers.new_id(), site.plan("run", 3))
        assert time.monotonic() - began < 5
        assert files(site) == []
        site.start("receiver_1")
        await site.connect(client)
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 3))
        await client.start(acquisition)
        await helpers.until(client, acquisition, lambda state: state.counts.saved == 3)
    finally:
        await client.close()


async def test_a_detector_that_is_down_is_named(make_site, helpers):
    site = make_site(extra="[deadlines]\ncommand = 1.0\n")
    site.start("conductor", "receiver_0", "receiver_1")
    client = site.client()
    await client.connect()
    try:
        with pytest.raises(DetectorError, match=r"detector at ipc://.* did not answer"):
            await client.prepare(helpers.new_id(), site.plan("run", 3))
        assert files(site) == []
    finally:
        await client.close()


async def test_the_detector_is_not_taken_from_a_running_acquisition(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        first = helpers.new_id()
        await client.prepare(first, site.plan("first", 0, expo=0.01))
        await client.start(first)
        with pytest.raises(StateError, match=rf"taken by acquisition {first}, which is running: stop it first"):
            await client.prepare(helpers.new_id(), site.plan("second", 3))
        with pytest.raises(StateError, match="start can't happen while running"):
            await client.start(first)
        with pytest.raises(StateError, match="is in internal mode, a trigger needs software mode"):
            await client.trigger(first, 1)
        with pytest.raises(StateError, match="there is no acquisition"):
            await client.start(helpers.new_id())
        final = await client.stop(first)
        assert final.outcome == "complete"


@pytest.mark.parametrize("name", ["detector", "conductor", "receiver_0"])
def test_a_daemon_that_cannot_start_says_why_in_one_line(make_site, name):
    site = make_site(n_receivers=1)
    command = site.command(name)
    done = subprocess.run([command[0], "/none/x.toml", *command[2:]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: configuration /none/x.toml: No such file or directory\n"
    site.config.write_text(site.config.read_text() + "\n[typo]\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "unknown field `typo`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_busy_endpoint_is_refused(make_site):
    site = make_site(n_receivers=1)
    site.start("conductor")
    deadline = time.monotonic() + 20
    while not (site.sockets / "s").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    done = subprocess.run(site.command("conductor"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "conductor.commands: ipc://" in done.stderr
    assert "is in use by another process" in done.stderr


async def test_a_refused_prepare_leaves_the_files_that_it_was_to_replace(make_site, helpers):
    """Receiver 0 has made its files already when receiver 1, on another device, refuses."""
    site = make_site()
    names = ["run_master.h5", "run_ledger.h5", *(f"run_raw_{rank}.h5" for rank in range(2))]
    for name in names:
        (site.data / name).write_text("precious")
    (site.data / "run_raw_1.h5.replaced").mkdir()  # where receiver 1 wants to move its old file
    (site.data / "run_raw_1.h5.replaced" / "something").write_text("")
    async with site.running() as client:
        plan = with_saving(site.plan("run", 4), file_exists_policy="overwrite")
        with pytest.raises(SavingError, match=r"receiver 1: making .*run_raw_1\.h5: "):
            await client.prepare(helpers.new_id(), plan)
        assert all((site.data / name).read_text() == "precious" for name in names)
        (site.data / "run_raw_1.h5.replaced" / "something").unlink()
        (site.data / "run_raw_1.h5.replaced").rmdir()
        acquisition = helpers.new_id()
        await client.prepare(acquisition, plan)
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.saved) == ("complete", 4)
    assert files(site) == sorted(names)


async def test_wrong_triggers_are_refused_and_the_next_works(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 5, mode="software"))
        await client.start(acquisition)
        for wrong, kind, message in [
            ((-1,), ProtocolError, r"n_frames"),
            ((1, math.nan), ReceiverError, r"expo_time"),
            ((1, 1e6), PlanError, r"trigger\.expo_time: got 1e\+06 s, .* takes "),
            ((1, 0.0, math.nan), ReceiverError, r"latency_time"),
            ((6,), StateError, r"trigger\.n_frames: got 6, expected at most 5"),
        ]:
            with pytest.raises(kind, match=message):
                await client.trigger(acquisition, *wrong)
        both = await asyncio.gather(*(client.trigger(acquisition, 3) for _ in range(2)), return_exceptions=True)
        assert sorted(type(one).__name__ for one in both) == ["NoneType", "StateError"]
        await client.trigger(acquisition, 2)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced, final.counts.saved) == ("complete", 5, 5)
