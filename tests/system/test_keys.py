"""A site with keys: who may command it, and that those who may not leave a running acquisition alone."""

from __future__ import annotations

import asyncio
import json
import tarfile
from pathlib import Path

import pytest
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider

from lima2_ophyd.detector import Lima2Detector
from lima2_receivers import messages as m
from lima2_receivers.errors import AccessError, ReceiverError, UnreachableError, VersionError
from lima2_receivers.lookup import find_frame
from lima2_receivers.security.keys import load_credentials, make_keys
from lima2_receivers.transport.requests import Requester

SECONDS = 20.0
SOON = 1.0  # seconds: a deadline that is meant to pass


async def start(site, client, helpers, prefix="run"):
    """Start an acquisition that waits for triggers, with some frames taken."""
    acquisition = helpers.new_id()
    await client.prepare(acquisition, site.plan(prefix, 0, mode="software"))
    await client.start(acquisition)
    await client.trigger(acquisition, 10)
    return acquisition


async def finish(client, acquisition, helpers, n_frames):
    """See that nobody has harmed an acquisition: it takes more frames, and all are saved."""
    await client.trigger(acquisition, n_frames - 10)
    await helpers.until(client, acquisition, lambda state: state.written == n_frames)
    final = await client.stop(acquisition)
    assert final.outcome == "complete"
    assert (final.announced, final.counts.saved, final.counts.lost, final.counts.failed) == (n_frames, n_frames, 0, 0)


async def requester(endpoint, key=None, server="conductor", timeout=SECONDS) -> Requester:
    found = Requester(endpoint, "it", timeout)
    found.open(load_credentials(key, server) if key is not None else None)
    return found


async def test_an_observer_looks_and_cannot_stop_a_run(make_keyed, helpers):
    site = make_keyed()
    alice_key, bob_key = site.add("alice", "observe"), site.add("bob", "control")
    async with site.running():
        bob, alice = site.client(key=bob_key), site.client(key=alice_key)
        await bob.connect()
        await alice.connect()
        acquisition = await start(site, bob, helpers)
        state = await helpers.until(alice, acquisition, lambda state: state.written == 10)
        assert state.master_file
        assert (await alice.describe()).n_receivers == 2
        await alice.values(acquisition)
        attempts = [
            alice.stop(acquisition),
            alice.start(acquisition),
            alice.trigger(acquisition, 1),
            alice.prepare(helpers.new_id(), site.plan("other", 1)),
        ]
        for attempt in attempts:
            with pytest.raises(
                AccessError, match=r"needs the role control, the key of alice at 127\.0\.0\.1 has observe"
            ):
                await attempt
        said = site.lima2("stop", str(site.config), "--key", str(alice_key), code=2)
        assert "Stop needs the role control" in said
        assert acquisition in site.lima2("state", str(site.config))  # with the operator's key
        await finish(bob, acquisition, helpers, 30)
        for client in (alice, bob):
            await client.close()
    assert "refused a request: Stop needs the role control, the key of alice" in site.log("conductor")


async def test_frames_come_from_memory_where_the_receivers_key_is_known_and_else_from_the_file(make_keyed, helpers):
    site = make_keyed()
    alice_key = site.add("alice", "observe")
    async with site.running() as client, asyncio.timeout(SECONDS):
        alice = site.client(key=alice_key)
        await alice.connect()
        acquisition = await start(site, client, helpers)
        await helpers.until(alice, acquisition, lambda state: state.written == 10)
        by_file = await find_frame(alice, acquisition, 9)
        (alice_key.parent / "receiver_1.key").write_bytes((site.keys / "receiver_1.key").read_bytes())
        by_memory = await find_frame(alice, acquisition, 9)
        assert (by_file.source, by_memory.source) == ("file", "memory")
        assert by_file.data.tobytes() == by_memory.data.tobytes()
        assert (await alice.ledger(acquisition)).counts.saved == 10
        shown = json.loads(site.lima2("frame", str(site.config), acquisition, "9", "--json"))  # the operator's key
        assert (shown["frame"], shown["source"]) == (9, "memory")
        await alice.close()
        await finish(client, acquisition, helpers, 30)


async def test_receivers_obey_the_conductor_alone(make_keyed, helpers):
    site = make_keyed()
    keys = {"alice": site.add("alice", "observe"), "bob": site.add("bob", "control")}
    async with site.running() as client:
        acquisition = await start(site, client, helpers)
        for name, key in keys.items():
            (key.parent / "receiver_0.key").write_bytes((site.keys / "receiver_0.key").read_bytes())
            ask = await requester(site.endpoints["r0"], key, "receiver_0")
            assert (await ask.hello("conductor")).role == "receiver 0"
            for request in (m.Poll({acquisition: 0}), m.Announce(acquisition, 1, True), m.Discard(acquisition)):
                with pytest.raises(AccessError, match=rf"needs the role conduct, the key of {name}"):
                    await ask.request(request, m.Done)
            await ask.close()
        await finish(client, acquisition, helpers, 30)


async def test_who_has_no_key_or_a_wrong_one_gets_nothing(make_keyed, helpers, tmp_path):
    site = make_keyed()
    make_keys(tmp_path / "mallory", 2)
    mallory = tmp_path / "mallory" / "operator.key_secret"
    async with site.running() as client:
        acquisition = await start(site, client, helpers)
        for name, server in (("c", "conductor"), ("r0", "receiver_0"), ("r1", "receiver_1")):
            cases = [
                (None, "lets in nobody without a key"),
                (mallory, "has another key than the one that is known here"),
            ]
            for key, why in cases:
                ask = await requester(site.endpoints[name], key, server, SOON)
                with pytest.raises(UnreachableError, match=why):
                    await ask.hello("mallory")
                await ask.close()
            (mallory.parent / f"{server}.key").write_bytes((site.keys / f"{server}.key").read_bytes())
            ask = await requester(site.endpoints[name], mallory, server, SOON)
            with pytest.raises(UnreachableError, match="the key of operator is not authorized there"):
                await ask.request(m.Stop(acquisition), m.Done)
            await ask.close()
        await finish(client, acquisition, helpers, 30)
    for daemon in ("conductor", "receiver_0", "receiver_1"):
        assert "refused a peer at 127.0.0.1: its key" in site.log(daemon)
        assert "commands: it has no key" in site.log(daemon)


async def test_another_version_is_refused_in_the_first_exchange(make_keyed, helpers):
    site = make_keyed()
    async with site.running() as client:
        acquisition = await start(site, client, helpers)
        for name, server, key in (("c", "conductor", "operator"), ("r0", "receiver_0", "conductor")):
            ask = await requester(site.endpoints[name], site.keys / f"{key}.key_secret", server)
            with pytest.raises(VersionError, match=r"got a peer of protocol 2\.0, expected 1\.0"):
                await ask.request(m.Hello(2, 0, "from the future"), m.Welcome)
            await ask.close()
        await finish(client, acquisition, helpers, 30)


async def test_a_key_that_is_revoked_is_worth_nothing_at_once(make_keyed, helpers):
    site = make_keyed()
    key = site.add("alice", "control")
    async with site.running() as client:
        alice = site.client(key=key)
        await alice.connect()
        acquisition = await start(site, alice, helpers)
        assert [one["name"] for one in json.loads(site.lima2("keys", "list", str(site.config), "--json"))] == [
            "alice",
            "conductor",
            "operator",
        ]
        site.lima2("keys", "revoke", str(site.config), "alice")
        await asyncio.to_thread(
            helpers.until_logged, site, "conductor", "keys were revoked or have another role: alice"
        )
        with pytest.raises(AccessError, match="is no longer authorized"):
            await alice.stop(acquisition)
        await asyncio.to_thread(helpers.until_logged, site, "conductor", "is not authorized")  # of the subscription
        heard = alice.state.sequence
        await finish(client, acquisition, helpers, 30)
        assert client.state.sequence > heard
        assert alice.state.sequence == heard
        again = site.client(timeout=SOON, key=key)
        with pytest.raises(UnreachableError, match="the key of alice is not authorized there"):
            await again.connect()
        await alice.close()


async def test_a_receiver_on_another_host_needs_no_more_than_the_guide_says(make_keyed, helpers):
    """docs/how-to/use-two-hosts.md: what is carried to the other host, and what is removed here."""
    site = make_keyed()
    other = site.folder / "other"
    other.mkdir(mode=0o700)
    carried = ["receiver_1.key", "receiver_1.key_secret", "conductor.key", "authorized/conductor.toml"]
    guide = (Path(__file__).parents[2] / "docs" / "how-to" / "use-two-hosts.md").read_text()
    assert f"tar -C /etc/lima2/keys -c {' '.join(carried)} |" in guide
    assert "sudo rm /etc/lima2/keys/receiver_1.key_secret" in guide
    with tarfile.open(site.folder / "carried.tar", "w") as archive:
        for name in carried:
            archive.add(site.keys / name, name)
    with tarfile.open(site.folder / "carried.tar") as archive:
        archive.extractall(other, filter="tar")
    (site.keys / "receiver_1.key_secret").unlink()
    there = site.folder / "there.toml"
    there.write_text(site.config.read_text().replace(f'"{site.keys}"', f'"{other}"'))
    command = site.command
    site.command = lambda name: [
        str(there) if name == "receiver_1" and part == str(site.config) else part for part in command(name)
    ]
    async with site.running() as client:
        acquisition = await start(site, client, helpers)
        await finish(client, acquisition, helpers, 30)


async def test_a_bluesky_device_has_a_key(make_keyed, helpers):
    site = make_keyed()
    places = StaticPathProvider(UUIDFilenameProvider(), site.data)
    detectors = {
        role: Lima2Detector(
            site.endpoints["c"], site.endpoints["s"], places, pipeline=None, key=str(site.add(role, role)), name=role
        )
        for role in ("control", "observe")
    }
    async with site.running():
        for detector in detectors.values():
            await detector.connect()
            assert await detector.healthy.get_value()
            await detector.stage()
        await detectors["control"].trigger()
        assert await detectors["control"].written.get_value() == 1
        with pytest.raises(AccessError, match="Prepare needs the role control, the key of observe"):
            await detectors["observe"].trigger()
        for detector in detectors.values():
            await detector.unstage()
            await detector.disconnect()


def test_daemons_without_keys_do_not_start(make_keyed):
    site = make_keyed()
    (site.keys / "receiver_1.key_secret").chmod(0o644)
    (site.keys / "conductor.key_secret").unlink()
    site.start("conductor", "receiver_1")
    for name, said in (("conductor", "conductor.key_secret: No such file"), ("receiver_1", "got mode 0644")):
        assert site.processes[name].wait(SECONDS) == 2
        assert said in site.log(name)
    site.keys.chmod(0o755)
    site.start("receiver_0")
    assert site.processes["receiver_0"].wait(SECONDS) == 2
    assert "got mode 0755" in site.log("receiver_0")


async def test_a_conductor_that_is_back_is_let_in_again(make_keyed, helpers):
    site = make_keyed()
    async with site.running():
        site.kill("conductor")
        site.start("conductor")
        again = site.client()
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    await site.connect(again)
                    break
                except ReceiverError:
                    await asyncio.sleep(0.05)
        acquisition = await start(site, again, helpers)
        await finish(again, acquisition, helpers, 30)
        await again.close()


def test_what_the_commands_say_when_they_cannot(make_keyed):
    site = make_keyed()
    config = str(site.config)
    assert "all keys are there already" in site.lima2("keys", "init", config)
    assert "operator has a key already" in site.lima2("keys", "add", config, "operator", "--role", "control", code=2)
    assert "expected observe or control" in site.lima2("keys", "add", config, "eve", "--role", "conduct", code=2)
    assert "expected one that is authorized: conductor, operator" in site.lima2("keys", "revoke", config, "eve", code=2)
    site.config.write_text(site.config.read_text().split("[security]")[0])
    assert "can be reached by every user of this host" in site.lima2("keys", "list", config, code=2)
