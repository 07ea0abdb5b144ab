"""An Eiger2 that nobody here wrote: tickit-devices' simulated one (Diamond Light Source), through the whole chain."""

from __future__ import annotations

import socket
import subprocess
import time
import venv

import httpx
import msgspec
import numpy as np
import pytest

from lima2_receivers.detectors.eiger2.stream2 import parse_stream2
from lima2_receivers.packing import PackedImage, Packing, unpack
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, SavingParams, TriggerMode
from lima2_receivers.saving.read import read_rows

PACKAGES = ("tickit-devices==0.4.1", "cbor2<6")
SHAPE = (4362, 4148)
SECONDS = 60.0
# Its PUSH socket binds its address, and connects to it too: some of its messages go to itself. Here it only binds.
LAUNCHER = """
import aiozmq
make = aiozmq.create_zmq_stream
aiozmq.create_zmq_stream = lambda kind, connect=None, bind=None: make(kind, bind=bind)
from tickit.cli import main
main()
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def tickit(tmp_path_factory):
    """The Python of an environment of its own that has tickit-devices: it needs another cbor2 than we do."""
    folder = tmp_path_factory.mktemp("tickit")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *PACKAGES], capture_output=True, text=True, timeout=400
    )
    if done.returncode:
        pytest.skip(f"{PACKAGES[0]} can't be installed here: {done.stderr.strip()[-300:]}")
    return python


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def eiger(tickit, tmp_path):
    """The simulated detector, initialized: its URL, and the ports of Stream2 and Stream v1."""
    port, stream2, stream1 = free_ports(3)
    config = tmp_path / "eiger.yaml"
    config.write_text(
        "- type: tickit_devices.eiger.Eiger\n  name: eiger\n  inputs: {}\n  host: 127.0.0.1\n"
        f"  port: {port}\n  stream_host: 127.0.0.1\n  stream_cbor_port: {stream2}\n  stream_legacy_port: {stream1}\n"
    )
    with (tmp_path / "tickit.log").open("wb") as log:
        process = subprocess.Popen([tickit, "-c", LAUNCHER, "all", config], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                answer = httpx.put(f"{url}/detector/api/1.8.0/command/initialize", timeout=5)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, (tmp_path / "tickit.log").read_text()[-2000:]
                time.sleep(0.1)  # polls a process that has no way to say that it is ready
        answer.raise_for_status()
        second = f"{url}/detector/api/1.8.0/config/threshold/2/mode"  # its images have the first threshold alone
        httpx.put(second, json={"value": "disabled"}).raise_for_status()
        # Its answer to arm is always 2, while its series count from 1: only the second has the number that it says.
        for command in ("arm", "disarm"):
            httpx.put(f"{url}/detector/api/1.8.0/command/{command}").raise_for_status()
        yield url, {"cbor": stream2, "legacy": stream1}
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.parametrize("stream", ["cbor", "legacy"])
async def test_a_series_of_software_triggers(eiger, make_site, helpers, recorded, stream):
    url, ports = eiger
    site = make_site(n_receivers=1)
    _, rest = site.config.read_text().split("[conductor]")
    rest = rest.replace(f"ipc://{site.sockets}/d0", f"tcp://127.0.0.1:{ports[stream]}")
    rest = rest.replace(f"slot_bytes = {64 * 128 * 2}", f"slot_bytes = {SHAPE[0] * SHAPE[1] * 2}")
    settings = f'[detector.settings]\nurl = "{url}"\nstream = "{stream}"\n'
    site.config.write_text(f'[detector]\nplugin = "eiger2"\n{settings}[conductor]{rest}')
    site.names = lambda: ["conductor", "receiver_0"]
    plan = AcquisitionPlan(
        saving=SavingParams(str(site.data), "run"),
        acquisition=AcquisitionParams(6, 0.05, 0.01, TriggerMode.SOFTWARE, 3),
        pipeline=None,
        detector=msgspec.Raw(msgspec.msgpack.encode({})),
    )
    async with site.running() as client:
        acquisition = helpers.new_id()
        prepared = await client.prepare(acquisition, plan)
        assert prepared.frame_spec.shape == SHAPE
        await client.start(acquisition)
        for taken in (3, 6):
            await client.trigger(acquisition, 3)
            state = await helpers.until(client, acquisition, lambda state, taken=taken: state.written == taken, SECONDS)
            assert state.counts.saved == taken
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed", SECONDS)
        assert (final.outcome, final.announced, final.counts.saved) == ("complete", 6, 6)
    expected = np.empty(SHAPE, "<u2")
    folder = recorded("eiger2_16M_stream2")  # what this simulator sends
    if stream == "cbor":
        image = parse_stream2(memoryview((folder / "image.cbor").read_bytes())).channels[0]
    else:
        image = PackedImage(Packing.BSLZ4, (folder / "frame_sample_v1_bslz4").read_bytes())
    unpack(image, expected)
    for frame in range(6):
        found = read_rows(site.data / "run_master.h5", "/entry_0000/measurement/data", frame, frame + 1)[0]
        np.testing.assert_array_equal(found, expected)
