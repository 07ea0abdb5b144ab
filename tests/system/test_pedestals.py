"""From dark frames of a simulated Jungfrau to corrected ones: the plan, its file, the pipeline that uses it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.run_engine import call_in_bluesky_event_loop
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices

from lima2_ophyd.detector import Lima2Detector
from lima2_ophyd.plans import pedestal_scan
from lima2_receivers.detectors.jungfrau.params import JungfrauParams
from lima2_receivers.errors import SavingError
from lima2_receivers.saving.pedestal import merge_gains

LIMA2 = Path(sys.executable).with_name("lima2")
ROWS = 64
TRUE_NOISE = (22.0, 2.0, 1.5)  # of the simulated detector, in ADU


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_plan_finds_the_pedestals_of_the_simulated_detector(make_jungfrau, helpers, tmp_path):
    site = make_jungfrau(1, frames=100, hits=0.0, background=0.0)
    site.start()
    engine = RunEngine({}, context_managers=[], call_returns_result=True)
    runs = []
    engine.subscribe(lambda name, document: runs.append(document), "start")
    helpers.until_logged(site, "detector", "is ready")
    with init_devices():
        detector = Lima2Detector(
            f"ipc://{site.sockets}/c",
            f"ipc://{site.sockets}/s",
            StaticPathProvider(UUIDFilenameProvider(), site.data),
            pipeline=None,
            detector_params=JungfrauParams,
            name="det",
        )

    async def prepare():
        await detector.detector.read_rows.set(ROWS)

    call_in_bluesky_event_loop(prepare())
    output = tmp_path / "pedestal.h5"
    summary = engine(pedestal_scan(detector, output, 100, exposure=0.002)).plan_result
    call_in_bluesky_event_loop(detector.disconnect())
    assert [run["pedestal_gain"] for run in runs] == ["dynamic", "forceswitchg1", "forceswitchg2"]
    first = (512 - ROWS) // 2
    truth = np.load(site.detector / "pedestal.npy")[:, :, first : first + ROWS]
    with h5py.File(output) as file:
        pedestal, noise, mask = (file[name][()] for name in ("pedestal", "noise", "mask"))
        settings = [json.loads(file[f"source/g{gain}/detector"][()])["gain"] for gain in range(3)]
        assert file.attrs["made"]
        assert file["source/g1/n_frames"][()] == 100
    assert settings == ["dynamic", "forceswitchg1", "forceswitchg2"]
    assert summary.frames == (100, 100, 100)
    assert summary.bad_pixels == np.count_nonzero(mask)
    good = mask == 0
    assert ((truth[0] == 0) == (mask != 0)).mean() > 0.999
    for gain, sigma in enumerate(TRUE_NOISE):
        error = (pedestal[gain] - truth[gain])[good]
        assert np.abs(error).max() < 6 * max(sigma, 0.5) / np.sqrt(100) + 0.05
        assert np.median(noise[gain][good]) == pytest.approx(np.hypot(sigma, 1 / np.sqrt(12)), rel=0.05)


@pytest.mark.slow
async def test_the_pipeline_takes_the_file(make_jungfrau, helpers):
    site = make_jungfrau(1, background=3.0)
    first = (512 - ROWS) // 2
    async with site.running() as client:
        maps = [np.load(site.detector / f"{name}.npy")[:, :, first : first + ROWS] for name in ("pedestal", "gain")]
        with h5py.File(site.data / "pedestal.h5", "w") as file:
            file["pedestal"] = maps[0]
        np.save(site.data / "gain.npy", maps[1])
        params = {
            "pedestal": [{"path": str(site.data / "pedestal.h5"), "dataset": "pedestal"}],
            "gain": [{"path": str(site.data / "gain.npy")}],
        }
        acquisition = helpers.new_id()
        plan = helpers.jungfrau_plan(site, 6, pipeline=params, read_rows=ROWS)
        await client.prepare(acquisition, plan)
        await client.start(acquisition)
        state = await helpers.until(client, acquisition, lambda state: state.state == "closed")
    assert (state.reason, state.counts.saved) == ("", 6)


def test_frames_that_are_no_dark_jungfrau_ones_are_refused(tmp_path):
    for number in range(3):
        with h5py.File(tmp_path / f"{number}.h5", "w", libver="latest") as file:
            file["entry_0000/measurement/data"] = np.zeros((2, 4, 4), np.uint16)
    masters = [str(tmp_path / f"{number}.h5") for number in range(3)]
    done = subprocess.run([LIMA2, "pedestal", *masters, str(tmp_path / "out.h5")], capture_output=True, text=True)
    assert done.returncode == 2
    assert "0.h5: it does not say what its frames look like" in done.stderr
    assert not (tmp_path / "out.h5").exists()


def test_gain_maps_of_modules_are_put_together(tmp_path):
    random = np.random.default_rng(0)
    planes = [random.normal(40, 1, (count, 512, 1024)) for count in (3, 4)]
    for number, each in enumerate(planes):
        each.astype("<f8").tofile(tmp_path / f"gainMaps_M{number}.bin")
    maps = [str(tmp_path / f"gainMaps_M{number}.bin") for number in range(2)]
    command = [LIMA2, "gains", *maps, "-o", str(tmp_path / "gain.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "gains of 2 modules in ADU/keV" in done.stdout
    found = np.load(tmp_path / "gain.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack([each[:3] for each in planes], axis=1), rtol=1e-6)
    with pytest.raises(SavingError, match=r"is there already|File exists"):
        merge_gains([tmp_path / "gainMaps_M0.bin"], tmp_path / "gain.npy")
    (tmp_path / "short.bin").write_bytes(bytes(100))
    with pytest.raises(SavingError, match="got 100 bytes, expected 12582912 or 16777216"):
        merge_gains([tmp_path / "short.bin"], tmp_path / "other.npy")
    assert not (tmp_path / "other.npy").exists()
