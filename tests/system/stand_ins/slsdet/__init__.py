"""The stand-in of the unit tests for PSI's client, whose modules also send packets, in turn to their destinations.

The pixels of module m of frame n are all ``100 * n + m``, modules counted row by row as ``packets_of`` does.
"""

import socket
import threading
from pathlib import Path

import numpy as np

from lima2_receivers.detectors.jungfrau.packets import packets_of

_PLACE = Path(__file__).parents[3] / "receivers" / "detectors" / "jungfrau" / "fake" / "slsdet" / "__init__.py"
exec(compile(_PLACE.read_text(), _PLACE, "exec"))

_start = Detector.startDetector  # noqa: F821


def start(self):
    """Start, and send all frames, none before its time."""
    _start(self)
    servers = [SERVERS[host] for host in SHARED]  # noqa: F821
    down, across = self.asked.y // 512, self.asked.x // 1024
    at = {row * across + column: servers[column * down + row] for row in range(down) for column in range(across)}
    first, count = servers[0].values["NextFrameNumber"], servers[0].values["NumberOfFrames"]
    threading.Thread(target=send, args=(at, across, first, count), daemon=True).start()


def send(servers, across, first, count):
    """Send frames, each to the next destination of each module's own list."""
    values = servers[0].values
    interfaces, rows, turn = values["NumberofUDPInterfaces"], values["ReadNRows"], values["FirstUDPDestination"]
    pause = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outlet:
        for number in range(first, first + count):
            pause.wait(values["Period"].seconds)
            if servers[0].state is runStatus.STOPPED and servers[0].began is None:  # noqa: F821
                return
            pixels = np.empty((len(servers), rows, 1024), np.uint16)
            pixels[:] = 100 * number + np.arange(len(servers))[:, None, None]
            destination = (turn + number - first) % len(servers[0].destinations)
            for port, header, data in packets_of(pixels, number, across, interfaces, destination):
                module, interface = divmod(port, interfaces)
                words = servers[module].destinations[destination]
                suffix = "2" if interface else ""
                outlet.sendto(header + bytes(data), (words[f"ip{suffix}"], int(words[f"port{suffix}"])))


Detector.startDetector = start  # noqa: F821
