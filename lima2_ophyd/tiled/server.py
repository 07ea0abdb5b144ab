"""A Tiled server for runs and frames, set up in a folder by one call."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ADAPTERS = {"application/x-hdf5": "lima2_ophyd.tiled.adapter:Lima2HDF5Adapter"}
KEY_FILE = "api_key"
CONFIG_FILE = "tiled.yml"


class ServerError(Exception):
    """The Tiled server did not come up; the message has its last words."""


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """Where a server keeps its things and what it shows.

    :param folder: for catalog, tables, key, configuration and log.
    :param data: folders whose files it may read.
    :param host: address to listen at.
    :param port: to listen at.
    """

    folder: Path
    data: tuple[Path, ...]
    host: str
    port: int

    @property
    def uri(self) -> str:
        """The server's address for clients."""
        return f"http://{self.host}:{self.port}"

    @property
    def key_file(self) -> Path:
        """The file with the API key, for its owner's eyes only."""
        return self.folder / KEY_FILE

    @property
    def api_key(self) -> str:
        """The API key."""
        return self.key_file.read_text().strip()


def set_up_server(folder: Path, data: Sequence[Path], *, host: str = "127.0.0.1", port: int = 0) -> ServerPlace:
    """Write a server's configuration and, where there is none yet, its API key.

    :param folder: for catalog, tables, key and configuration; made if it is not there.
    :param data: folders whose files the server may read.
    :param host: address to listen at.
    :param port: to listen at; 0: a free one.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    place = ServerPlace(folder, tuple(path.resolve() for path in data), host, port or _free_port(host))
    if not place.key_file.exists():
        with open(os.open(place.key_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    (folder / "storage").mkdir(exist_ok=True)
    # JSON is YAML, and quotes what paths may hold.
    (folder / CONFIG_FILE).write_text(json.dumps(_configuration(place), indent=2) + "\n")
    return place


def server_argv(place: ServerPlace) -> list[str]:
    """Return the command line of a server process; it reads the key from its file."""
    return [
        *(sys.executable, "-m", "lima2_ophyd.tiled.server"),
        *(str(place.folder), place.host, str(place.port)),
    ]


@dataclass(slots=True)
class RunningServer:
    """A server process; a context manager that ends it.

    :param place: where it is.
    :param process: the process.
    """

    place: ServerPlace
    process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, timeout: float = 10.0) -> None:
        """End the process, by force if it takes longer than ``timeout`` seconds."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start_server(place: ServerPlace, *, timeout: float = 60.0) -> RunningServer:
    """Start a server and wait until it answers.

    :param place: made by ``set_up_server``.
    :param timeout: seconds.
    :raises ServerError: it ended, or did not answer in time; the message has the end of its log.
    """
    log_file = place.folder / "server.log"
    with log_file.open("ab") as log:
        process = subprocess.Popen(server_argv(place), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    running = RunningServer(place, process)
    deadline = time.monotonic() + timeout
    while not _answers(place):
        late = time.monotonic() > deadline
        if process.poll() is not None or late:
            running.close()
            what = f"did not answer within {timeout:g} s" if late else f"ended with status {process.returncode}"
            raise ServerError(f"the Tiled server {what}: {_tail(log_file)}")
        time.sleep(0.1)  # between tries
    return running


def main(arguments: Sequence[str] | None = None) -> int:
    """Become a Tiled server; the arguments are those of ``server_argv``."""
    folder, host, port = sys.argv[1:] if arguments is None else arguments
    os.environ["TILED_SINGLE_USER_API_KEY"] = (Path(folder) / KEY_FILE).read_text().strip()
    tiled = shutil.which("tiled", path=str(Path(sys.executable).parent)) or "tiled"
    os.execvp(tiled, [tiled, "serve", "config", str(Path(folder) / CONFIG_FILE), "--host", host, "--port", port])


def _configuration(place: ServerPlace) -> dict[str, object]:
    folder = place.folder
    return {
        "authentication": {"allow_anonymous_access": False},
        "streaming_cache": {"uri": "memory"},
        "trees": [
            {
                "path": "/",
                "tree": "catalog",
                "args": {
                    "uri": f"sqlite:///{folder / 'catalog.db'}",
                    "writable_storage": [str(folder / "storage"), f"duckdb:///{folder / 'tables.duckdb'}"],
                    "readable_storage": [str(path) for path in place.data],
                    "init_if_not_exists": True,
                    "adapters_by_mimetype": ADAPTERS,
                },
            }
        ],
    }


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _answers(place: ServerPlace) -> bool:
    connection = http.client.HTTPConnection(place.host, place.port, timeout=5)
    try:
        connection.request("GET", "/api/v1/", headers={"Authorization": f"Apikey {place.api_key}"})
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:]


if __name__ == "__main__":
    sys.exit(main())
