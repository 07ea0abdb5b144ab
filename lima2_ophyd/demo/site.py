"""A small beamline on one host: the configuration and the processes that a real site would have."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from lima2_processing.frame import FrameSpec
from lima2_receivers.detectors.reader.recording import find_recording
from lima2_receivers.detectors.simulator.params import SimulatorSettings
from lima2_receivers.detectors.simulator.supply import frame_spec

from .options import DemoOptions

END_SECONDS = 10.0  # that a process has to end after SIGTERM
RING_BYTES = 16 * 1024 * 1024  # at least, so that small frames have many slots
TAIL_LINES = 5  # of a process's log, in an error


class DemoError(Exception):
    """The demo can't go on; the message says why."""


class Site:
    """The daemons of a demo. A context manager: what it starts, it ends, in the opposite order.

    :param options: of the demo.
    """

    def __init__(self, options: DemoOptions) -> None:
        self.options = options
        self.output = options.output
        self.sockets = Path(tempfile.mkdtemp(prefix="lima2-demo-"))
        self.data = self.output / "data"
        self.detector = self.output / "detector"
        self.logs = self.output / "logs"
        self.config = self.output / "lima2.toml"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        for folder in (self.data, self.detector, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(configuration(self))
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def commands(self) -> str:
        """The conductor's command endpoint."""
        return f"ipc://{self.sockets}/commands"

    @property
    def state(self) -> str:
        """The endpoint of the conductor's published state."""
        return f"ipc://{self.sockets}/state"

    def start_daemons(self) -> None:
        """Start detector, conductor and receivers, as a site would: by their console scripts."""
        self.start("detector", [_script("lima2-simulator"), str(self.config)])
        self.start("conductor", [_script("lima2-conductor"), str(self.config)])
        for rank in range(self.options.receivers):
            self.start(f"receiver_{rank}", [_script("lima2-receiver"), str(self.config), "--rank", str(rank)])

    def start(self, name: str, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        """Start a process whose output goes to a log; Ctrl-C reaches this process alone, which then ends the others."""
        log = (self.logs / f"{name}.log").open("ab")
        self._processes[name] = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )
        log.close()

    def check(self) -> None:
        """See that every process still runs.

        :raises DemoError: one has ended; the message holds the end of its log.
        """
        for name, process in self._processes.items():
            if (code := process.poll()) is not None:
                lines = (self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-TAIL_LINES:]
                raise DemoError(f"{name} ended with status {code}:\n  " + "\n  ".join(lines))

    def wait_for(self, what: str, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until something is ready.

        :raises DemoError: it isn't within ``seconds``, or a process has ended.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{what} was not ready within {seconds:g} s; see the logs in {self.logs}")
            time.sleep(0.05)

    def close(self) -> None:
        """End every process, the last started first, and remove the sockets."""
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        shutil.rmtree(self.sockets, ignore_errors=True)


def spec_of(options: DemoOptions) -> FrameSpec:
    """Return what the frames of the demo's detector look like.

    :raises ConfigError: the recording is not complete.
    """
    if options.replay is not None:
        return find_recording(options.replay).spec
    return frame_spec(SimulatorSettings("", "", size=options.size))


def configuration(site: Site) -> str:
    """Return the configuration file of a site, as a person would write it."""
    options = site.options
    frame_bytes = spec_of(options).nbytes
    slots = max(8, RING_BYTES // frame_bytes // options.receivers)
    plugin, extra = "simulator", f'size = "{options.size.value}"'
    if options.replay is not None:
        plugin, extra = "reader", f"recording = {json.dumps(str(options.replay))}"
    calibration = [str(site.detector)]
    calibration += [str(options.replay.resolve())] if options.replay is not None else []
    calibration += [str(options.poni.resolve().parent)] if options.poni is not None else []
    receivers = "\n".join(
        f"""
[[receivers]]
commands = "ipc://{site.sockets}/receiver_{rank}"
data = "ipc://{site.sockets}/data_{rank}"
ring = {{ slots = {slots}, slot_bytes = {frame_bytes} }}"""
        for rank in range(options.receivers)
    )
    return f"""# One simulated detector, one conductor, {options.receivers} receiver(s): written by `lima2 demo`.

[detector]
plugin = "{plugin}"
name = "jungfrau"
instrument = "demo"

[detector.settings]
control = "ipc://{site.sockets}/detector"
folder = {json.dumps(str(site.detector))}
{extra}

[conductor]
commands = "{site.commands}"
state = "{site.state}"

[saving]
roots = [{json.dumps(str(site.data))}]

[calibration]
roots = {json.dumps(calibration)}
{receivers}
"""


def _script(name: str) -> str:
    """Return the console script beside this Python, so that no PATH is needed."""
    return str(Path(sys.executable).parent / name)
