"""Start of a session, for IPython, queueserver (``--startup-script``) and blueapi: a RunEngine and device factories.

Nothing here talks to a detector until a device is connected. Where things are is said by ``LIMA2_COMMANDS`` and
``LIMA2_STATE`` (the conductor's endpoints), ``LIMA2_KEY`` (file of a private key, for ``tcp`` endpoints),
``LIMA2_DATA`` (a folder that the daemons' configuration allows) and ``LIMA2_CALIBRATION`` (pedestals and gains).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import bluesky.plan_stubs as bps
from bluesky import RunEngine
from bluesky.utils import MsgGenerator
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider

from lima2_ophyd.detector import Lima2Detector
from lima2_ophyd.plans import lima2_fly, lima2_overlap

__all__ = ["calibrate", "jungfrau", "lima2_fly", "lima2_overlap", "make_run_engine"]

COMMANDS = os.environ.get("LIMA2_COMMANDS", "ipc:///run/lima2/commands")
STATE = os.environ.get("LIMA2_STATE", "ipc:///run/lima2/state")
KEY = os.environ.get("LIMA2_KEY")
DATA = Path(os.environ.get("LIMA2_DATA", "/data/lima2"))
CALIBRATION = Path(os.environ.get("LIMA2_CALIBRATION", "/data/lima2/calibration"))


def jungfrau(name: str = "jungfrau") -> Lima2Detector:
    """Make the Jungfrau behind the conductor of this beamline; it is connected by ``init_devices`` or blueapi."""
    paths = StaticPathProvider(UUIDFilenameProvider(), DATA)
    return Lima2Detector(COMMANDS, STATE, paths, pipeline="smx", key=KEY, name=name)


def calibrate(detector: Lima2Detector) -> MsgGenerator[None]:
    """Use the newest pedestals and gains; lists of files are JSON."""
    pedestal = json.dumps([{"path": str(CALIBRATION / "pedestal.npy")}])
    gain = json.dumps([{"path": str(CALIBRATION / "gain.npy")}])
    yield from bps.mv(detector.pipeline.pedestal, pedestal, detector.pipeline.gain, gain)


def make_run_engine() -> RunEngine:
    """Make a RunEngine that knows what a run was taken with."""
    return RunEngine({"beamline": "example"})
