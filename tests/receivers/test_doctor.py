"""What ``lima2 doctor`` says of this host."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from lima2_receivers.cli import app
from lima2_receivers.saving.file_systems import Mount

CONFIG = """
[detector]
plugin = "{plugin}"
[detector.settings]
{settings}
[conductor]
commands = "ipc:///run/lima2/c"
state = "ipc:///run/lima2/s"
[saving]
roots = ["{roots}"]
{saving}
[[receivers]]
commands = "ipc:///run/lima2/r0"
data = "{data}"
"""


@pytest.fixture
def examine(tmp_path):
    """Run the command, and return its exit status and findings by check."""

    def run(roots, saving="", plugin="simulator", settings="", data="ipc:///run/lima2/d0"):
        path = tmp_path / "site.toml"
        path.write_text(CONFIG.format(roots=roots, saving=saving, plugin=plugin, settings=settings, data=data))
        said = CliRunner().invoke(app, ["doctor", str(path), "--json"])
        return said.exit_code, {each["check"]: each for each in json.loads(said.output)}

    return run


@pytest.mark.parametrize("mode", ["swmr", "close_per_file"])
def test_a_host_that_is_well(tmp_path, examine, mode):
    code, found = examine(tmp_path, f'mode = "{mode}"')
    assert code == 0
    root = found[f"saving.roots {tmp_path}"]
    assert root["verdict"] in ("ok", "warning")  # the disk may be full, or of a kind that nobody knows
    assert f"saving.mode {mode} works" in root["text"]
    assert found["compression"]["text"] == "none, zip, bshuf_lz4, bshuf_zstd"
    assert found["receivers[0].opencl"]["verdict"] == "ok"
    assert "HDF5 " in found["versions"]["text"]


def test_what_is_wrong_is_an_error_and_the_rest_is_looked_at(examine, tmp_path):
    code, found = examine(tmp_path / "nowhere")
    assert code == 1
    root = found[f"saving.roots {tmp_path / 'nowhere'}"]
    assert (root["verdict"], "is not there" in root["text"]) == ("error", True)
    assert found["compression"]["verdict"] == "ok"


def test_a_file_system_that_nobody_knows_is_a_warning(examine, tmp_path, monkeypatch):
    monkeypatch.setattr("lima2_receivers.saving.probe.mount_at", lambda *_: Mount(tmp_path, "newfs"))
    code, found = examine(tmp_path)
    root = found[f"saving.roots {tmp_path}"]
    assert (code, root["verdict"]) == (0, "warning")
    assert "newfs" in root["text"]
    assert "close_per_file" in root["text"]


def test_a_shared_file_system_is_an_error_in_swmr_mode_alone(examine, tmp_path, monkeypatch):
    monkeypatch.setattr("lima2_receivers.saving.probe.mount_at", lambda *_: Mount(tmp_path, "nfs4"))
    assert examine(tmp_path)[0] == 1
    assert examine(tmp_path, 'mode = "close_per_file"')[0] == 0
    assert examine(tmp_path, 'swmr_on = ["nfs4"]')[0] == 0


@pytest.mark.parametrize(("granted", "verdict"), [(4096, "warning"), (2**22, "ok")])
def test_buffers_that_the_kernel_does_not_grant_are_a_warning(examine, tmp_path, monkeypatch, granted, verdict):
    monkeypatch.setattr(sys.modules["lima2_receivers.cli.doctor"], "enlarge", lambda _, asked: min(asked, granted))
    settings = f'control = "ipc:///run/lima2/sim"\nfolder = "{tmp_path}"\nreceive_buffer = {2**22}'
    code, found = examine(tmp_path, "", "jungfrau", settings, "udp://127.0.0.1:31001")
    assert (code, found["udp receive buffer"]["verdict"]) == (0, verdict)
    assert f"{granted} bytes granted" in found["udp receive buffer"]["text"]


def test_a_configuration_that_can_not_be_read_is_told(tmp_path):
    said = CliRunner().invoke(app, ["doctor", str(tmp_path / "none.toml")])
    assert said.exit_code == 2
    assert "error: configuration" in said.output
