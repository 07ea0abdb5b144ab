"""Three hosts, as far as the network goes: namespaces of a network that the test makes, joined by a bridge.

The conductor, the detector and receiver 0 are on the first, receiver 1 on the second, a client on the third.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import msgspec
import pytest

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.published import AcquisitionState
from lima2_receivers.saving.read import read_rows, read_statuses

pytestmark = pytest.mark.slow

TAKE = Path(__file__).with_name("stand_ins") / "take.py"
HOSTS = ("daq", "node", "desk")
SAVED = 1
SECONDS = 90


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@pytest.fixture
def hosts():
    """Names of three namespaces, whose addresses are 10.77.0.1 to 3; everything goes when the test is over."""
    if shutil.which("ip") is None:
        pytest.skip("there is no ip (Debian: iproute2)")
    stem = f"l2t{os.getpid()}"
    names = {host: f"{stem}-{host}" for host in (*HOSTS, "lan")}
    try:
        ip("netns", "add", names["lan"])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted: {error.stderr.decode().strip()}")
    try:
        ip("-n", names["lan"], "link", "add", "br0", "type", "bridge")
        ip("-n", names["lan"], "link", "set", "br0", "up")
        for number, host in enumerate(HOSTS, 1):
            ip("netns", "add", names[host])
            ip("-n", names["lan"], "link", "add", f"to{number}", "type", "veth", "peer", "eth0", "netns", names[host])
            ip("-n", names["lan"], "link", "set", f"to{number}", "master", "br0", "up")
            ip("-n", names[host], "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            ip("-n", names[host], "link", "set", "eth0", "up")
            ip("-n", names[host], "link", "set", "lo", "up")
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20)


@pytest.fixture
def site(make_keyed, hosts):
    """A site over two of the hosts, with keys, whose processes run."""
    made = make_keyed(extra="[deadlines]\ncommand = 2.0\ndrain = 1.0\nstalled = 8.0")
    text = made.config.read_text().replace("[security]", "[security]\nunauthenticated_data = true")
    for name, endpoint in made.endpoints.items():
        there = endpoint.replace("127.0.0.1", "10.77.0.2" if name in ("r1", "d1") else "10.77.0.1")
        text = text.replace(f'"{endpoint}"', f'"{there}"')
        made.endpoints[name] = there
    made.config.write_text(text)
    plain = made.command
    made.command = lambda name: [
        "ip", "netns", "exec", hosts["node" if name == "receiver_1" else "daq"], *plain(name)
    ]  # fmt: skip
    made.start()
    return made


def client(site, hosts, plan):
    """A client on the third host, which takes a plan."""
    path = site.folder / f"{plan.saving.filename_prefix}.plan"
    path.write_bytes(msgspec.msgpack.encode(plan))
    key = site.keys / "operator.key_secret"
    words = [sys.executable, str(TAKE), site.endpoints["c"], site.endpoints["s"], str(key), str(path)]
    return subprocess.Popen(
        ["ip", "netns", "exec", hosts["desk"], *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process) -> AcquisitionState:
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    return msgspec.json.decode(out.splitlines()[-1], type=AcquisitionState)


def check(site, prefix, n_frames):
    journal = read_journal(latest_journal(site.detector))
    raw = read_rows(site.data / f"{prefix}_master.h5", "/entry_0000/measurement/raw", 0, n_frames)
    statuses = read_statuses(site.data / f"{prefix}_ledger.h5")
    for frame in (statuses == SAVED).nonzero()[0].tolist():
        assert zlib.crc32(raw[frame].data) == journal.scene_of(frame).crc32
    return statuses


def test_an_acquisition_over_three_hosts(site, hosts):
    final = finish(client(site, hosts, site.plan("run", 100, expo=0.002)))
    assert (final.outcome, final.counts.saved) == ("complete", 100), final.reason
    assert all(receiver.counts.saved == 50 for receiver in final.receivers)
    assert (check(site, "run", 100) == SAVED).all()


def test_a_host_that_is_cut_off_fails_the_acquisition_in_time_and_is_welcome_again(site, hosts):
    process = client(site, hosts, site.plan("run", 4000, expo=0.005))
    assert process.stdout.readline() == "started\n"
    ip("-n", hosts["lan"], "link", "set", "to2", "down")
    final = finish(process)
    assert final.outcome == "failed"
    assert "receiver 1" in final.reason
    assert final.counts.settled == final.announced
    check(site, "run", final.announced)
    ip("-n", hosts["lan"], "link", "set", "to2", "up")
    again = finish(client(site, hosts, site.plan("again", 100, expo=0.002)))
    assert (again.outcome, again.counts.saved) == ("complete", 100), again.reason
    assert (check(site, "again", 100) == SAVED).all()
