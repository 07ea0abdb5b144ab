"""The example plans, as a user runs them, against a simulated detector."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

EXAMPLES = Path(__file__).parents[2] / "example_plans"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "n_frames", "words"),
    [
        ("step_scan.py", (3,), ("last_n_peaks", "hit_rate")),
        ("fly_scan.py", (100,), ("jungfrau-saved           100",)),
        ("overlap.py", (50, 50), ("stream jungfrau_a", "stream jungfrau_b", "stream ledger")),
    ],
)
async def test_example(make_site, example, n_frames, words):
    site = make_site()
    site.start()
    client = site.client()
    await site.connect(client)
    await client.close()
    environment = os.environ | {
        "LIMA2_COMMANDS": f"ipc://{site.sockets}/c",
        "LIMA2_STATE": f"ipc://{site.sockets}/s",
        "LIMA2_DATA": str(site.data),
        "LIMA2_CALIBRATION": str(site.detector),
    }
    done = subprocess.run(  # noqa: ASYNC221 - nothing else goes on in this loop
        [sys.executable, str(EXAMPLES / example)], env=environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout
    masters = list(site.data.glob("*_master.h5"))
    assert len(masters) == len(n_frames)
    for master, number in zip(masters, n_frames, strict=True):
        with h5py.File(master, "r", swmr=True, libver="latest") as file:
            assert file["/entry_0000/measurement/data"].shape[0] == number
            assert (file["/entry_0000/measurement/frame_status"][:] == 1).all()
