"""A receiver host needs no bluesky, ophyd or Tiled: the extras ``receiver`` and ``pocl`` take frames by themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_conductor_and_receivers_run_without_bluesky(make_site, helpers, tmp_path):
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)  # noqa: ASYNC221
    pip = [environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    constraints = ["--constraint", REPOSITORY / "constraints.txt"]
    done = subprocess.run(  # noqa: ASYNC221
        [*pip, *constraints, f"{REPOSITORY}[receiver,pocl]"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for package in ("ophyd_async", "bluesky", "tiled", "event_model"):
        done = subprocess.run(  # noqa: ASYNC221
            [environment / "bin" / "python", "-c", f"import {package}"], capture_output=True
        )
        assert b"ModuleNotFoundError" in done.stderr, package
    done = subprocess.run([environment / "bin" / "lima2", "--help"], capture_output=True, text=True)  # noqa: ASYNC221
    assert done.returncode == 0
    assert "state" in done.stdout
    done = subprocess.run([environment / "bin" / "lima2", "demo"], capture_output=True, text=True)  # noqa: ASYNC221
    assert done.returncode == 1
    assert "lima2-ophyd[all]" in done.stdout

    site = make_site()
    site.scripts = environment / "bin"
    site.start()
    client = site.client()
    await site.connect(client)
    try:
        acquisition = helpers.new_id()
        prepared = await client.prepare(acquisition, site.plan("run", 20, pipeline=True))
        assert all("Portable Computing Language" in facts.device for facts in prepared.pipelines)
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.saved) == ("complete", 20)
    finally:
        await client.close()
