"""The calls of PSI's client, against a stand-in that keeps order and limits; their names, against the real one."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from lima2_receivers.detectors.jungfrau.params import JungfrauSettings
from lima2_receivers.detectors.jungfrau.sls import MARGIN, SlsJungfrau
from lima2_receivers.detectors.jungfrau.sls_messages import Attach, Configure, Expose, Halt, Look
from lima2_receivers.detectors.jungfrau.sls_network import attachment, networks
from lima2_receivers.errors import ConfigError, DetectorError, PlanError

FAKE = Path(__file__).parent / "fake" / "slsdet" / "__init__.py"
MACS = ("aa:00:00:00:00:01", "aa:00:00:00:00:02", "aa:00:00:00:00:03")


class Bench:
    """Stand-ins of a detector's servers, with a clock of their own, and our end."""

    def __init__(self, modules=(2, 1), interfaces=2, n_receivers=2):
        spec = spec_from_file_location("stand_in_of_slsdet", FAKE)
        self.library = module_from_spec(spec)
        sys.modules[spec.name] = self.library  # dataclasses look there
        spec.loader.exec_module(self.library)
        self.time = 100.0
        self.library.now = lambda: self.time
        n_modules = modules[0] * modules[1]
        self.settings = JungfrauSettings(
            modules=modules,
            interfaces=interfaces,
            hostnames=tuple(f"m{at}" for at in range(n_modules)),
            source_ips=tuple(f"10.0.0.{at + 1}" for at in range(n_modules * interfaces)),
            receiver_macs=MACS[:n_receivers],
        )
        self.receivers = tuple(f"udp://10.0.1.{rank}:50001" for rank in range(n_receivers))
        self.jungfrau = self.connect()

    def connect(self):
        made = SlsJungfrau(self.library, lambda _: None)
        made.attach(attachment(self.settings))
        return made

    def configure(self, **changes):
        wanted = {"rows": 512, "gain": "DYNAMIC", "expo_time": 1e-4, "period": 1e-3, **changes}
        return self.jungfrau.configure(
            Configure(self.settings.interfaces, networks(self.settings, self.receivers), **wanted)
        ).series

    def expose(self, n_frames, first=0):
        self.jungfrau.expose(Expose(first, n_frames, 1e-4, 1e-3))

    def server(self, host):
        return self.library.SERVERS[host]


@pytest.fixture
def bench():
    return Bench()


def test_everything_is_set_in_an_order_that_the_servers_take(bench):
    assert bench.configure(rows=256, gain="FORCE_SWITCH_G1") == 1
    assert bench.library.Detector.asked == bench.library.xy(1024, 1024)
    for host in ("m0", "m1"):
        values = bench.server(host).values
        assert values["PowerChip"] is True
        assert (values["NumberofUDPInterfaces"], values["ReadNRows"], values["NumberOfTriggers"]) == (2, 256, 1)
        assert values["TimingMode"] is bench.library.timingMode.AUTO_TIMING
        assert values["GainMode"] is bench.library.gainMode.FORCE_SWITCH_G1
        assert (values["Exptime"].seconds, values["Period"].seconds) == (1e-4, 1e-3)
    assert bench.server("m1").destinations == {
        rank: {
            "ip": f"10.0.1.{rank}",
            "mac": MACS[rank],
            "port": "50003",
            "ip2": f"10.0.1.{rank}",
            "mac2": MACS[rank],
            "port2": "50004",
        }
        for rank in range(2)
    }
    assert [str(each) for each in bench.server("m1").sources.values()] == ["10.0.0.3", "10.0.0.4"]


def test_modules_are_counted_row_by_row_and_told_column_by_column():
    bench = Bench((2, 3), 1, 1)
    assert bench.library.SHARED == ["m0", "m3", "m1", "m4", "m2", "m5"]
    bench.configure()
    ports = {host: int(bench.server(host).destinations[0]["port"]) for host in bench.library.SHARED}
    assert ports == {f"m{at}": 50001 + at for at in range(6)}
    assert bench.library.Detector.asked == bench.library.xy(3 * 1024, 2 * 512)


def test_destinations_of_an_earlier_client_go(bench):
    bench.configure()
    bench.receivers = bench.receivers[:1]
    bench.settings = Bench(n_receivers=1).settings
    bench.jungfrau = bench.connect()
    bench.configure()
    assert list(bench.server("m0").destinations) == [0]


def test_frames_are_counted_over_all_starts(bench):
    assert bench.configure() == 1
    bench.expose(5)
    assert bench.jungfrau.look(Look(count=True)).next_frames == (), "not at rest"
    bench.time += 0.006
    seen = bench.jungfrau.look(Look(count=True))
    assert (seen.states, seen.next_frames) == (("RUN_FINISHED", "RUN_FINISHED"), (6, 6))
    bench.expose(4, first=1)
    assert bench.server("m0").values["FirstUDPDestination"] == 1
    bench.time += 0.005
    assert bench.configure() == 10


def test_after_a_stop_all_modules_go_on_with_one_number(bench):
    bench.configure()
    bench.expose(1000)
    bench.time += 0.0105
    bench.jungfrau.halt(Halt())
    assert bench.jungfrau.look(Look(count=True)).next_frames == (11, 14)
    assert bench.configure() == 14 + MARGIN
    assert {bench.server(host).values["NextFrameNumber"] for host in ("m0", "m1")} == {14 + MARGIN}
    calls = bench.library.CALLS.count("stopDetector")
    bench.jungfrau.halt(Halt())
    assert bench.library.CALLS.count("stopDetector") == calls, "it is at rest"


def test_what_is_so_already_is_not_set_again(bench):
    bench.configure()
    before = len(bench.library.CALLS)
    bench.configure()
    again = [call for call in bench.library.CALLS[before:] if call.startswith("set")]
    assert set(again) == {"setSourceUDPIP", "setSourceUDPIP2"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ReadNRows", 512, "m0 has ReadNRows 512 after it was set to 256"),
        ("PowerChip", False, "m0 has PowerChip False after it was set to True"),
        ("NextFrameNumber", 3, "m0 has NextFrameNumber 3 after it was set to 1004"),
    ],
)
def test_what_the_detector_did_not_take_is_refused(bench, name, value, message):
    bench.server("m1").values["NextFrameNumber"] = 4
    bench.library.STUBBORN[name] = value
    with pytest.raises(PlanError, match=message):
        bench.configure(rows=256)


def test_times_that_the_detector_bends_are_refused(bench):
    bench.library.STUBBORN["Period"] = bench.library.DurationWrapper(0.5)
    with pytest.raises(PlanError, match=r"m0 has Period 0\.5 s after it was set to 0\.001 s"):
        bench.configure()


def test_a_start_that_fails_leaves_no_module_running(bench):
    bench.configure()
    bench.library.STUBBORN["startDetector"] = True
    with pytest.raises(DetectorError, match="startDetector: Could not start"):
        bench.expose(1000)
    assert not {"RUNNING"}.intersection(bench.jungfrau.look(Look(count=False)).states)


def test_a_busy_detector_is_not_configured(bench):
    bench.configure()
    bench.expose(1000)
    with pytest.raises(DetectorError, match="m0: got state RUNNING, expected one at rest"):
        bench.configure()


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        (("m0", "away"), "setHostname: ClientSocket: Cannot connect to Detector:away on port 1952$"),
        (("m0", "m0"), "got 1 modules, expected 2: is one named twice"),
        (("m0", "eiger"), "eiger: got a detector of type EIGER, expected JUNGFRAU"),
    ],
)
def test_what_is_no_jungfrau_is_refused(bench, hosts, message):
    with pytest.raises(DetectorError, match=message):
        SlsJungfrau(bench.library, lambda _: None).attach(Attach(hosts, (2, 1)))


@pytest.mark.parametrize(
    ("changes", "receivers", "message"),
    [
        ({"receiver_macs": ()}, ("udp://10.0.0.1:1",), "receiver_macs: got 0, expected 1, one a receiver"),
        ({"receiver_macs": ("aa:bb",)}, ("udp://10.0.0.1:1",), "got 'aa:bb', expected six bytes"),
        ({"source_ips": ("host",)}, ("udp://10.0.0.1:1",), "source_ips: got 'host', expected an IPv4 address"),
        ({}, ("udp://daq:1",), r"receivers\[0\].data: got 'daq', expected an IPv4 address"),
        ({}, ("tcp://10.0.0.1:1",), "expected udp://HOST:PORT"),
        ({"interfaces": 2}, ("udp://10.0.0.1:65535",), "there is no port 65536"),
        ({}, ("udp://10.0.0.1:1",) * 33, "receivers: got 33, expected at most 32"),
    ],
)
def test_a_network_that_is_not_described_is_refused(changes, receivers, message):
    settings = {"hostnames": ("m0",), "receiver_macs": MACS[:1], **changes}
    with pytest.raises(ConfigError, match=message):
        networks(JungfrauSettings(**settings), receivers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "got no control or no folder"),
        ({"hostnames": ("m0",), "modules": (2, 1)}, "hostnames: got 1, expected 2, one a module"),
        ({"hostnames": ("m0",), "interfaces": 2, "source_ips": ("10.0.0.1",)}, "source_ips: got 1, expected 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        JungfrauSettings(**settings)


def test_the_real_client_has_what_is_used(bench):
    """The stand-in has nothing but what is used, so that each of its names must be there."""
    real = pytest.importorskip("slsdet", reason="PSI's client is not installed: pip install slsdet")
    used = [
        name for name in vars(bench.library.Detector) if not name.startswith("_") and name not in ("servers", "asked")
    ]
    assert len(used) > 30
    assert [name for name in used if not hasattr(real.Detector, name)] == []
    for kind in ("runStatus", "timingMode", "gainMode", "detectorType"):
        for member in getattr(bench.library, kind):
            found = getattr(getattr(real, kind), member.name)
            assert found.name == member.name
    assert callable(real._slsdet.freeSharedMemory)
    assert real.DurationWrapper(1e-4).total_seconds() == pytest.approx(1e-4)
    assert str(real.IpAddr("10.0.0.1")) == "10.0.0.1"
    size = real.xy(1024, 512)
    assert (size.x, size.y) == (1024, 512)
    for name, argument in (("setHostname", "list[str]"), ("loadParameters", "list[str]"), ("setSourceUDPIP", "IpAddr")):
        assert argument in getattr(real.Detector, name).__doc__


def test_each_module_has_its_receiver():
    """Of 4 modules on 3 receivers, the first receiver has two: their ports follow each other."""
    settings = JungfrauSettings(
        modules=(2, 2),
        interfaces=2,
        hostnames=("a", "b", "c", "d"),
        receiver_macs=tuple(f"0c:42:a1:00:00:0{rank}" for rank in range(3)),
        source_ips=tuple(f"10.0.0.{n}" for n in range(8)),
    )
    receivers = tuple(f"udp://10.1.0.{rank}:5000{rank}" for rank in range(3))
    found = [networks(settings, receivers, by_module=True)[at] for at in (0, 2, 1, 3)]  # PSI counts down the columns
    assert [[(one.host, one.mac[-1], one.ports) for one in each.destinations] for each in found] == [
        [("10.1.0.0", "0", (50000, 50001))],
        [("10.1.0.0", "0", (50002, 50003))],
        [("10.1.0.1", "1", (50001, 50002))],
        [("10.1.0.2", "2", (50002, 50003))],
    ]
    assert found[1].source_ips == ("10.0.0.2", "10.0.0.3")


def test_more_receivers_than_modules_are_refused():
    settings = JungfrauSettings(hostnames=("m0",), receiver_macs=MACS[:1] * 2)
    with pytest.raises(ConfigError, match="dispatch: got '2 receivers', expected 1 to 1"):
        networks(settings, ("udp://10.0.0.1:1", "udp://10.0.0.2:1"), by_module=True)
    with pytest.raises(ConfigError, match="dispatch: got '2 receivers', expected 1 to 1"):
        settings.ports_of_part(0, 2)
