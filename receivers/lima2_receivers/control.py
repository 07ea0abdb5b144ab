"""What a detector plugin's control half promises the conductor, and how a plugin is named."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from importlib import import_module
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta, Struct

from lima2_processing.frame import FrameSpec

from .errors import ConfigError
from .plan import AcquisitionPlan, TriggerMode
from .source import PacketSource, Source, TransferSource
from .topology import Dispatch


class Range(Struct, frozen=True):
    """A closed interval; the unit is the field's."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


class Capabilities(Struct, frozen=True):
    """What a detector can do: it drives the validation of plans.

    :param model: for people, such as ``Simulated Jungfrau 4M``.
    :param trigger_modes: those it supports.
    :param expo_time: allowed exposures in seconds.
    :param latency_time: allowed latencies in seconds.
    :param frame_spec: of its frames as they are now configured.
    :param max_receivers: that its stream can be spread over; 0: any number.
    """

    model: str
    trigger_modes: tuple[TriggerMode, ...]
    expo_time: Range
    latency_time: Range
    frame_spec: FrameSpec
    max_receivers: int = 0


class Armed(Struct, frozen=True):
    """A detector that is ready for its triggers.

    :param frame_spec: what its frames will look like.
    :param series: the number that it will stamp on them.
    """

    frame_spec: FrameSpec
    series: int


class DetectorStatus(Struct, frozen=True):
    """What the detector is doing, polled by the conductor.

    :param series: number of the series that is armed or was last.
    :param triggered: frames that the triggers delivered so far ask for.
    :param sent: frames that left the detector (lost on the way or not); -1: it can't say, after a stop, or while a
        signal triggers it.
    :param busy: True while frames are still being exposed or sent.
    :param fault: what is wrong; empty where all is well.
    """

    series: int
    triggered: int
    sent: int
    busy: bool
    fault: str = ""


class Control(Protocol):
    """A detector's other half, run by the conductor. Every call is bounded in time and raises DetectorError.

    :param settings: the plugin's own table of the configuration.
    :param receivers: data endpoints of the receivers, in the order of their ranks.
    :param timeout: deadline of each call in seconds.
    :param dispatch: how frames are to spread over the receivers.
    """

    def __init__(
        self, settings: msgspec.Struct, receivers: tuple[str, ...], timeout: float, dispatch: Dispatch
    ) -> None: ...

    async def connect(self) -> Capabilities:
        """Connect (again), and return what the detector can do."""
        ...

    async def prepare(self, series: int, plan: AcquisitionPlan) -> Armed:
        """Arm the detector for an acquisition.

        :param series: a number that no other acquisition has, to be stamped on the frames of this one; a detector that
            counts by itself says its own.
        :param plan: checked against the capabilities already.
        """
        ...

    async def trigger(self, n_frames: int, expo_time: float, latency_time: float) -> None:
        """Expose ``n_frames`` more frames (0: until stopped) and return when the exposure has begun, not ended.

        In external and gate mode, it is called once, at the start: take the signal from now on.
        """
        ...

    async def adopt(self, series: int, plan: AcquisitionPlan, asked: int) -> DetectorStatus:
        """Go on with a series that a conductor armed which died. Called after ``connect``, in place of ``prepare``.

        :param series: as ``prepare`` returned it.
        :param plan: that it was armed with.
        :param asked: frames that triggers were to ask for so far; the last trigger may not have reached the detector.
        :returns: what the detector is doing; ``triggered`` says which triggers it got.
        :raises DetectorError: it has another series, or can't be taken over: it is stopped then.
        """
        ...

    async def status(self) -> DetectorStatus:
        """Return what the detector is doing."""
        ...

    async def stop(self) -> DetectorStatus:
        """Stop exposing, idempotent, and return the final status: no frame is sent after it."""
        ...

    async def close(self) -> None:
        """Let go of the detector and free sockets."""
        ...


class HostControl(Protocol):
    """A detector's part on each receiver host, for vendor kits that need one there.

    The conductor's commands reach it through the receivers, each of which has its own. Calls raise DetectorError, and
    are given up after a deadline.

    :param settings: the plugin's own table of the configuration.
    :param rank: of the receiver.
    """

    def __init__(self, settings: msgspec.Struct, rank: int) -> None: ...

    async def prepare(self, series: int, plan: AcquisitionPlan, spec: FrameSpec) -> None:
        """Get ready for an acquisition; the detector is armed, and sends nothing before all receivers are ready.

        :param series: the number that is stamped on its frames.
        """
        ...

    async def stop(self, series: int) -> None:
        """Note that an acquisition is over on this host, or was never ready: all of its frames are settled."""
        ...

    async def close(self) -> None:
        """Free what it holds: the receiver ends."""
        ...


class Transport(StrEnum):
    """How a detector's data reaches the receivers."""

    ZMQ_BIND = "zmq-bind"  # receivers bind a PULL socket, and the detector connects to it
    ZMQ_CONNECT = "zmq-connect"  # the detector binds a PUSH socket, and receivers connect to it
    UDP = "udp"  # the detector sends datagrams to one or more ports of each receiver
    RING = "ring"  # the detector writes into a ring in each receiver's memory


class DetectorPlugin(Struct, frozen=True):
    """A detector's name, parameters and places. The module that holds one imports no sockets and no OpenCL.

    :param name: as configurations give it.
    :param params: frozen struct of what a plan may set, each with default, unit and meaning.
    :param settings: frozen struct of its table in the configuration: where the detector is. For ``Transport.UDP``, it
        is a ``PacketSettings``; for ``Transport.RING``, a ``TransferSettings``.
    :param source: ``module:class`` of the Source; for ``Transport.UDP``, of the PacketSource; for ``Transport.RING``,
        of the TransferSource.
    :param control: ``module:name`` of the Control, or of a function that makes one; called with (settings, receivers,
        timeout in seconds, dispatch).
    :param transport: how its data comes.
    :param dispatches: how its frames can spread over receivers, the default first.
    :param host_control: ``module:class`` of the HostControl; constructed with (settings, rank). Empty: it has none.
    """

    name: str
    params: type[msgspec.Struct]
    settings: type[msgspec.Struct]
    source: str
    control: str
    transport: Transport = Transport.ZMQ_BIND
    host_control: str = ""
    dispatches: tuple[Dispatch, ...] = (Dispatch.ROUND_ROBIN,)

    def load_source(self) -> type[Source[msgspec.Struct]]:
        """Import and return the Source class of a detector that sends messages."""
        return _load(self.source)

    def load_packet_source(self) -> type[PacketSource[Any, Any]]:
        """Import and return the PacketSource class of a detector that sends packets."""
        return _load(self.source)

    def load_host_control(self) -> type[HostControl] | None:
        """Import and return the HostControl class; None: there is none."""
        return _load(self.host_control) if self.host_control else None

    def load_transfer_source(self) -> type[TransferSource[Any]]:
        """Import and return the TransferSource class of a detector that writes into the receivers' memory."""
        return _load(self.source)

    def load_control(self) -> Callable[[Any, tuple[str, ...], float, Dispatch], Control]:
        """Import and return what makes the Control."""
        return _load(self.control)


class PacketSettings(Struct, frozen=True, kw_only=True):
    """What the settings of a detector that sends packets have in common.

    :param receive_buffer: bytes that the kernel is asked to hold for each port of a receiver.
    """

    receive_buffer: int = 128 * 1024 * 1024

    @property
    def n_ports(self) -> int:
        """Ports of each receiver that packets come to, from the one in its configuration upwards: one, if no more."""
        return 1

    def ports_of_part(self, rank: int, n_receivers: int) -> int:
        """Return the ports of a receiver that has some modules of every frame."""
        del rank, n_receivers
        return self.n_ports


class TransferSettings(Struct, frozen=True, kw_only=True):
    """What the settings of a detector that writes into the receivers' memory have in common.

    :param transfer_slots: frames that each receiver's transfer ring holds, beside the ring where they wait to be
        processed; each takes ``ring.slot_bytes`` of the receiver.
    """

    transfer_slots: Annotated[int, Meta(ge=2, le=65536)] = 64


def _load(place: str) -> Any:
    """Import and return what is at ``module:name``.

    :raises ConfigError: there is no such thing.
    """
    module, _, name = place.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:  # the last: the place is empty
        raise ConfigError(f"detector plugin: {place!r} can't be imported: {error}") from error
