"""Recording from a receiver's data endpoint, and sending it once more."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
import zmq

from lima2_receivers.capture.format import Capture, CaptureHead, CaptureWriter
from lima2_receivers.capture.play import open_spout, play
from lima2_receivers.capture.record import record
from lima2_receivers.capture.taps import open_tap
from lima2_receivers.config import load_config
from lima2_receivers.errors import ConfigError, DetectorError

DEADLINE = 20.0
MESSAGES = [[b"header", b"pixels" * 1000], [b"end"], [b""], [b"a", b"", b"c", b"d"]]


def free_udp_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def make_config(tmp_path, sockets):
    """A configuration of one receiver: ``make_config("eiger2")``."""

    def make(plugin):
        tables = {
            "simulator": f'control = "ipc://{sockets}/sim"\nfolder = "{tmp_path}"',
            "eiger2": 'url = "http://127.0.0.1:1"',
            "jungfrau": f'control = "ipc://{sockets}/sim"\nfolder = "{tmp_path}"\nreceive_buffer = 4194304',
        }
        data = f"udp://127.0.0.1:{free_udp_port()}" if plugin == "jungfrau" else f"ipc://{sockets}/d"
        path = tmp_path / f"{plugin}.toml"
        path.write_text(
            f'[detector]\nplugin = "{plugin}"\n[detector.settings]\n{tables[plugin]}\n'
            f'[conductor]\ncommands = "ipc://{sockets}/c"\nstate = "ipc://{sockets}/s"\n'
            f'[saving]\nroots = ["{tmp_path}"]\n'
            f'[[receivers]]\ncommands = "ipc://{sockets}/r"\ndata = "{data}"\n'
        )
        return load_config(path)

    return make


def head_of(config):
    return CaptureHead(config.detector.plugin, config.detector.settings, "d", 0, config.receivers[0].data, 0.0)


class Recording:
    """A recorder in a thread of its own."""

    def __init__(self, config, path, **limits):
        self.ended = threading.Event()
        self.endpoint = config.receivers[0].data
        self.tap = open_tap(config, 0)
        self.writer = CaptureWriter(path, head_of(config))
        self.tallies = []
        self.thread = threading.Thread(
            target=lambda: self.tallies.append(record(self.tap, self.writer, self.ended, **limits))
        )
        self.thread.start()

    def finish(self):
        self.thread.join(DEADLINE)
        self.close()
        return self.tallies[0]

    def close(self):
        self.ended.set()
        self.thread.join(DEADLINE)
        self.writer.close()
        self.tap.close()
        if self.endpoint.startswith("ipc://"):
            until_free(Path(self.endpoint.removeprefix("ipc://")))


def until_free(path):
    """Wait until nobody serves a socket: ZeroMQ closes them in a thread of its own."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except (ConnectionRefusedError, FileNotFoundError):
                return
    raise TimeoutError(f"{path} is still served")


@pytest.fixture
def start(tmp_path):
    running = []

    def start(config, name="run.capture", **limits):
        running.append(Recording(config, tmp_path / name, **limits))
        return running[-1]

    yield start
    for each in running:
        each.close()


def contents(path):
    with Capture(path) as capture:
        assert capture.flaw == ""
        return [(entry.port, [bytes(part) for part in capture.parts(entry)]) for entry in capture.entries]


def send(config, messages):
    """Send as the detector does."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.linger = int(DEADLINE * 1000)
        (push.connect if config.detector.plugin == "simulator" else push.bind)(config.receivers[0].data)
        for message in messages:
            push.send_multipart(message)


@pytest.mark.parametrize("plugin", ["simulator", "eiger2"])
def test_messages_are_recorded_and_sent_once_more_as_they_were(make_config, start, tmp_path, plugin):
    config = make_config(plugin)
    recording = start(config, messages=len(MESSAGES))
    send(config, MESSAGES)
    tally = recording.finish()
    assert (tally.messages, tally.bytes, tally.dropped) == (4, 6000 + 6 + 3 + 3, 0)
    assert contents(tmp_path / "run.capture") == [(0, message) for message in MESSAGES]
    again = start(config, "again.capture", messages=len(MESSAGES))
    with Capture(tmp_path / "run.capture") as capture:
        spout = open_spout(capture, config, 0)
        sent = play(capture, spout, threading.Event(), hurry=True)
        spout.close()
    assert sent.messages == again.finish().messages == 4
    assert contents(tmp_path / "again.capture") == contents(tmp_path / "run.capture")


def test_datagrams_of_any_size_are_recorded_and_sent_once_more(make_config, start, tmp_path):
    config = make_config("jungfrau")
    host, port = config.receivers[0].data.removeprefix("udp://").split(":")
    datagrams = [b"", b"x", b"y" * 8240, b"z" * 20000, b"y" * 8240]
    recording = start(config, messages=len(datagrams))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in datagrams:
            sender.sendto(datagram, (host, int(port)))
    assert recording.finish().messages == 5
    found = contents(tmp_path / "run.capture")
    assert [(0, part) for _, parts in found for part in parts] == [(0, datagram) for datagram in datagrams]
    again = start(config, "again.capture", messages=len(datagrams))
    with Capture(tmp_path / "run.capture") as capture:
        spout = open_spout(capture, config, 0)
        assert play(capture, spout, threading.Event()).messages == 5
        spout.close()
    again.finish()
    assert [part for _, parts in contents(tmp_path / "again.capture") for part in parts] == datagrams


def test_no_more_datagrams_than_were_asked_for(make_config, start, tmp_path):
    config = make_config("jungfrau")
    host, port = config.receivers[0].data.removeprefix("udp://").split(":")
    recording = start(config, messages=3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(10):
            sender.sendto(bytes([number]), (host, int(port)))
    assert recording.finish().messages == 3
    assert [part for _, parts in contents(tmp_path / "run.capture") for part in parts] == [b"\0", b"\1", b"\2"]


def test_a_message_that_is_too_large_is_not_recorded(make_config, start, tmp_path, monkeypatch):
    """As a receiver would refuse it: a stranger's message must not fill the memory."""
    config = make_config("simulator")
    monkeypatch.setattr("lima2_receivers.transport.endpoints.LARGEST", 0)
    monkeypatch.setattr("lima2_receivers.transport.endpoints.LARGEST_HEADER", 10_000)
    recording = start(config, messages=1)
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.linger = 500
        push.connect(config.receivers[0].data)
        push.send(bytes(10_001))
    send(config, [[bytes(10_000)]])
    assert recording.finish().messages == 1
    assert contents(tmp_path / "run.capture") == [(0, [bytes(10_000)])]


def test_a_record_of_nothing_is_passed_over(make_config, start, tmp_path):
    config = make_config("simulator")
    path = tmp_path / "odd.capture"
    writer = CaptureWriter(path, head_of(config))
    for message in ([], [b"one"], []):
        writer.write(message, 1.0)
    writer.close()
    recording = start(config, messages=1)
    with Capture(path) as capture:
        spout = open_spout(capture, config, 0)
        assert play(capture, spout, threading.Event()).messages == 1
        spout.close()
    recording.finish()
    assert contents(tmp_path / "run.capture") == [(0, [b"one"])]


def test_it_ends_after_its_time(make_config, start, tmp_path):
    assert 0.2 <= start(make_config("simulator"), seconds=0.2).finish().seconds < DEADLINE
    assert contents(tmp_path / "run.capture") == []


def test_it_ends_when_it_is_told(make_config, start):
    recording = start(make_config("eiger2"))
    recording.ended.set()
    assert recording.finish().messages == 0


def test_an_endpoint_that_is_taken_and_a_rank_that_is_not_there_are_named(make_config, start):
    config = make_config("simulator")
    start(config)
    with pytest.raises(ConfigError, match=r"receivers\[0\]\.data: .* is in use by another process"):
        open_tap(config, 0)
    with pytest.raises(ConfigError, match="rank: got 1, the configuration has receivers 0 to 0"):
        open_tap(config, 1)


def test_a_capture_of_another_detector_and_a_receiver_that_is_away_are_named(make_config, start, tmp_path, monkeypatch):
    config = make_config("simulator")
    recording = start(config, messages=1)
    send(config, MESSAGES[:1])
    recording.finish()
    with Capture(tmp_path / "run.capture") as capture:
        with pytest.raises(ConfigError, match=r"detector\.plugin: got 'eiger2', .*run\.capture is of 'simulator'"):
            open_spout(capture, make_config("eiger2"), 0)
        monkeypatch.setattr("lima2_receivers.capture.play.PATIENCE", 0.05)
        spout = open_spout(capture, config, 0)
        with pytest.raises(DetectorError, match=r"no receiver took a message within 0\.05 s"):
            play(capture, spout, threading.Event(), hurry=True)
        spout.close()
