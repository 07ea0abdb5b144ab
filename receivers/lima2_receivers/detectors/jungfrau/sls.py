"""The calls of PSI's client that drive a Jungfrau, in the order that its server needs. All of them block."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import DetectorError, PlanError
from ...messages import Done
from .packets import PACKETS, ROWS_A_PACKET
from .sls_messages import Attach, Configure, Configured, Destination, Expose, Halt, Look, ModuleNetwork, Seen

COLUMNS, ROWS = 1024, PACKETS * ROWS_A_PACKET  # of a module
BUSY = frozenset({"RUNNING", "WAITING", "TRANSMITTING"})  # members of runStatus
MARGIN = 1000  # frame numbers that are left out where modules disagree, so that stragglers are below the next
_CLOSE, _TICK = 1e-3, 1e-7  # how far times read back may be off: relatively, and in seconds


class SlsJungfrau:
    """Drives a Jungfrau.

    :param library: the module ``slsdet``, or what behaves like it: it says nothing of its types.
    :param calling: told the name of each function before it is called.
    """

    def __init__(self, library: Any, calling: Callable[[str], None]) -> None:
        self._library = library
        self._calling = calling
        self._detector: Any = None
        self._hosts: tuple[str, ...] = ()

    def attach(self, request: Attach) -> Done:
        """Connect to all modules. What they are set to stays.

        :raises DetectorError: one does not answer, or is no Jungfrau.
        """
        down, across = request.modules
        self._hosts = request.hostnames
        self._calling("freeSharedMemory")
        # The size can be set only while there are no modules, and an earlier client's are still in shared memory.
        self._library._slsdet.freeSharedMemory(0)  # noqa: SLF001 - version 9 has it in no other place
        self._detector = self._library.Detector(0)
        self._call("setDetectorSize", self._library.xy(across * COLUMNS, down * ROWS))
        self._call("setHostname", list(self._hosts))
        if (count := self._call("size")) != len(self._hosts):
            raise DetectorError(f"setHostname: got {count} modules, expected {len(self._hosts)}: is one named twice?")
        for host, kind in zip(self._hosts, self._call("getDetectorType"), strict=True):
            if kind != self._library.detectorType.JUNGFRAU:
                raise DetectorError(f"{host}: got a detector of type {kind.name}, expected JUNGFRAU")
        return Done()

    def configure(self, request: Configure) -> Configured:
        """Set everything but the number of frames.

        :raises DetectorError: the detector refuses, or is busy.
        :raises PlanError: it took another value than it was given.
        """
        for host, state in zip(self._hosts, self._states(), strict=True):
            if state in BUSY:
                raise DetectorError(f"{host}: got state {state}, expected one at rest")
        self._set("PowerChip", True)
        self._set("NumberofUDPInterfaces", request.interfaces)
        self._set_networks(request.networks)
        self._set("ReadNRows", request.rows)
        self._set("TimingMode", self._library.timingMode.AUTO_TIMING)
        self._set("NumberOfTriggers", 1)
        self._set("GainMode", getattr(self._library.gainMode, request.gain))
        self._set_times(request.expo_time, request.period)
        return Configured(self._number_frames())

    def expose(self, request: Expose) -> Done:
        """Start an exposure, and return when all modules have begun.

        :raises DetectorError: the detector refuses; no module is left running.
        """
        self._set_times(request.expo_time, request.period)
        self._set("NumberOfFrames", request.n_frames)
        self._set("FirstUDPDestination", request.first)  # every start begins there
        try:
            self._call("startDetector")
        except DetectorError:
            self._call("stopDetector")  # some modules may have begun
            raise
        return Done()

    def look(self, request: Look) -> Seen:
        """Return what the modules are doing.

        :raises DetectorError: one does not answer.
        """
        states = self._states()
        if not request.count or BUSY.intersection(states):
            return Seen(states, ())
        return Seen(states, tuple(self._call("getNextFrameNumber")))

    def halt(self, request: Halt) -> Done:
        """Stop what is exposed. Modules may take a moment until they are at rest.

        :raises DetectorError: one does not answer.
        """
        del request
        if BUSY.intersection(self._states()):
            self._call("stopDetector")
        return Done()

    def _set_networks(self, networks: Sequence[ModuleNetwork]) -> None:
        """Say where packets go. The list of destinations outlives clients, so it is emptied first."""
        self._call("clearUDPDestinations")
        lines: list[str] = []
        for module, network in enumerate(networks):
            for name, address in zip(("setSourceUDPIP", "setSourceUDPIP2"), network.source_ips, strict=False):
                self._call(name, self._library.IpAddr(address), [module])
            lines += [destination_line(module, rank, each) for rank, each in enumerate(network.destinations)]
        self._call("loadParameters", lines)  # slsdet has no type for the argument of setDestinationUDPList
        self._require("NumberofUDPDestinations", len(networks[0].destinations))
        self._call("validateUDPConfiguration")

    def _set_times(self, expo_time: float, period: float) -> None:
        for name, seconds in (("Exptime", expo_time), ("Period", period)):
            if all(_is_close(got.total_seconds(), seconds) for got in self._call(f"get{name}")):
                continue
            self._call(f"set{name}", self._library.DurationWrapper(seconds))
            for host, got in zip(self._hosts, self._call(f"get{name}"), strict=True):
                if not _is_close(got.total_seconds(), seconds):
                    raise PlanError(
                        f"acquisition: {host} has {name} {got.total_seconds():g} s after it was set to {seconds:g} s"
                    )

    def _number_frames(self) -> int:
        """Return the number of the next frame, once all modules agree on it: after a stop they may not."""
        found = self._call("getNextFrameNumber")
        series = found[0] if len(set(found)) == 1 else max(found) + MARGIN
        self._set("NextFrameNumber", series)
        return series

    def _states(self) -> tuple[str, ...]:
        return tuple(state.name for state in self._call("getDetectorStatus"))

    def _set(self, name: str, value: Any) -> None:
        """Set a value of all modules, unless they have it, and refuse what differs then."""
        if any(got != value for got in self._call(f"get{name}")):
            self._call(f"set{name}", value)
            self._require(name, value)

    def _require(self, name: str, value: Any) -> None:
        for host, got in zip(self._hosts, self._call(f"get{name}"), strict=True):
            if got != value:
                raise PlanError(f"detector: {host} has {name} {_text(got)} after it was set to {_text(value)}")

    def _call(self, name: str, *arguments: Any) -> Any:
        self._calling(name)
        try:
            return getattr(self._detector, name)(*arguments)
        except RuntimeError as error:  # the base of all errors of PSI's package
            raise DetectorError(f"{name}: {str(error).strip()}") from error


def destination_line(module: int, rank: int, destination: Destination) -> str:
    """Return the line of PSI's command language that puts a receiver into a module's list of destinations."""
    words = [f"{module}:{rank} udp_dstlist"]
    for port, suffix in zip(destination.ports, ("", "2"), strict=False):
        words += [f"ip{suffix}={destination.host}", f"mac{suffix}={destination.mac}", f"port{suffix}={port}"]
    return " ".join(words)


def _is_close(got: float, expected: float) -> bool:
    return math.isclose(got, expected, rel_tol=_CLOSE, abs_tol=_TICK)


def _text(value: Any) -> str:
    return str(getattr(value, "name", value))
