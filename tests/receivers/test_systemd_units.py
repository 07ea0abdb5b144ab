"""The systemd units and the example configurations: what a site copies must work as it is."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from lima2_receivers.config import detector_settings, load_config
from lima2_receivers.errors import ConfigError
from lima2_receivers.plugins import DETECTORS

RECEIVERS = Path(__file__).parents[2] / "receivers"
UNITS = sorted((RECEIVERS / "systemd").glob("*.service"))
CONDUCTOR, RECEIVER = (RECEIVERS / "systemd" / f"lima2-{name}@.service" for name in ("conductor", "receiver"))
EXAMPLES = sorted((RECEIVERS / "examples").glob("*.toml"))
INSTALLED = "/opt/lima2/bin"


def read_unit(path: Path) -> configparser.ConfigParser:
    unit = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(path)
    return unit


def command(path: Path, instance: str) -> list[str]:
    """Return what systemd starts for an instance: specifiers and dollars resolved, then split."""
    line = read_unit(path)["Service"]["ExecStart"]
    line = re.sub(r"%(.)", lambda found: {"%": "%", "i": instance}[found[1]], line)
    return [word.replace("$$", "$") for word in shlex.split(line)]


def test_the_units_are_there():
    assert [path.name for path in UNITS] == [CONDUCTOR.name, "lima2-ingest@.service", RECEIVER.name]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_unit(unit, tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed: the units are not verified")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(INSTALLED, str(Path(sys.executable).parent)))
    done = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    assert (done.returncode, complaints) == (0, [])


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_unit_starts_a_console_script(unit):
    script = unit.name.partition("@")[0]
    assert re.search(rf"(^|[/\s]){script}\s", read_unit(unit)["Service"]["ExecStart"])
    assert script in {entry.name for entry in entry_points(group="console_scripts")}
    assert (Path(sys.executable).parent / script).exists()


def test_the_instance_of_a_conductor_names_its_configuration():
    assert command(CONDUCTOR, "jungfrau") == [f"{INSTALLED}/lima2-conductor", "/etc/lima2/jungfrau.toml"]


@pytest.mark.parametrize(("instance", "name"), [("jungfrau:12", "jungfrau"), ("id29-eiger_4m:12", "id29-eiger_4m")])
def test_the_instance_of_a_receiver_names_configuration_and_rank(instance, name, tmp_path):
    told = tmp_path / "lima2-receiver"
    told.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    told.chmod(0o700)
    found = subprocess.check_output(command(RECEIVER, instance), env={"PATH": str(tmp_path)}, text=True, timeout=60)
    assert found.splitlines() == [f"/etc/lima2/{name}.toml", "--rank", "12"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_unit_is_confined_and_restarts(unit):
    service = read_unit(unit)["Service"]
    expected = {
        "User": "lima2",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "RuntimeDirectoryMode": "0700",
        "Restart": "on-failure",
        "KillSignal": "SIGTERM",
    }
    assert {name: service[name] for name in expected} == expected
    assert int(service["TimeoutStopSec"]) > 0


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_example_loads(example):
    config = load_config(example)
    assert len(config.receivers) == 2
    detector_settings(config, DETECTORS.get(config.detector.plugin).settings)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('keys = "/etc/lima2/keys"', r"conductor\.commands: .* from other hosts, expected `security\.keys`"),
        ("unauthenticated_data = true", r"receivers\[0\]\.data: .*unauthenticated_data = true"),
    ],
)
def test_two_hosts_need_keys_and_a_word_about_the_detector(line, said, tmp_path):
    text = (RECEIVERS / "examples" / "two_hosts.toml").read_text()
    assert line in text
    changed = tmp_path / "two_hosts.toml"
    changed.write_text(text.replace(line, ""))
    with pytest.raises(ConfigError, match=said):
        load_config(changed)


def test_the_example_of_one_host_stays_within_what_the_units_allow():
    config = load_config(RECEIVERS / "examples" / "one_host.toml")
    service = read_unit(RECEIVER)["Service"]
    folder = f"ipc:///run/{service['RuntimeDirectory']}/"
    assert all(endpoint.startswith(folder) for endpoint in config.endpoints().values())
    assert config.saving.roots == (service["ReadWritePaths"],)
    cache = f"/var/cache/{service['CacheDirectory']}/"
    assert all(receiver.opencl.cache_dir.startswith(cache) for receiver in config.receivers)
