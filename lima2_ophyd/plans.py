"""Plans: fly scans that can be interrupted without losing count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import MsgGenerator
from ophyd_async.core import StandardDetector, TriggerInfo

from .detector import Lima2Detector

FLUSH_PERIOD = 0.25
"""Seconds between documents while a fly scan runs."""


def lima2_fly(
    detectors: Sequence[StandardDetector],
    num: int,
    *,
    exposure: float,
    latency: float = 0.0,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[None]:
    """Take a number of frames as fast as the detectors go, with documents while they come.

    The first Ctrl-C lets the scan finish, the second aborts it; the files are readable in both cases. At the end, what
    became of all frames is read into the stream ``ledger``.

    :param detectors: those that take frames.
    :param num: frames of each detector.
    :param exposure: of a frame in seconds.
    :param latency: between exposures in seconds; 0: what each detector's latency signal says.
    :param md: metadata of the run.
    """
    info = TriggerInfo(number_of_events=num, livetime=exposure, deadtime=latency)
    metadata = {
        "plan_name": "lima2_fly",
        "detectors": [detector.name for detector in detectors],
        "num_points": num,
        "plan_args": {"num": num, "exposure": exposure, "latency": latency},
        "hints": {},
        **(md or {}),
    }

    @bpp.stage_decorator(detectors)
    @bpp.run_decorator(md=metadata)
    def inner() -> MsgGenerator[None]:
        for detector in detectors:
            yield from bps.prepare(detector, info, group="prepare")
        yield from bps.wait("prepare")
        yield from bps.declare_stream(*detectors, name="primary", collect=True)
        yield from bps.kickoff_all(*detectors, wait=True)
        # Nothing before this may be done again: a pause from here on must finish the scan or abort it.
        yield from bps.clear_checkpoint()
        yield from bps.collect_while_completing(detectors, detectors, flush_period=FLUSH_PERIOD, stream_name="primary")
        yield from read_ledger(detectors)

    yield from inner()


def read_ledger(detectors: Sequence[StandardDetector]) -> MsgGenerator[None]:
    """Read what became of the frames of all detectors into the stream ``ledger``, inside an open run.

    :param detectors: those that are no Lima2Detector are left out.
    """
    counters = [counter for detector in detectors if isinstance(detector, Lima2Detector) for counter in detector.ledger]
    if not counters:
        return
    yield from bps.create(name="ledger")
    for counter in counters:
        yield from bps.read(counter)
    yield from bps.save()
