"""Two devices of one conductor: the second exposes while the first drains. ``python example_plans/overlap.py``."""

from __future__ import annotations

from ophyd_async.core import init_devices
from startup import calibrate, jungfrau, lima2_overlap, make_run_engine

if __name__ == "__main__":
    RE = make_run_engine()
    RE.subscribe(lambda _, document: print("stream", document["name"]), "descriptor")
    with init_devices():
        first, second = jungfrau("jungfrau_a"), jungfrau("jungfrau_b")
    for device in (first, second):
        RE(calibrate(device))
    RE(lima2_overlap([first, second], 50, exposure=0.002))
