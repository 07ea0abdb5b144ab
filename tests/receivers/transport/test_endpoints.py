"""Binding endpoints: who was there first keeps them, and the error says which endpoint it is."""

import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path

import pytest
import zmq

from lima2_receivers.errors import ConfigError
from lima2_receivers.transport.endpoints import bind


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(prefix="l2-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make_socket():
    context = zmq.Context()
    sockets = []

    def make(kind=zmq.PULL):
        sockets.append(context.socket(kind))
        sockets[-1].linger = 0
        return sockets[-1]

    yield make
    for made in sockets:
        made.close(linger=0)
    context.term()


def passes_a_message(bound, endpoint, make_socket):
    push = make_socket(zmq.PUSH)
    push.connect(endpoint)
    push.send(b"hello")
    return bound.poll(5000) and bound.recv() == b"hello"


def test_a_served_path_is_refused_and_its_owner_keeps_it(folder, make_socket):
    endpoint = f"ipc://{folder}/data"
    owner = make_socket()
    bind(owner, endpoint, "receivers[0].data")
    with pytest.raises(ConfigError, match=rf"receivers\[1\]\.data: {endpoint} is in use"):
        bind(make_socket(), endpoint, "receivers[1].data")
    assert passes_a_message(owner, endpoint, make_socket)


def test_a_path_that_nobody_serves_is_taken_over(folder, make_socket):
    path = folder / "data"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.is_socket()
    taker = make_socket()
    bind(taker, f"ipc://{path}", "here")
    assert passes_a_message(taker, f"ipc://{path}", make_socket)


def test_a_missing_folder_is_made_for_this_user_alone(folder, make_socket):
    bind(make_socket(), f"ipc://{folder}/new/data", "here")
    assert stat.S_IMODE((folder / "new").stat().st_mode) == 0o700


def test_a_file_that_is_no_socket_is_left_alone(folder, make_socket):
    (folder / "data").write_text("precious")
    with pytest.raises(ConfigError, match=r"here: .* is not a socket"):
        bind(make_socket(), f"ipc://{folder}/data", "here")
    assert (folder / "data").read_text() == "precious"


def test_a_busy_port_is_refused(make_socket):
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"conductor\.state: {endpoint} is in use"):
            bind(make_socket(), endpoint, "conductor.state")


@pytest.mark.parametrize("endpoint", ["ipc:///proc/none/data", "tcp://203.0.113.1:9", "nonsense"])
def test_an_endpoint_that_cannot_be_bound_is_named(make_socket, endpoint):
    with pytest.raises(ConfigError, match=f"here: {endpoint} can't be bound"):
        bind(make_socket(), endpoint, "here")


@pytest.mark.parametrize("mode", [0o701, 0o704, 0o755, 0o777, 0o1777])
def test_a_folder_that_is_open_to_all_is_refused(make_socket, sockets, mode):
    folder = sockets / "open"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigError, match=rf"data: .*folder {folder} has mode {mode:04o} .* expected 0700"):
        bind(make_socket(), f"ipc://{folder}/data", "data")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o770])
def test_a_folder_may_be_shared_with_a_group(make_socket, sockets, mode):
    sockets.chmod(mode)
    bind(make_socket(), f"ipc://{sockets}/data", "data")


def test_a_folder_of_another_user_is_refused(make_socket, sockets, monkeypatch):
    if os.geteuid() == 0:
        os.chown(sockets, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match=r"is of user \d+, expected .* of user \d+"):
        bind(make_socket(), f"ipc://{sockets}/data", "data")
