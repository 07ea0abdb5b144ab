"""Sockets with keys, over loopback: who comes in, who does not, and who no longer does."""

import asyncio
import contextlib
import os
import socket

import pytest
import zmq
import zmq.asyncio

from lima2_receivers import messages as m
from lima2_receivers.errors import AccessError, ConfigError, UnreachableError, VersionError
from lima2_receivers.security import guard as guards
from lima2_receivers.security.guard import Guard, protect
from lima2_receivers.security.keys import add_client, load_credentials, load_pair, make_keys, revoke
from lima2_receivers.security.roles import Role
from lima2_receivers.transport.publisher import Publisher
from lima2_receivers.transport.requests import Requester, Responder

ID = "0" * 32
SOON, LONG = 0.5, 20.0  # seconds: a deadline that is meant to pass, and one that is not


@pytest.fixture
def folder(tmp_path):
    make_keys(tmp_path / "keys", 1)
    return tmp_path / "keys"


@pytest.fixture
def endpoints():
    """Two endpoints on loopback that nobody has."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(2)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [f"tcp://127.0.0.1:{probe.getsockname()[1]}" for probe in probes]


class Daemon:
    def __init__(self, folder, endpoints):
        self.seen = []
        self.guard = Guard(folder, "conductor")
        self.guard.start()
        self.responder = Responder(endpoints[0], "commands", m.decode_conductor_request, self._answer, self.guard)
        self.publisher = Publisher(endpoints[1], "state", self.guard)
        self._tasks = [asyncio.create_task(self.responder.serve()), asyncio.create_task(self._publish())]

    async def _answer(self, request):
        self.seen.append(request)
        return m.Welcome("conductor", "i1") if isinstance(request, m.Hello) else m.Done()

    async def _publish(self):
        while True:
            await self.publisher.send(b"state")
            await asyncio.sleep(0.01)

    def refusals(self, text: str) -> int:
        return sum(count for (_, why), count in self.guard.refusals.counts().items() if text in why)

    async def close(self):
        assert not any(task.done() for task in self._tasks)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.responder.close()
        await self.publisher.close()
        await self.guard.close()


@pytest.fixture
async def daemon(folder, endpoints, monkeypatch):
    monkeypatch.setattr(guards, "LOOK_PERIOD", 0.02)
    daemon = Daemon(folder, endpoints)
    yield daemon
    await daemon.close()


@pytest.fixture
async def connect(daemon, folder, endpoints):
    """Make a requester, by default with the key of a new client of some role."""
    async with contextlib.AsyncExitStack() as stack:

        def connect(name: str, role: Role | None = None, credentials=None, timeout: float = LONG) -> Requester:
            if role is not None:
                credentials = load_credentials(add_client(folder, name, role) / f"{name}.key_secret")
            requester = Requester(endpoints[0], "the conductor", timeout)
            requester.open(credentials)
            stack.push_async_callback(requester.close)
            return requester

        yield connect


async def until(condition) -> None:
    async with asyncio.timeout(LONG):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_each_may_ask_what_its_role_allows(daemon, connect):
    alice, bob = connect("alice", Role.OBSERVE), connect("bob", Role.CONTROL)
    assert (await alice.hello("a client")).instance == "i1"
    assert await alice.request(m.GetState(), m.Done) == m.Done()
    for request in (m.Stop(ID), m.Start(ID), m.Trigger(ID)):
        said = rf"^{type(request).__name__} needs the role control, the key of alice at 127\.0\.0\.1 has observe$"
        with pytest.raises(AccessError, match=said):
            await alice.request(request, m.Done)
    assert await bob.request(m.Stop(ID), m.Done) == m.Done()
    assert daemon.seen == [m.Hello(peer="a client"), m.GetState(), m.Stop(ID)]
    assert daemon.refusals("the key of alice at 127.0.0.1 has observe") == 3


async def test_what_a_client_says_of_itself_does_not_count(daemon, connect):
    alice = connect("alice", Role.OBSERVE)
    await alice.hello("conductor")
    with pytest.raises(AccessError, match="the key of alice"):
        await alice.request(m.Stop(ID), m.Done)


async def test_a_client_of_another_version_is_refused(daemon, connect):
    with pytest.raises(VersionError, match=r"got a peer of protocol 0\.9, expected 1\.0"):
        await connect("alice", Role.CONTROL).request(m.Hello(0, 9), m.Welcome)
    assert daemon.seen == []


async def test_without_a_key_nobody_comes_in(daemon, connect):
    stranger = connect("", timeout=SOON)
    with pytest.raises(
        UnreachableError, match=r"did not answer Hello within 0\.5 s: it lets in nobody without a key, or"
    ):
        await stranger.hello("a client")
    await until(lambda: daemon.refusals("commands: it has no key") > 0)
    await connect("alice", Role.OBSERVE).hello("a client")
    assert daemon.seen == [m.Hello(peer="a client")]


async def test_with_a_key_of_ones_own_nobody_comes_in(daemon, connect, folder, tmp_path):
    make_keys(tmp_path / "mallory", 1)
    (tmp_path / "mallory" / "conductor.key").write_bytes((folder / "conductor.key").read_bytes())
    own = load_credentials(tmp_path / "mallory" / "operator.key_secret")
    with pytest.raises(UnreachableError, match=r": the key of operator is not authorized there$"):
        await connect("", credentials=own, timeout=SOON).hello("a client")
    (who, why), _ = next(iter(daemon.guard.refusals.counts().items()))
    assert who == "a peer at 127.0.0.1"
    assert why == f"its key {own.own.public.decode()} is not authorized"
    assert daemon.seen == []


async def test_a_daemon_that_is_another_gets_nothing(daemon, connect, folder):
    """A client notices that the daemon does not have the key that it knows."""
    other = load_credentials(folder / "operator.key_secret", server="receiver_0")
    with pytest.raises(UnreachableError, match=r": it has another key than the one that is known here, or"):
        await connect("", credentials=other, timeout=SOON).hello("a client")
    await until(lambda: daemon.refusals("it does not have our public key") > 0)
    assert daemon.seen == []


async def test_a_client_with_keys_does_not_talk_to_a_daemon_without(folder, endpoints):
    responder = Responder(endpoints[0], "commands", m.decode_conductor_request, lambda _: asyncio.sleep(0, m.Done()))
    serving = asyncio.create_task(responder.serve())
    requester = Requester(endpoints[0], "the conductor", SOON)
    requester.open(load_credentials(folder / "operator.key_secret"))
    with pytest.raises(UnreachableError, match="it has no keys, and this side insists on them"):
        await requester.request(m.GetState(), m.Done)
    await requester.close()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await responder.close()


async def test_a_key_that_is_revoked_counts_no_more_where_it_is_connected(daemon, connect, folder):
    alice = connect("alice", Role.CONTROL)
    assert await alice.request(m.Start(ID), m.Done) == m.Done()
    revoke(folder, "alice")
    await until(lambda: len(daemon.guard._peers) == 2)
    for request in (m.GetState(), m.Stop(ID)):
        with pytest.raises(AccessError, match=r"the key of the peer at 127\.0\.0\.1 is no longer authorized"):
            await alice.request(request, m.Done)
    assert daemon.seen == [m.Start(ID)]


async def test_another_role_counts_at_once(daemon, connect, folder):
    alice = connect("alice", Role.CONTROL)
    assert await alice.request(m.Start(ID), m.Done) == m.Done()
    entry = folder / "authorized" / "alice.toml"
    entry.write_text(entry.read_text().replace("control", "observe"))
    await until(lambda: Role.CONTROL not in [role for name, role in daemon.guard._peers.values() if name == "alice"])
    with pytest.raises(AccessError, match="has observe"):
        await alice.request(m.Stop(ID), m.Done)


def subscribe(endpoint: str, credentials=None) -> zmq.asyncio.Socket:
    subscriber = zmq.asyncio.Context.instance().socket(zmq.SUB)
    subscriber.linger = 0
    subscriber.rcvhwm = 1
    subscriber.subscribe(b"")
    if credentials is not None:
        credentials.apply(subscriber)
    subscriber.connect(endpoint)
    return subscriber


async def hears(subscriber) -> None:
    async with asyncio.timeout(LONG):
        assert await subscriber.recv() == b"state"


async def test_state_is_for_those_with_a_key_until_it_is_revoked(daemon, folder, endpoints):
    places = {name: add_client(folder, name, Role.OBSERVE) for name in ("alice", "bob")}
    alice, bob = (subscribe(endpoints[1], load_credentials(at / f"{name}.key_secret")) for name, at in places.items())
    stranger = subscribe(endpoints[1])
    await hears(alice)
    await hears(bob)
    await until(lambda: daemon.refusals("state: it has no key") > 0)
    assert not await stranger.poll(0)
    revoke(folder, "alice")
    await until(lambda: daemon.refusals("is not authorized") > 0)  # it has tried to connect again
    while await alice.poll(0):
        await alice.recv()  # what had come before
    for _ in range(20):
        await hears(bob)
    assert not await alice.poll(0)
    for subscriber in (alice, bob, stranger):
        subscriber.close(linger=0)


async def test_noise_on_the_ports_does_no_harm(daemon, connect, endpoints):
    for endpoint in endpoints:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        for noise in (
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            os.urandom(100_000),
            b"\xff" + bytes(8) + b"\x7f\x03" + bytes(54),
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            with contextlib.suppress(ConnectionError):
                writer.write(noise)
                await writer.drain()
            writer.close()
            del reader
    assert await connect("alice", Role.CONTROL).request(m.Stop(ID), m.Done) == m.Done()
    assert daemon.seen == [m.Stop(ID)]


async def test_what_other_hosts_reach_is_not_bound_without_keys():
    for make in (
        lambda: Responder("tcp://0.0.0.0:5555", "commands", m.decode_conductor_request, lambda _: asyncio.sleep(0)),
        lambda: Publisher("tcp://*:5555", "state"),
    ):
        with pytest.raises(ConfigError, match="can be reached from other hosts, and there are no keys"):
            make()


async def test_a_socket_that_nobody_would_be_asked_about_is_refused(daemon):
    with zmq.Context() as context, context.socket(zmq.PULL) as target, pytest.raises(RuntimeError, match="everybody"):
        protect(target, "tcp://127.0.0.1:5555", "data", daemon.guard)


async def test_a_file_of_a_folder_needs_no_key(daemon, sockets):
    target = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
    assert protect(target, f"ipc://{sockets}/x", "commands", daemon.guard) is None
    assert not target.curve_server
    target.close(linger=0)


def test_a_daemon_without_its_key_does_not_start(folder):
    with pytest.raises(ConfigError, match=r"receiver_7\.key_secret: No such file"):
        Guard(folder, "receiver_7")
    with pytest.raises(ConfigError, match=r"nowhere: No such file"):
        Guard(folder / "nowhere", "conductor")
    assert load_pair(folder / "conductor.key_secret").name == "conductor"
