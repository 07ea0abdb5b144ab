"""Nonsense on every port of a running acquisition: every frame is saved all the same."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct

import h5py
import numpy as np
import pytest
import zmq

from lima2_receivers.messages import Announce, Stop, encode
from lima2_receivers.security.keys import load_credentials
from lima2_receivers.transport.requests import MAX_MESSAGE_BYTES

MANY = 100_000  # messages
BURST = 20  # frames of a trigger
SECONDS = 20.0
KINDS = {"c": zmq.DEALER, "s": zmq.XSUB, "r0": zmq.DEALER, "r1": zmq.DEALER, "d0": zmq.PUSH, "d1": zmq.PUSH}
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)


def ready(kind: bytes) -> bytes:
    """ZMTP's READY command."""
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    return bytes([4, len(body)]) + body


def raw_noise(seed: int) -> list[bytes]:
    """Bytes that are no ZeroMQ, nearly are, or are cut off in the middle of a message."""
    rng = random.Random(seed)
    begun = GREETING + ready(b"DEALER")
    return [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        rng.randbytes(1),
        rng.randbytes(200_000),
        GREETING[:40],
        GREETING + rng.randbytes(10_000),
        GREETING.replace(b"NULL", b"EVIL") + rng.randbytes(1000),
        begun + rng.randbytes(10_000),
        begun + b"\x01\x05trunc",  # more parts were to come
        begun + b"\x01\x05first" + b"\x00\xffcut",
        begun + b"\x02" + struct.pack(">Q", 2**62) + rng.randbytes(1000),
        GREETING + ready(b"PUSH") + b"\x01\x05first" + b"\x01\x00" * 10_000,
        GREETING + ready(b"SUB") + b"\x00\x01\x01" * 10_000,
    ]


def send_raw(endpoint: str, noise: bytes) -> None:
    scheme, _, place = endpoint.partition("://")
    if scheme == "ipc":
        connection = socket.socket(socket.AF_UNIX)
        address: object = place
    else:
        connection = socket.socket(socket.AF_INET)
        host, _, port = place.rpartition(":")
        address = (host, int(port))
    with connection, contextlib.suppress(ConnectionError, TimeoutError):
        connection.settimeout(SECONDS)
        connection.connect(address)
        connection.sendall(noise)


def messages(kind: int, seed: int) -> list[list[bytes]]:
    """Messages that are ZeroMQ's, and not ours."""
    rng = random.Random(seed)
    noise = [
        [b""],
        [b"", b""],
        [rng.randbytes(1000)],
        [rng.randbytes(8), rng.randbytes(1000)],
        [b"1", encode(Stop("x"))[:-1]],
        [b"1", encode(Announce("x", 1)), b"more"],
        [b"1", b"\xdf\xff\xff\xff\xff"],
        [b"1", b"\x91" * 100_000],
        [b""] * 10_000,
        [b"1", bytes(MAX_MESSAGE_BYTES)],
        [b"1", bytes(MAX_MESSAGE_BYTES + 1)],  # the other side ends the connection
        [bytes(72), rng.randbytes(64 * 128 * 2)],
    ]
    if kind == zmq.XSUB:
        return [[b"\x01" + part for part in message[:1]] for message in noise]
    return noise


def send_messages(endpoint: str, kind: int, seed: int, credentials=None, flood: int = MANY) -> int:
    """Send noise as a peer that keeps to ZeroMQ's own rules, then a flood of it, and return how many messages."""
    context = zmq.Context()
    sender = context.socket(kind)
    sender.linger = 0
    sender.sndtimeo = int(SECONDS * 1000)
    sender.rcvhwm = 0  # whose replies wait is not told that the other side has ended the connection
    if credentials is not None:
        credentials.apply(sender)
    sender.connect(endpoint)
    count = 0
    try:
        for message in messages(kind, seed):
            sender.send_multipart(message)
            count += 1
        rng = random.Random(seed)
        small = [[b"\x01" + rng.randbytes(4), rng.randbytes(30)][: 1 if kind == zmq.XSUB else 2] for _ in range(100)]
        for number in range(flood):
            sender.send_multipart(small[number % len(small)])
            count += 1
    finally:
        sender.close()
        context.term()
    return count


async def take(site, client, helpers, make_noise) -> None:
    """Take frames until all noise was made, and see that each of them is saved."""
    acquisition = helpers.new_id()
    prepared = await client.prepare(acquisition, site.plan("run", 0, mode="software"))
    await client.start(acquisition)
    noise = asyncio.create_task(make_noise())
    n_frames = 0
    while not noise.done() or n_frames < 10 * BURST:
        await client.trigger(acquisition, BURST)
        n_frames += BURST
        target = n_frames
        await helpers.until(client, acquisition, lambda state: state.written >= target, 60)  # noqa: B023
    await noise
    final = await client.stop(acquisition)
    assert final.outcome == "complete", final
    assert (final.announced, final.counts.saved, final.counts.lost, final.counts.failed) == (n_frames, n_frames, 0, 0)
    with h5py.File(prepared.ledger_file) as file:
        (status,) = find(file, "frame_status")
    assert np.array_equal(status, np.ones(n_frames))
    assert {process.poll() for process in site.processes.values()} == {None}


def find(file: h5py.File, name: str) -> list[np.ndarray]:
    """The values of all datasets of a name."""
    found: list[np.ndarray] = []
    file.visititems(lambda path, item: found.append(item[()]) if path.rsplit("/", 1)[-1] == name else None)
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", KINDS)
async def test_noise_on_one_host(make_site, helpers, name):
    site = make_site()
    endpoint = f"ipc://{site.sockets}/{name}"
    async with site.running() as client:

        async def make_noise() -> None:
            for noise in raw_noise(1):
                await asyncio.to_thread(send_raw, endpoint, noise)
            assert await asyncio.to_thread(send_messages, endpoint, KINDS[name], 1) > MANY

        await take(site, client, helpers, make_noise)
        if name.startswith("d"):
            assert client.state.receivers[int(name[1])].strangers > MANY // 2  # it was noticed
    if name.startswith(("c", "r")):
        log = site.log("conductor" if name == "c" else f"receiver_{name[1]}")
        assert "refused a message: it has 4 parts, expected 3" in log
    assert max(len(site.log(each)) for each in site.processes) < 100_000


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_noise_from_strangers_and_from_an_observer(make_keyed, helpers):
    site = make_keyed()
    key = site.add("alice", "observe")
    for server in ("receiver_0", "receiver_1"):
        (key.parent / f"{server}.key").write_bytes((site.keys / f"{server}.key").read_bytes())
    servers = {"c": "conductor", "s": "conductor", "r0": "receiver_0", "r1": "receiver_1"}
    async with site.running() as client:

        async def make_noise() -> None:
            for endpoint in site.endpoints.values():
                for noise in raw_noise(2):
                    await asyncio.to_thread(send_raw, endpoint, noise)
            for name, server in servers.items():
                credentials = load_credentials(key, server)
                sent = await asyncio.to_thread(
                    send_messages, site.endpoints[name], KINDS[name], 3, credentials, MANY // 4
                )
                assert sent > MANY // 4

        await take(site, client, helpers, make_noise)
    for daemon in ("conductor", "receiver_0", "receiver_1"):
        assert "commands: it has no key, or hung up" in site.log(daemon)
        assert "refused a message: it has 4 parts, expected 3" in site.log(daemon)
    assert max(len(site.log(each)) for each in site.processes) < 100_000
