"""What a detector sends is captured, sent once more byte for byte, and played in an acquisition; real processes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import zlib

import msgspec
import pytest

from lima2_receivers.capture.format import Capture
from lima2_receivers.config import detector_settings, load_config
from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.errors import DetectorError
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, SavingParams
from lima2_receivers.plugins import DETECTORS
from lima2_receivers.saving.read import read_rows
from lima2_receivers.topology import Dispatch

DATA = "/entry_0000/measurement/data"
ROWS = 64  # that are read out of the Jungfrau's module, so that frames are small
PACKETS = ROWS // 4
DEADLINE = 30.0


def free_udp_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def run(tmp_path):
    """Start ``lima2 ARGUMENTS``; it is ended with the test."""
    running = []

    def run(site, *arguments):
        command = [str(site.scripts / "lima2"), *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def start_capture(run, site, name, *options):
    """A running ``lima2 capture`` that has opened the endpoint."""
    process = run(site, "capture", site.config, site.folder / name, "--json", *options)
    for line in process.stderr:
        if "recording what comes to" in line:
            return process
    raise AssertionError(f"it ended: {process.wait()}")


def end_of(process):
    """Wait for a process, and return what it printed."""
    out, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    return json.loads(out)


def configure(site, plugin, table):
    """Make it a site of another detector, and give the receiver room for its frames."""
    text = site.config.read_text()
    rest = text[text.index("[conductor]") :]
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
    site.config.write_text(f'[detector]\nplugin = "{plugin}"\n[detector.settings]\n{lines}\n{rest}')


def plan(site, nb_frames, **detector):
    return AcquisitionPlan(
        saving=SavingParams(str(site.data), "run"),
        acquisition=AcquisitionParams(nb_frames, 0.003),
        pipeline=None,
        detector=msgspec.Raw(msgspec.msgpack.encode(detector)),
    )


async def expose(site, nb_frames, **detector):
    """Arm and trigger a simulated detector, without conductor and receivers, until it has sent everything."""
    config = load_config(site.config)
    plugin = DETECTORS.get(config.detector.plugin)
    endpoints = tuple(receiver.data for receiver in config.receivers)
    control = plugin.load_control()(
        detector_settings(config, plugin.settings), endpoints, DEADLINE, Dispatch.ROUND_ROBIN
    )
    deadline = time.monotonic() + DEADLINE
    try:
        while True:
            try:
                await control.connect()
                break
            except DetectorError:  # it is still making its frames
                assert time.monotonic() < deadline
        await control.prepare(1, plan(site, nb_frames, **detector))
        await control.trigger(nb_frames, 0.003, 0.0)
        while (await control.status()).busy:
            assert time.monotonic() < deadline
    finally:
        await control.close()


def messages_in(path):
    """Everything that was captured: ports and parts, datagrams one by one."""
    with Capture(path) as capture:
        assert capture.flaw == ""
        found = [(entry.port, [bytes(part) for part in capture.parts(entry)]) for entry in capture.entries]
    if capture.head.plugin != "jungfrau":
        return found
    return [(port, [part]) for port, parts in found for part in parts]


async def play(site, helpers, capture, nb_frames, **settings):
    """Play a capture in an acquisition of the whole system, and return what was saved."""
    table = {"control": f"ipc://{site.sockets}/sim", "folder": str(site.detector), "recording": str(capture)}
    configure(site, "reader", {**table, **settings})
    site.config.write_text(site.config.read_text().replace(f"udp://{udp_of(site)}", f"ipc://{site.sockets}/d0"))
    async with site.running() as client:
        acquisition = helpers.new_id()
        prepared = await client.prepare(acquisition, plan(site, nb_frames))
        await client.start(acquisition)
        state = await helpers.until(client, acquisition, lambda state: state.state == "closed")
    assert (state.reason, state.counts.saved) == ("", nb_frames)
    return prepared, read_rows(site.data / "run_master.h5", DATA)


def until_as_long(path, other):
    """Wait until a capture that is being made has as many bytes of messages as another; their heads may differ."""
    with Capture(other) as capture:
        whole = sum(entry.nbytes for entry in capture.entries)
    deadline = time.monotonic() + DEADLINE
    while True:
        with Capture(path) as capture:
            if sum(entry.nbytes for entry in capture.entries) >= whole:
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def udp_of(site):
    return load_config(site.config).receivers[0].data.removeprefix("udp://")


async def test_zeromq_messages(make_site, helpers, run):
    site = make_site(n_receivers=1, settings="n_distinct = 5")
    site.start("detector")
    recording = start_capture(run, site, "one.capture", "--messages", 13)
    await expose(site, 12)
    assert end_of(recording)["messages"] == 13  # and the end of the series
    site.end("detector")
    sent = read_journal(latest_journal(site.detector))
    truth = [sent.scene_of(index).crc32 for index in range(12)]

    again = start_capture(run, site, "two.capture")
    resent = end_of(run(site, "simulate", "capture", site.folder / "one.capture", site.config, "--json"))
    until_as_long(site.folder / "two.capture", site.folder / "one.capture")
    again.send_signal(signal.SIGINT)
    assert (resent["messages"], end_of(again)["messages"]) == (13, 13)
    assert messages_in(site.folder / "two.capture") == messages_in(site.folder / "one.capture")

    prepared, saved = await play(site, helpers, site.folder / "one.capture", 12)
    assert prepared.frame_spec.layout is not None
    assert [zlib.crc32(frame) for frame in saved] == truth


async def test_packets(make_site, helpers, run):
    site = make_site(n_receivers=1)
    port = free_udp_port()
    text = site.config.read_text().replace(f"ipc://{site.sockets}/d0", f"udp://127.0.0.1:{port}")
    site.config.write_text(text.replace(f"slot_bytes = {64 * 128 * 2}", f"slot_bytes = {ROWS * 2048}"))
    table = {"control": f"ipc://{site.sockets}/sim", "folder": str(site.detector), "receive_buffer": 2**22}
    configure(site, "jungfrau", table)
    site.start("detector")
    recording = start_capture(run, site, "one.capture", "--messages", 10 * PACKETS)
    await expose(site, 10, read_rows=ROWS)
    tally = end_of(recording)
    assert (tally["messages"], tally["dropped"]) == (10 * PACKETS, 0)
    site.end("detector")
    sent = read_journal(latest_journal(site.detector))
    truth = [sent.scene_of(index).crc32 for index in range(10)]

    again = start_capture(run, site, "two.capture", "--messages", 10 * PACKETS)
    end_of(run(site, "simulate", "capture", site.folder / "one.capture", site.config, "--json"))
    end_of(again)
    assert messages_in(site.folder / "two.capture") == messages_in(site.folder / "one.capture")

    prepared, saved = await play(site, helpers, site.folder / "one.capture", 4, start=1, stride=2)
    assert prepared.frame_spec.shape == (1, ROWS, 1024)
    assert [zlib.crc32(frame) for frame in saved] == truth[1:9:2]


def test_what_cannot_start_says_why(make_site, run):
    site = make_site(n_receivers=1)
    (site.folder / "there").write_text("mine")
    for arguments, words in (
        (("capture", site.config, site.folder / "there"), "File exists"),
        (("capture", site.config, site.folder / "new", "--rank", 3), "rank: got 3"),
        (("simulate", "capture", site.folder / "there", site.config), "expected a capture's"),
    ):
        process = run(site, *arguments)
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 2
        assert errors.splitlines()[-1].startswith("error: ")
        assert words in errors
    assert not (site.folder / "new").exists()
    assert (site.folder / "there").read_text() == "mine"
