"""Datagrams taken many at a time."""

import logging
import socket
from pathlib import Path

import pytest

from lima2_receivers.errors import ConfigError
from lima2_receivers.transport.datagrams import BATCH, DatagramBatch, bind_datagrams, dropped, split_endpoint

SIZE = 100


@pytest.fixture
def pair():
    """A bound socket, and one that sends to it."""
    with (
        bind_datagrams("udp://127.0.0.1:1", free_port() - 1, 2**16, "here") as bound,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sender.connect(bound.getsockname())
        yield bound, sender


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_what_has_come_is_taken_in_one_call(pair):
    bound, sender = pair
    batch = DatagramBatch(SIZE)
    assert [len(each) for each in batch.receive(bound.fileno())] == [0, 0]
    sent = [bytes([number]) * SIZE for number in range(5)]
    for each in sent:
        sender.send(each)
    packets, sizes = batch.receive(bound.fileno())
    assert [row.tobytes() for row in packets] == sent
    assert sizes.tolist() == [SIZE] * 5


def test_no_more_than_a_batch_is_taken(pair):
    bound, sender = pair
    batch = DatagramBatch(SIZE)
    for _ in range(BATCH + 3):
        sender.send(b"x")
    assert [len(batch.receive(bound.fileno())[0]) for _ in range(3)] == [BATCH, 3, 0]


@pytest.mark.parametrize("size", [0, 1, SIZE - 1, SIZE + 1, 5 * SIZE])
def test_sizes_are_those_that_were_sent(pair, size):
    bound, sender = pair
    batch = DatagramBatch(SIZE)
    sender.send(b"a" * size)
    packets, sizes = batch.receive(bound.fileno())
    assert (packets.shape, sizes.tolist()) == ((1, SIZE), [size])


def test_what_the_kernel_has_no_room_for_is_counted(pair):
    bound, sender = pair
    for _ in range(2000):
        sender.send(b"a" * 1000)
    assert 0 < dropped(bound) < 2000


def test_a_socket_that_can_not_be_read_says_so():
    with pytest.raises(OSError, match="Bad file descriptor"):
        DatagramBatch(SIZE).receive(10_000)


def test_a_port_that_is_in_use_is_named():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"receivers\[0\]\.data: udp port 127.0.0.1:{port} is in use"):
            bind_datagrams(f"udp://127.0.0.1:{port - 1}", 1, 2**16, "receivers[0].data")


def test_an_address_that_is_not_of_this_host_is_named():
    with pytest.raises(ConfigError, match=r"data: udp port 192\.0\.2\.1:5000 can't be bound"):
        bind_datagrams("udp://192.0.2.1:5000", 0, 2**16, "data")


def test_a_port_beyond_the_last_is_refused():
    with pytest.raises(ConfigError, match="there is no port 65537"):
        bind_datagrams("udp://127.0.0.1:65535", 2, 2**16, "data")


def test_the_granted_buffer_is_reported(caplog):
    with caplog.at_level(logging.INFO):
        bind_datagrams(f"udp://127.0.0.1:{free_port()}", 0, 2**18, "data").close()
    assert "the kernel holds 0.25 MiB" in caplog.text


def test_a_smaller_buffer_than_asked_for_is_a_warning_that_says_what_to_do(caplog, monkeypatch):
    real = socket.socket.setsockopt

    def forbid(self, level, option, value):  # as without CAP_NET_ADMIN
        if option == 33:
            raise PermissionError
        real(self, level, option, value)

    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    monkeypatch.setattr(socket.socket, "setsockopt", forbid)
    bind_datagrams(f"udp://127.0.0.1:{free_port()}", 0, 8 * limit, "data").close()
    assert f"sysctl -w net.core.rmem_max={8 * limit}" in caplog.text


def test_an_endpoint_has_host_and_port():
    assert split_endpoint("udp://[::1]:5000", "data") == ("::1", 5000)
    for endpoint in ("tcp://127.0.0.1:5000", "udp://127.0.0.1", "udp://:1", "udp://h:x"):
        with pytest.raises(ConfigError, match="expected udp://HOST:PORT"):
            split_endpoint(endpoint, "data")
