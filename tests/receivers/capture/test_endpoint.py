"""Captures without a configuration: a detector's name and a data endpoint."""

import json
import subprocess
import sys
import uuid

import pytest
import zmq

from lima2_receivers.capture.endpoint import endpoint_config
from lima2_receivers.capture.format import Capture
from lima2_receivers.config import detector_settings
from lima2_receivers.detectors.jungfrau.params import JungfrauSettings
from lima2_receivers.errors import ConfigError
from lima2_receivers.plugins import DETECTORS

RUN = "from lima2_receivers.cli import main; main()"


@pytest.mark.parametrize("name", DETECTORS.names())
def test_a_name_and_an_endpoint_are_enough_for_every_detector(name):
    config = endpoint_config(name, "ipc:///tmp/d")
    assert (config.detector.plugin, config.receivers[0].data) == (name, "ipc:///tmp/d")
    detector_settings(config, DETECTORS.get(name).settings)


def test_settings_are_lines_of_toml():
    config = endpoint_config("jungfrau", "udp://127.0.0.1:50001", ["modules = [1, 2]", "interfaces = 2"])
    settings = detector_settings(config, JungfrauSettings)
    assert (settings.modules, settings.interfaces) == ((1, 2), 2)


@pytest.mark.parametrize(
    ("name", "data", "settings", "words"),
    [
        ("nosuch", "ipc:///d", [], "no lima2.detectors plugin 'nosuch': installed are"),
        ("eiger2", "ipc://d", [], "--data: got 'ipc://d'"),
        ("eiger2", "tcp://eiger:31001", [], "--data: tcp://eiger:31001 can be reached from other hosts"),
        ("eiger2", "ipc:///d", ["streem = 'cbor'"], "detector.settings of plugin eiger2: .*`streem`"),
        ("eiger2", "ipc:///d", ["stream"], "--set: got stream: .*expected lines of TOML"),
        ("eiger2", "ipc:///d", ["stream = {a = 1}"], "--set: got stream"),
    ],
)
def test_what_does_not_fit_is_named(name, data, settings, words):
    with pytest.raises(ConfigError, match=words):
        endpoint_config(name, data, settings)


def test_an_endpoint_of_another_host_must_be_allowed():
    config = endpoint_config("eiger2", "tcp://eiger:31001", unauthenticated=True)
    assert config.receivers[0].data == "tcp://eiger:31001"


def test_a_detector_is_captured_by_its_name(tmp_path):
    data = f"ipc:///tmp/l2-{uuid.uuid4().hex}"
    command = [sys.executable, "-c", RUN, "capture", "eiger2", tmp_path / "run.capture", "--data", data]
    with (
        zmq.Context() as context,
        context.socket(zmq.PUSH) as push,
        subprocess.Popen([*command, "--messages", "2", "--json"], stdout=subprocess.PIPE) as process,
    ):
        push.linger = 0
        push.bind(data)
        push.sndtimeo = 30_000
        for message in (b"one", b"two"):
            push.send(message)
        assert json.loads(process.stdout.read())["messages"] == 2
    assert process.returncode == 0
    with Capture(tmp_path / "run.capture") as capture:
        assert (capture.head.plugin, capture.head.endpoint) == ("eiger2", data)
        assert [bytes(capture.joined(entry)) for entry in capture.entries] == [b"one", b"two"]


def test_options_of_an_endpoint_need_one(tmp_path):
    command = [sys.executable, "-c", RUN, "capture", "eiger2", tmp_path / "run.capture", "--set", "stream = 'cbor'"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--data" in done.stderr
