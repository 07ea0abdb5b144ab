"""A fly scan: many frames from one trigger, then what became of them. ``python example_plans/fly_scan.py``."""

from __future__ import annotations

from typing import Any, cast

from bluesky.utils import ProgressBarManager
from ophyd_async.core import init_devices
from startup import calibrate, jungfrau, lima2_fly, make_run_engine


def show_ledger(name: str, document: dict[str, Any]) -> None:
    """Print the stream ``ledger``, whose event is the only one of a fly scan."""
    for key, value in document["data"].items():
        print(f"{key:24} {value}")


if __name__ == "__main__":
    RE = make_run_engine()
    cast("Any", RE).waiting_hook = ProgressBarManager()
    RE.subscribe(show_ledger, "event")
    with init_devices():
        det = jungfrau()
    RE(calibrate(det))
    RE(lima2_fly([det], 100, exposure=0.002, md={"sample": "lysozyme"}))
