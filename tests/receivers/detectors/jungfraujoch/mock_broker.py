"""A broker that is not there, after its published API: states, order and limits, and images over ZeroMQ."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cbor2
import numpy as np
import zmq

from lima2_receivers.detectors.eiger2 import packets
from lima2_receivers.packing import Packing

WHEN = datetime(2026, 11, 23, tzinfo=UTC)
FRAME_TIME = 500  # microseconds


class RefusalError(Exception):
    """An answer that is none.

    :param code: of HTTP.
    """

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class MockBroker:
    """The broker and its detector. ``close`` it.

    :param stream: endpoint that images are pushed by.
    :param shape: of an image (rows, cols).
    """

    def __init__(self, stream, shape=(64, 80)):
        self.shape = shape
        self.state, self.message = "Idle", None
        self.calls = []
        self.slow = None  # an event that answers wait for
        self.stubborn = {}  # settings that are not taken
        self.lose = set()  # images that are not sent
        self.format = {"summation": True, "geometry_transform": True, "bit_depth_image": None, "signed_output": None}
        self.pusher = {"pusher_type": "ZeroMQ", "addr": [stream], "connected_writers": 1}
        self.statistics = None
        self.dataset = {}
        self._triggers = 0
        self._lock = threading.RLock()
        self._cancelled = threading.Event()
        self._exposure = None
        self._socket = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.linger = 0
        self._socket.sndtimeo = 5000
        self._socket.bind(stream)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._serving = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._serving.start()

    def close(self):
        if self.slow:
            self.slow.set()
        self._cancelled.set()
        if self._exposure:
            self._exposure.join()
        self._server.shutdown()
        self._server.server_close()
        self._serving.join()
        self._socket.close(linger=0)

    @property
    def dtype(self):
        return f"{'' if self.format['signed_output'] else 'u'}int{self.format['bit_depth_image']}"

    def image(self, index):
        found = np.random.default_rng(index).poisson(3, self.shape).astype(self.dtype)
        if self.format["signed_output"]:
            found[0, :] = -index - 1
        return found

    def answer(self, method, path, body):
        if self.slow:
            self.slow.wait(30)
        with self._lock:
            match method, path:
                case "GET", "/status":
                    return {"state": self.state, "message": self.message, "gpu_count": 2}
                case "GET", "/statistics/data_collection":
                    if self.statistics is None:
                        raise RefusalError(404, "none yet")
                    return self.statistics
                case "GET", "/config/select_detector":
                    return {"detectors": [self._entry(0, (1, 1)), self._entry(3, self.shape)], "current_id": 3}
                case "GET", "/config/image_format":
                    return self.format
                case "GET", "/image_pusher/status":
                    return self.pusher
            self.calls.append(path)
            match method, path:
                case "PUT", "/config/image_format":
                    self._require("Idle")
                    self.format = json.loads(body) | self.stubborn
                case "POST", "/start":
                    self._start(json.loads(body))
                case "POST", "/trigger":
                    self._trigger()
                case "POST", "/cancel":
                    self._cancelled.set()
                    if self.state == "Measuring" and self._exposure is None:
                        self._end()
                case _:
                    raise RefusalError(404, f"there is no {path}")
        return None

    def _entry(self, number, shape):
        return {
            "id": number,
            "description": "Mock JUNGFRAU",
            "width": shape[1],
            "height": shape[0],
            "pixel_size_mm": 0.075,
            "nmodules": 8,
        }

    def _require(self, state):
        if self.state != state:
            raise RefusalError(
                500, json.dumps({"msg": f"it is {self.state}, expected {state}", "reason": "WrongDAQState"})
            )

    def _start(self, dataset):
        self._require("Idle")
        if dataset["image_time_us"] % FRAME_TIME or dataset["image_time_us"] > 256 * FRAME_TIME:
            raise RefusalError(400, "image time must be a multiple of frame time")
        if not 0.001 <= dataset["incident_energy_keV"] <= 500 or dataset["run_number"] < 0:
            raise RefusalError(400, "out of range")
        self._exposure, self._triggers, self.dataset = None, 0, dataset
        self._cancelled.clear()
        rows, columns = self.shape
        self.statistics = {
            "run_number": dataset["run_number"],
            "images_collected": 0,
            "unit_cell": None,
            "detector_width": columns,
            "detector_height": rows,
            "detector_pixel_depth": self.image(0).itemsize,
        }
        if dataset["file_prefix"]:
            self._socket.send(packets.start2(dataset["run_number"], self.image(0), ("default",), 1, WHEN))
            self._socket.send(cbor2.dumps({"type": "calibration", "data": {"pedestal_G0": b""}}))
        self.state = "Measuring"

    def _trigger(self):
        self._require("Measuring")
        if self._exposure is not None:
            raise RefusalError(500, "a trigger came while images are taken")
        first = self._triggers * self.dataset["images_per_trigger"]
        self._triggers += 1
        self._exposure = threading.Thread(target=self._expose, args=(first,))
        self._exposure.start()

    def _expose(self, first):
        for index in range(first, first + self.dataset["images_per_trigger"]):
            if self._cancelled.wait(self.dataset["image_time_us"] * 1e-6):
                break
            packing = Packing(self.dataset["compression"])
            message = packets.image2(
                self.dataset["run_number"], index, {"default": self.image(index)}, packing, WHEN, begin=index
            )
            if self.dataset["file_prefix"] and index not in self.lose:
                self._socket.send(message)
                self.statistics["images_collected"] += 1
        with self._lock:
            self._exposure = None
            if self._triggers == self.dataset["ntrigger"] or self._cancelled.is_set():
                self._end()

    def _end(self):
        if self.dataset["file_prefix"]:
            self._socket.send(packets.end2(self.dataset["run_number"]))
        self.state = "Idle"


def _handler(broker):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def _answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                code, answer = 200, json.dumps(broker.answer(self.command, self.path, body))
            except RefusalError as error:
                code, answer = error.code, str(error)
            self.send_response(code)
            self.send_header("Content-Length", str(len(answer.encode())))
            self.end_headers()
            self.wfile.write(answer.encode())

        do_GET = do_PUT = do_POST = _answer  # noqa: N815

        def log_request(self, code="", size=""):
            pass

    return Handler
