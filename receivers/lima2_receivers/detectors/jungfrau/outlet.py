"""A simulated Jungfrau's way to its receivers: UDP, with what may happen to packets on it."""

from __future__ import annotations

import random
import socket
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from ...transport.datagrams import split_endpoint
from ..outlet import Delivery, Shot
from ..protocol import Arm
from .packets import packets_of
from .params import JungfrauSettings

SEND_BUFFER = 1024 * 1024  # bytes; a full one makes the sender wait, as a network's flow control would


class Network(Struct, frozen=True):
    """What happens to packets on their way, by chance.

    :param loss: share that gets lost.
    :param reordering: share that comes up to ``reach`` packets late.
    :param duplication: share that comes twice.
    :param reach: see ``reordering``.
    :param seed: of the chance.
    """

    loss: float = 0.0
    reordering: float = 0.0
    duplication: float = 0.0
    reach: int = 8
    seed: int = 0


CALM = Network()


class JungfrauOutlet:
    """Sends packets. Frames are counted over all series, as the detector does.

    :param settings: of the detector.
    :param receivers: their data endpoints, in the order of ranks.
    :param network: what happens on the way.
    :param by_module: True: each receiver gets some modules of every frame, so that all of them are one destination.
    :raises ConfigError: an endpoint is not ``udp://HOST:PORT``.
    """

    def __init__(
        self, settings: JungfrauSettings, receivers: tuple[str, ...], network: Network = CALM, by_module: bool = False
    ) -> None:
        self._settings = settings
        self._network = network
        self._ports = ports_of(settings, receivers, by_module)
        self._random = random.Random(network.seed)
        self._next = 1  # number of the next frame
        self._late: deque[tuple[int, tuple[str, int], bytes]] = deque()
        self._sent = 0  # packets, to know when late ones are due
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    @property
    def n_receivers(self) -> int:
        """How many destinations there are."""
        return len(self._ports)

    def begin(self, arm: Arm) -> int:
        """Return the number of the next frame: it tells the series from all others."""
        del arm
        return self._next

    def send(self, shot: Shot, receiver: int, stopping: Callable[[], bool]) -> Delivery:
        """Send a frame's packets; nothing waits for the receiver."""
        del stopping
        number = shot.series + shot.index
        across, interfaces = self._settings.modules[1], self._settings.interfaces
        missing = 0
        for offset, header, pixels in packets_of(shot.pixels, number, across, interfaces, receiver):
            missing += not self._send_packet(self._ports[receiver][offset], header, pixels)
        self._next = number + 1
        return Delivery(taken=True, missing=missing)

    def end(self, series: int, n_frames: int, stopping: Callable[[], bool]) -> None:
        """Send what is still late: a Jungfrau does not say that a series is over."""
        del series, n_frames, stopping
        self._send_late(everything=True)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send_packet(self, address: tuple[str, int], header: bytes, pixels: memoryview) -> bool:
        """Send a packet, or do to it what the network does; False: it got lost."""
        self._sent += 1
        network, chance = self._network, self._random.random
        arrives = not network.loss or chance() >= network.loss
        if arrives and network.reordering and chance() < network.reordering:
            due = self._sent + self._random.randint(1, network.reach)
            self._late.append((due, address, header + bytes(pixels)))
        elif arrives:
            self._socket.sendmsg([header, pixels], [], 0, address)
            if network.duplication and chance() < network.duplication:
                self._socket.sendmsg([header, pixels], [], 0, address)
        self._send_late()
        return arrives

    def _send_late(self, everything: bool = False) -> None:
        while self._late and (everything or self._late[0][0] <= self._sent):
            _, address, packet = self._late.popleft()
            self._socket.sendto(packet, address)


def ports_of(
    settings: JungfrauSettings, receivers: tuple[str, ...], by_module: bool = False
) -> list[list[tuple[str, int]]]:
    """Return host and port of each interface of each module, for each destination of whole frames.

    :param by_module: see ``JungfrauOutlet``.
    :raises ConfigError: an endpoint is not ``udp://HOST:PORT``.
    """
    addresses = [split_endpoint(each, f"receivers[{rank}].data") for rank, each in enumerate(receivers)]
    if not by_module:
        return [[(host, port + offset) for offset in range(settings.n_ports)] for host, port in addresses]
    counts = [settings.ports_of_part(rank, len(receivers)) for rank in range(len(receivers))]
    return [[(host, port + at) for (host, port), n in zip(addresses, counts, strict=True) for at in range(n)]]
