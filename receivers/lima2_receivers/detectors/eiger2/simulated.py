"""An Eiger2 that is not there: SIMPLON over HTTP, frames over ZeroMQ, in a process of its own.

It keeps the order that the real one asks for (configure while idle, trigger while ready) and its side effects: setting
``frame_time`` shortens ``count_time``, and setting ``count_time`` lengthens ``frame_time``.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import zmq
from msgspec import Struct
from numpy.typing import NDArray

from ...packing import Packing
from ...transport.endpoints import bind
from ..faults import Faults, FaultyWay
from . import packets

log = logging.getLogger(__name__)

READOUT = 1e-7  # seconds between two exposures at least
_DTYPES = {8: "|u1", 16: "<u2", 32: "<u4"}
_DISTINCT = 8  # images that are made ahead and sent in turn


class Look(Struct, frozen=True):
    """What the simulated detector is, and what happens to its frames.

    :param rows: of its images.
    :param columns: of its images.
    :param bits: of a pixel: 8, 16 or 32.
    :param loss: share of the images that get lost.
    :param duplicates: share of the images that are sent twice.
    :param reordering: share of the images that are sent after up to four later ones.
    :param seed: of all that is random.
    """

    rows: int = 514
    columns: int = 1030
    bits: int = 16
    loss: float = 0.0
    duplicates: float = 0.0
    reordering: float = 0.0
    seed: int = 0


def images_of(look: Look) -> list[NDArray[np.generic]]:
    """Return the images (rows, cols) that are sent in turn: counts around a beam, some spots, a gap of no pixels."""
    dtype = np.dtype(_DTYPES[look.bits])
    rng = np.random.default_rng(look.seed)
    row, col = np.ogrid[: look.rows, : look.columns]
    radius = np.hypot(row - look.rows / 2, col - look.columns / 2)
    mean = 6 * np.exp(-radius / (0.3 * look.columns)) + 0.2
    found = []
    for _ in range(_DISTINCT):
        image = rng.poisson(mean)
        for spot in rng.integers((2, 2), (look.rows - 3, look.columns - 3), (20, 2)):
            image[spot[0] : spot[0] + 2, spot[1] : spot[1] + 2] += rng.integers(60, 120)
        image[:, look.columns // 2 : look.columns // 2 + 4] = np.iinfo(dtype).max
        found.append(image.astype(dtype))
    return found


def image_of(channel: str, image: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return what a channel has of an image: the second threshold every other count, the difference the rest."""
    masked = image == _largest(image)
    counts = image.astype(np.int64)
    halves = counts // 2
    values = {"threshold_1": counts, "threshold_2": halves, "difference": counts - halves}[channel]
    return np.where(masked, image, values.astype(image.dtype))


def _largest(image: NDArray[np.generic]) -> int:
    """Return the value of pixels that have none."""
    return int(2 ** (8 * image.itemsize) - 1)


class SimulatedEiger2:
    """The detector: state, configuration, and its stream. Its methods are called by the server's threads.

    :param stream: endpoint that its PUSH socket binds.
    :param look: see ``Look``.
    :raises ConfigError: the endpoint can't be bound.
    """

    def __init__(self, stream: str, look: Look) -> None:
        self.images = images_of(look)
        self.flatfield = np.linspace(0.9, 1.1, look.rows * look.columns, dtype="<f4").reshape(look.rows, look.columns)
        self.pixel_mask = (self.images[0] == _largest(self.images[0])).astype("<u4")
        self.state = "idle"
        self.calls: list[str] = []  # what was asked, in order
        self.config: dict[str, dict[str, object]] = {
            "detector": {
                "description": f"Simulated Eiger2 {look.rows}x{look.columns}",
                "x_pixels_in_detector": look.columns,
                "y_pixels_in_detector": look.rows,
                "x_pixel_size": 75e-6,
                "y_pixel_size": 75e-6,
                "bit_depth_image": look.bits,
                "detector_readout_time": READOUT,
                "photon_energy": 12400.0,
                "threshold_energy": 6200.0,
                "threshold/1/mode": "enabled",
                "threshold/2/mode": "disabled",
                "threshold/2/energy": 8000.0,
                "threshold/difference/mode": "disabled",
                "flatfield_correction_applied": True,
                "pixel_mask_applied": True,
                "compression": "bslz4",
                "trigger_mode": "ints",
                "ntrigger": 1,
                "nimages": 1,
                "frame_time": 0.01,
                "count_time": 0.01 - READOUT,
            },
            "stream": {
                "mode": "disabled",
                "format": "cbor",
                "header_detail": "basic",
                "header_appendix": "",
                "image_appendix": "",
            },
        }
        faults = Faults(look.loss, look.reordering, look.duplicates)
        self._way: FaultyWay[Sequence[bytes]] = FaultyWay(faults, random.Random(look.seed))
        self._series = 0
        self._armed = datetime.now(UTC)
        self._sent = 0
        self._triggers = 0
        self._lock = threading.RLock()
        self._cancelled = threading.Event()
        self._socket = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.linger = 0
        self._socket.sndtimeo = 2000
        self._socket.sndhwm = 4
        try:
            bind(self._socket, stream, "--stream")
        except BaseException:
            self._socket.close(linger=0)
            raise

    def close(self) -> None:
        """End an exposure, and free the socket."""
        self._cancelled.set()
        with self._lock:
            self._socket.close(linger=0)

    def get(self, module: str, kind: str, name: str) -> object:
        """Return a value.

        :raises KeyError: there is none of that name.
        """
        if (module, kind, name) == ("detector", "status", "state"):
            return self.state
        if (module, kind, name) == ("detector", "status", "error"):
            return []
        if kind != "config":
            raise KeyError(name)
        return self.config[module][name]

    def put(self, module: str, name: str, value: object) -> list[str]:
        """Set a value, and return the names of all that changed.

        :raises KeyError: there is none of that name.
        :raises PermissionError: not in this state.
        """
        with self._lock:
            self.calls.append(name)
            values = self.config[module]
            if name not in values:
                raise KeyError(name)
            if module == "detector" and self.state != "idle":
                raise PermissionError(f"configuring needs the state idle, it is {self.state}")
            values[name] = value
            if name == "frame_time" and isinstance(value, float):
                values["count_time"] = value - READOUT
                return [name, "count_time"]
            if name == "count_time" and isinstance(value, float) and value > float(str(values["frame_time"])) - READOUT:
                values["frame_time"] = value + READOUT
                return [name, "frame_time"]
            return [name]

    def command(self, name: str) -> dict[str, int]:
        """Carry out a command; ``trigger`` returns when its exposure is over.

        :raises KeyError: there is none of that name.
        :raises PermissionError: not in this state.
        """
        self.calls.append(name)
        match name:
            case "initialize":
                self.state = "idle"
            case "arm":
                self._require("idle")
                return {"sequence id": self._arm()}
            case "trigger":
                self._require("ready")
                if self._signalled:
                    raise PermissionError(f"a signal triggers it: {self._text('detector', 'trigger_mode')}")
                self._expose()
            case "pulse":  # of the signal; a real one has a socket for it
                if not self.pulse():
                    raise PermissionError(f"it is {self.state}, and takes no signal")
            case "cancel":
                self._cancelled.set()
            case "disarm" | "abort":
                self._cancelled.set()
                with self._lock:
                    if self.state == "ready":
                        self._end()
            case _:
                raise KeyError(name)
        return {"sequence id": self._series}

    def pulse(self) -> bool:
        """Give the signal one pulse, and return when its exposure is over; False: it was not taken."""
        if self.state != "ready" or not self._signalled:
            return False
        self._expose()
        return True

    @property
    def _signalled(self) -> bool:
        return self._text("detector", "trigger_mode").startswith("ext")

    def _require(self, state: str) -> None:
        if self.state != state:
            raise PermissionError(f"it is {self.state}, expected {state}")

    def _arm(self) -> int:
        with self._lock:
            self._series += 1
            self._sent = self._triggers = 0
            self._armed = datetime.now(UTC)
            self._cancelled.clear()
            self.state = "ready"
            if self._cbor:
                image, channels, number = self.images[0], self.channels, self._setting("nimages")
                arrays = None
                if self._text("stream", "header_detail") == "all":
                    arrays = {
                        "flatfield": dict.fromkeys(channels, self.flatfield),
                        "pixel_mask": dict.fromkeys(channels, self.pixel_mask),
                    }
                appendix = self._text("stream", "header_appendix")
                start = packets.start2(self._series, image, channels, number, self._armed, arrays, appendix)
                self._send(start)
            else:
                self._send(*packets.start1(self._series))
            return self._series

    def _expose(self) -> None:
        self.state = "acquire"
        with self._lock:
            began = time.monotonic()
            for number in range(1, self._setting("nimages") + 1):
                if self._cancelled.wait(began + number * self._seconds("frame_time") - time.monotonic()):
                    break
                message = self._image(self._sent)
                self._sent += 1
                for each in self._way.send(message)[1]:
                    self._send(*each)
            self._triggers += 1
            self.state = "ready"
            if self._triggers >= self._setting("ntrigger") or self._cancelled.is_set():
                self._end()

    def _end(self) -> None:
        for late in self._way.rest():
            self._send(*late)
        if self._cbor:
            self._send(packets.end2(self._series))
        else:
            self._send(*packets.end1(self._series))
        self.state = "idle"

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that are used."""
        modes = self.config["detector"]
        found = [f"threshold_{number}" for number in (1, 2) if modes[f"threshold/{number}/mode"] == "enabled"]
        return (*found, *(["difference"] if modes["threshold/difference/mode"] == "enabled" else []))

    def _text(self, module: str, name: str) -> str:
        return str(self.config[module][name])

    @property
    def _cbor(self) -> bool:
        return self.config["stream"]["format"] == "cbor"

    def _image(self, index: int) -> Sequence[bytes]:
        image = self.images[index % len(self.images)]
        packing = Packing(str(self.config["detector"]["compression"]))
        appendix = self._text("stream", "image_appendix")
        if not self._cbor:
            return packets.image1(self._series, index, image, packing, appendix)
        begin = index * self._seconds("frame_time")
        images = {name: image_of(name, image) for name in self.channels}
        return [packets.image2(self._series, index, images, packing, self._armed, begin, appendix)]

    def _send(self, *parts: bytes) -> None:
        if self.config["stream"]["mode"] != "enabled":
            return
        try:
            self._socket.send_multipart(parts)
        except zmq.Again:
            log.warning("no receiver takes the stream: a message of series %d is dropped", self._series)

    def _setting(self, name: str) -> int:
        return int(str(self.config["detector"][name]))

    def _seconds(self, name: str) -> float:
        return float(str(self.config["detector"][name]))


class Server:
    """SIMPLON's HTTP server around a simulated detector.

    :param detector: that it serves.
    :param host: address to bind.
    :param port: 0: any that is free.
    """

    def __init__(self, detector: SimulatedEiger2, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = ThreadingHTTPServer((host, port), _handler(detector))
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_address[1]}"

    def serve(self) -> None:
        """Answer until ``close``."""
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


def _handler(detector: SimulatedEiger2) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """One request: ``/MODULE/api/VERSION/KIND/NAME``."""

        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: else each answer waits 40 ms for an acknowledgement

        def do_GET(self) -> None:
            self._answer(lambda module, kind, name, _: {"value": detector.get(module, kind, name)})

        def do_PUT(self) -> None:
            def put(module: str, kind: str, name: str, body: bytes) -> object:
                if kind == "command":
                    return detector.command(name)
                return detector.put(module, name, json.loads(body)["value"])

            self._answer(put)

        def log_request(self, code: object = "", size: object = "") -> None:
            log.debug("%s %s: %s %s", self.command, self.path, code, size)

        def _answer(self, work: Callable[[str, str, str, bytes], object]) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = HTTPStatus.OK, None
            try:
                module, _, _, kind, name = self.path.strip("/").split("/", 4)
                answer = work(module, kind, name, body)
            except (KeyError, ValueError) as error:
                status, answer = HTTPStatus.NOT_FOUND, f"there is no {self.path}: {error}"
            except PermissionError as error:
                status, answer = HTTPStatus.BAD_REQUEST, str(error)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler
