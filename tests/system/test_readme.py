"""The README's bluesky session runs as it is written, but for the places of sockets and files."""

import asyncio
import re
import sys
from pathlib import Path

import h5py

README = Path(__file__).parents[2] / "README.md"


async def test_the_session_of_the_readme(make_site):
    [session] = re.findall(r"## In a bluesky session\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    site = make_site()
    for place, ours in {
        "ipc:///run/lima2/commands": f"ipc://{site.sockets}/c",
        "ipc:///run/lima2/state": f"ipc://{site.sockets}/s",
        "/data/lima2/calibration/": f"{site.detector}/",
        "/data/lima2": str(site.data),
    }.items():
        assert place in session
        session = session.replace(place, ours)
    async with site.running():
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error",
            "-c",
            session,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), 120)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, output.decode()
    lengths = []
    for path in site.data.glob("*_master.h5"):
        with h5py.File(path) as file:
            measurement = file["/entry_0000/measurement"]
            assert (measurement["frame_status"][()] == 1).all()
            assert measurement["data"].shape[0] == len(measurement["frame_status"])
            lengths.append(len(measurement["frame_status"]))
    assert sorted(lengths) == [3, 1000]
