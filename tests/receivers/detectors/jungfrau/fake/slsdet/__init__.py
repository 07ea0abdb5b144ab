"""Stands in for PSI's client and the servers of a Jungfrau's modules: their order, limits and memory.

Every load of this module is a set of servers of its own. ``away`` does not answer, ``hung`` never returns, ``eiger`` is
another detector. ``STUBBORN`` names values that servers do not take, ``CALLS`` what was called, ``now`` is the time.
"""

# ruff: noqa: N801, N802, N816 - the names are those of slsdet

from __future__ import annotations

import enum
import ipaddress
import re
import time
from dataclasses import dataclass, field

CALLS: list[str] = []
STUBBORN: dict[str, object] = {}
SERVERS: dict[str, Server] = {}
SHARED: list[str] = []  # hosts in shared memory, which outlives clients
LINE = re.compile(r"(\d+):(\d+) udp_dstlist((?: (?:ip2?|mac2?|port2?)=\S+)+)")
SPREAD = 3  # frames that modules are apart after a stop


class runStatus(enum.Enum):
    IDLE = enum.auto()
    ERROR = enum.auto()
    WAITING = enum.auto()
    RUN_FINISHED = enum.auto()
    TRANSMITTING = enum.auto()
    RUNNING = enum.auto()
    STOPPED = enum.auto()


timingMode = enum.Enum("timingMode", ["AUTO_TIMING", "TRIGGER_EXPOSURE"])
gainMode = enum.Enum("gainMode", ["DYNAMIC", "FORCE_SWITCH_G1", "FORCE_SWITCH_G2"])
detectorType = enum.Enum("detectorType", ["JUNGFRAU", "EIGER"])


def now() -> float:
    return time.monotonic()


@dataclass(frozen=True)
class xy:
    x: int
    y: int


class IpAddr(ipaddress.IPv4Address):
    pass


@dataclass(frozen=True)
class DurationWrapper:
    seconds: float

    def total_seconds(self) -> float:
        return self.seconds


@dataclass
class Server:
    """What a module keeps, whoever is connected."""

    kind: detectorType = detectorType.JUNGFRAU
    values: dict[str, object] = field(
        default_factory=lambda: {
            "PowerChip": False,
            "NumberofUDPInterfaces": 1,
            "ReadNRows": 512,
            "TimingMode": timingMode.TRIGGER_EXPOSURE,
            "NumberOfTriggers": 7,
            "GainMode": gainMode.FORCE_SWITCH_G2,
            "Exptime": DurationWrapper(1e-5),
            "Period": DurationWrapper(2e-3),
            "NumberOfFrames": 1,
            "NextFrameNumber": 1,
            "FirstUDPDestination": 0,
        }
    )
    destinations: dict[int, dict[str, str]] = field(default_factory=dict)
    sources: dict[str, IpAddr] = field(default_factory=dict)
    began: float | None = None
    state: runStatus = runStatus.IDLE

    def look(self) -> runStatus:
        if (
            self.began is not None
            and now() >= self.began + self.values["NumberOfFrames"] * self.values["Period"].seconds
        ):
            self.values["NextFrameNumber"] += self.values["NumberOfFrames"]
            self.began, self.state = None, runStatus.RUN_FINISHED
        return runStatus.RUNNING if self.began is not None else self.state

    def stop(self, apart: int) -> None:
        if self.look() is runStatus.RUNNING:
            self.values["NextFrameNumber"] += int((now() - self.began) / self.values["Period"].seconds) + apart
            self.began, self.state = None, runStatus.STOPPED

    def require_network(self) -> None:
        wanted = {"ip", "mac", "port"} | (
            {"ip2", "mac2", "port2"} if self.values["NumberofUDPInterfaces"] == 2 else set()
        )
        for entry, words in self.destinations.items():
            if words.keys() != wanted:
                raise RuntimeError(f"udp destination {entry} has {sorted(words)}")
        if not self.destinations or len(self.sources) != self.values["NumberofUDPInterfaces"]:
            raise RuntimeError("udp source or destination ip is not configured")


class _slsdet:
    @staticmethod
    def freeSharedMemory(detector: int) -> None:
        del detector
        SHARED.clear()


def checked(name: str, value: object) -> None:
    limits = {"ReadNRows": range(8, 513, 8), "NumberofUDPInterfaces": (1, 2), "FirstUDPDestination": range(32)}
    if name in limits and value not in limits[name]:
        raise RuntimeError(f"{name}: {value} is out of range")
    if name in ("NextFrameNumber", "NumberOfFrames") and value < 1:
        raise RuntimeError(f"{name}: {value} is not allowed")


def getter(name: str):
    return lambda self: [server.values[name] for server in self.servers(f"get{name}")]


def setter(name: str):
    def set_value(self, value):
        for server in self.servers(f"set{name}"):
            checked(name, value)
            if server.look() is runStatus.RUNNING:
                raise RuntimeError(f"set{name}: acquisition is running")
            if name == "FirstUDPDestination" and value >= max(1, len(server.destinations)):
                raise RuntimeError(f"{name}: there is no destination {value}")
            server.values[name] = STUBBORN.get(name, value)

    return set_value


class Detector:
    def __init__(self, number: int = 0) -> None:
        CALLS.append("Detector")

    def servers(self, call: str) -> list[Server]:
        CALLS.append(call)
        if not SHARED:
            raise RuntimeError("No modules added")
        return [SERVERS[host] for host in SHARED]

    def setDetectorSize(self, size: xy) -> None:
        CALLS.append("setDetectorSize")
        if SHARED:
            raise RuntimeError("Set the number of channels before setting hostname.")
        self.__class__.asked = size

    def setHostname(self, hosts: list[str]) -> None:
        CALLS.append("setHostname")
        for host in hosts:
            if host.startswith("away"):
                raise RuntimeError(f"ClientSocket: Cannot connect to Detector:{host} on port 1952\n")
            if host.startswith("hung"):
                time.sleep(600)
            if host not in SHARED:
                SERVERS.setdefault(host, Server(detectorType.EIGER if host == "eiger" else detectorType.JUNGFRAU))
                SHARED.append(host)

    def size(self) -> int:
        return len(self.servers("size"))

    def getDetectorType(self):
        return [server.kind for server in self.servers("getDetectorType")]

    def getDetectorStatus(self):
        return [server.look() for server in self.servers("getDetectorStatus")]

    def clearUDPDestinations(self) -> None:
        for server in self.servers("clearUDPDestinations"):
            server.destinations.clear()
            server.values["FirstUDPDestination"] = 0

    def getNumberofUDPDestinations(self):
        return [max(server.destinations, default=0) + 1 for server in self.servers("getNumberofUDPDestinations")]

    def setSourceUDPIP(self, address: IpAddr, modules: list[int]) -> None:
        for module in modules:
            self.servers("setSourceUDPIP")[module].sources[""] = address

    def setSourceUDPIP2(self, address: IpAddr, modules: list[int]) -> None:
        for module in modules:
            self.servers("setSourceUDPIP2")[module].sources["2"] = address

    def loadParameters(self, lines: list[str]) -> None:
        servers = self.servers("loadParameters")
        for line in lines:
            found = LINE.fullmatch(line)
            if found is None or not 0 <= int(found[2]) < 32:
                raise RuntimeError(f"cannot execute {line!r}")
            servers[int(found[1])].destinations[int(found[2])] = dict(word.split("=") for word in found[3].split())

    def validateUDPConfiguration(self) -> None:
        for server in self.servers("validateUDPConfiguration"):
            server.require_network()

    def startDetector(self) -> None:
        for server in self.servers("startDetector"):
            if server.look() is runStatus.RUNNING or not server.values["PowerChip"]:
                raise RuntimeError("Could not start: it is running, or the chip is off")
            if "startDetector" in STUBBORN and server is SERVERS[SHARED[-1]]:
                raise RuntimeError("Could not start")
            server.require_network()
            server.began = now()

    def stopDetector(self) -> None:
        for at, server in enumerate(self.servers("stopDetector")):
            server.stop(at * SPREAD)


for each in Server().values:
    setattr(Detector, f"get{each}", getter(each))
    setattr(Detector, f"set{each}", setter(each))
