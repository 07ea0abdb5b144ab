"""A step scan: three frames of 10 ms, a table while they come. ``python example_plans/step_scan.py``."""

from __future__ import annotations

from typing import Any, cast

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky.callbacks import LiveTable
from bluesky.utils import MsgGenerator
from ophyd_async.core import init_devices
from startup import calibrate, jungfrau, make_run_engine

from lima2_ophyd.detector import Lima2Detector


def three_frames(detector: Lima2Detector) -> MsgGenerator[None]:
    """Set calibration and exposure, then take three frames, each with its own software trigger."""
    yield from calibrate(detector)
    yield from bps.mv(detector.acquisition.expo_time, 0.01)
    yield from bp.count([detector], 3)


if __name__ == "__main__":
    RE = make_run_engine()
    with init_devices():
        det = jungfrau()
    columns = [f"{det.name}-last_n_peaks", f"{det.name}-last_is_hit", f"{det.name}-hit_rate"]
    RE.subscribe(cast("Any", LiveTable(columns)))
    RE(three_frames(det))
