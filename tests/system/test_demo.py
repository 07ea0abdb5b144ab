"""``lima2 demo``, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LIMA2 = str(Path(sys.executable).parent / "lima2")
FIELDS = [
    *("frames_announced", "frames_saved", "frames_vetoed", "frames_lost", "frames_failed", "hits", "hit_rate"),
    *("peaks_found", "peaks_true", "tiled_readback_ok", "seconds", "fps", "device", "master_file", "png"),
]


def demo(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [LIMA2, "demo", "--json", "--output", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen[str]) -> tuple[int, dict, str]:
    out, err = process.communicate(timeout=300)
    lines = out.splitlines()
    return process.returncode, json.loads(lines[-1]) if lines else {}, err


def descendants(pid: int) -> set[int]:
    """Return the processes below a process, which its children's own sessions don't hide."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def test_two_demos_at_once_with_losses(tmp_path):
    first = demo(tmp_path / "first", "--size", "module", "--frames", "25", "--loss", "0.1")
    second = demo(tmp_path / "second", "--size", "module", "--frames", "10", "--receivers", "1")
    for process, frames in ((first, 25), (second, 10)):
        code, printed, err = result(process)
        assert code == 0, err
        assert list(printed) == FIELDS
        assert printed["frames_announced"] == frames
        assert printed["frames_saved"] + printed["frames_lost"] == frames
        assert printed["tiled_readback_ok"]
        assert 0 < printed["hits"] < frames
        assert printed["peaks_found"] >= 0.95 * printed["peaks_true"] > 0
        assert Path(printed["png"]).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert "Portable Computing Language" in printed["device"]
    assert json.loads((tmp_path / "first" / "check.json").read_text())["problems"] == []


def test_recorded_frames_agree_with_psi(tmp_path, recorded_module):
    code, printed, err = result(demo(tmp_path / "out", "--replay", str(recorded_module), "--center=-30,70"))
    assert code == 0, err
    n_frames = len(list(recorded_module.glob("*_raw*.bin")))
    assert printed["frames_announced"] == printed["frames_saved"] == printed["hits"] == n_frames
    assert printed["peaks_true"] is None
    with h5py.File(printed["master_file"], "r", swmr=True, libver="latest") as master:
        data = master["/entry_0000/measurement/data"]
        assert data.shape == (n_frames, 512, 1024)
        assert data.dtype == np.float32
        for number in range(n_frames):
            raw = np.fromfile(next(recorded_module.glob(f"*_raw{number}.bin")), "<u2").reshape(512, 1024)
            converted = np.fromfile(next(recorded_module.glob(f"*_conv{number}.bin")), "<f4").reshape(512, 1024)
            image = data[number]
            chosen = (raw >> 14 == 0) & (converted > 0.5)
            error = np.abs(image[chosen] - converted[chosen]) / converted[chosen]
            assert (error <= 1e-5).mean() >= 0.999
            saturated = image[raw == 0xC000]
            assert np.isposinf(saturated[~np.isnan(saturated)]).all()


def test_a_shorter_replay_with_a_poni_file(tmp_path, recorded_module):
    from pyFAI.detectors import Detector
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    pixel = 75e-6
    geometry = AzimuthalIntegrator(
        dist=0.1,
        poni1=(-30 + 0.5) * pixel,  # pyFAI's origin is the corner of the first pixel
        poni2=(70 + 0.5) * pixel,
        detector=Detector(pixel, pixel, max_shape=(512, 1024)),
        wavelength=1e-10,
    )
    geometry.save(str(tmp_path / "module.poni"))
    replay = ("--replay", str(recorded_module), "--frames", "2")
    code, by_poni, err = result(demo(tmp_path / "poni", *replay, "--poni", str(tmp_path / "module.poni")))
    assert code == 0, err
    assert by_poni["frames_announced"] == 2
    code, by_center, err = result(demo(tmp_path / "center", *replay, "--center=-30,70"))
    assert code == 0, err
    assert by_poni["peaks_found"] == pytest.approx(by_center["peaks_found"], rel=0.02)
    radii = []
    for printed in (by_poni, by_center):
        with h5py.File(printed["master_file"], "r", swmr=True, libver="latest") as master:
            radii.append(master["/entry_0000/measurement/radius"][:])
    np.testing.assert_allclose(radii[0], radii[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--replay", "/none"], "there is no folder /none"),
        (["--center", "somewhere"], "expected ROW,COL"),
        (["--poni", "/none.poni"], "there is no file /none.poni"),
        (["--size", "9m"], "9m"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, message):
    code, _, err = result(demo(tmp_path / "out", *options))
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_an_incomplete_recording_is_named(tmp_path):
    (tmp_path / "recording").mkdir()
    (tmp_path / "recording" / "x_raw0.bin").write_bytes(b"\0" * 2 * 512 * 1024)
    code, _, err = result(demo(tmp_path / "out", "--replay", str(tmp_path / "recording")))
    assert code == 1
    assert "*_pedeG0.bin" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_ends_everything(tmp_path, number):
    process = demo(tmp_path / "out", "--size", "module", "--frames", "1000000")
    master = tmp_path / "out" / "data" / "demo_master.h5"
    deadline = time.monotonic() + 120
    while not (master.exists() and (master.parent / "demo_raw_1.h5").stat().st_size > 5_000_000):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    below = descendants(process.pid)
    assert len(below) >= 6
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
    with h5py.File(master.parent / "demo_raw_0.h5", "r"):
        pass  # opens without SWMR: it was closed
    with h5py.File(master, "r", swmr=True, libver="latest") as opened:
        assert (opened["/entry_0000/measurement/frame_status"][:5] == 1).all()
