"""Plans: fly scans that can be interrupted without losing count."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import msgspec
from bluesky.utils import MsgGenerator
from ophyd_async.core import StandardDetector, TriggerInfo

from lima2_processing.pedestals import PedestalSummary
from lima2_receivers.detectors.jungfrau.params import Gain

from .detector import Lima2Detector

FLUSH_PERIOD = 0.25
"""Seconds between documents while a fly scan runs."""
PEDESTAL_SECONDS = 1800.0
"""Deadline of making pedestals out of frames that are taken."""


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


def lima2_overlap(
    detectors: Sequence[Lima2Detector],
    num: int,
    *,
    exposure: float,
    latency: float = 0.0,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[None]:
    """Take frames with devices that front one conductor, one after the other: each exposes while the others drain.

    Each has an acquisition, files and a stream of its own, named as it is. A pause finishes the scan or aborts it; see
    ``lima2_fly``.

    :param detectors: in the order of their turns.
    :param num: frames of each.
    :param exposure: of a frame in seconds.
    :param latency: between exposures in seconds; 0: what each detector's latency signal says.
    :param md: metadata of the run.
    """
    info = TriggerInfo(number_of_events=num, livetime=exposure, deadtime=latency)
    metadata = {
        "plan_name": "lima2_overlap",
        "detectors": [detector.name for detector in detectors],
        "num_points": num,
        "plan_args": {"num": num, "exposure": exposure, "latency": latency},
        "hints": {},
        **(md or {}),
    }

    @bpp.stage_decorator(detectors)
    @bpp.run_decorator(md=metadata)
    def inner() -> MsgGenerator[None]:
        yield from bps.clear_checkpoint()
        for detector in detectors:
            yield from bps.prepare(detector, info, wait=True)
            yield from bps.declare_stream(detector, name=detector.name, collect=True)
            yield from bps.kickoff(detector, wait=True)
            yield from bps.complete(detector, group=f"complete {detector.name}")
            yield from end_exposures(detector)
        for detector in detectors:
            done = False
            while not done:
                done = yield from bps.wait(f"complete {detector.name}", timeout=FLUSH_PERIOD, error_on_timeout=False)
                yield from bps.collect(detector, name=detector.name)
        yield from read_ledger(detectors)

    yield from inner()


def end_exposures(detector: Lima2Detector) -> MsgGenerator[None]:
    """Give a detector no more triggers in this stage, and wait until it has sent all its frames.

    They need not be saved: from then on another device of the same conductor can be prepared, while this one's
    ``complete`` still waits.

    :param detector: that was kicked off or triggered.
    """
    (done,) = yield from bps.wait_for([detector.end_exposures])
    done.result()


def pedestal_scan(
    detector: Lima2Detector,
    output: Path,
    num: int = 1000,
    *,
    exposure: float = 1e-5,
    latency: float = 0.0,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[PedestalSummary]:
    """Take dark frames in the three gains of a Jungfrau, a run each, and make pedestals of them. Keep it dark.

    Its gain is dynamic afterwards, also where the scan was aborted.

    :param detector: made with ``pipeline=None`` and ``detector_params=JungfrauParams``.
    :param output: HDF5 file to make, with pedestals, noise and a mask of bad pixels; see ``saving.pedestal``.
    :param num: frames of each gain.
    :param exposure: of a frame in seconds; that of the measurements which the pedestals are for.
    :param latency: see ``lima2_fly``.
    :param md: metadata of the runs.
    :raises RuntimeError: the file is there already, or the frames are no raw ones of a Jungfrau.
    """
    gain = detector.detector.gain
    masters: list[Path] = []

    def scan() -> MsgGenerator[None]:
        for each in Gain:
            yield from bps.mv(gain, each)
            metadata = {"pedestal_gain": str(each), **(md or {})}
            yield from lima2_fly([detector], num, exposure=exposure, latency=latency, md=metadata)
            masters.append(Path((yield from bps.rd(detector.master_file))))

    yield from bpp.finalize_wrapper(scan(), bps.mv(gain, Gain.DYNAMIC))
    (made,) = yield from bps.wait_for([lambda: _make_pedestal(masters, output)])
    return made.result()


async def _make_pedestal(masters: Sequence[Path], output: Path) -> PedestalSummary:
    """Let ``lima2 pedestal`` do it, in a process of its own: it takes a while, and plans read no files."""
    command = [str(Path(sys.executable).with_name("lima2")), "pedestal", *map(str, masters), str(output), "--json"]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(PEDESTAL_SECONDS):
            told, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"lima2 pedestal: {errors.decode(errors='replace').strip()}")
    return msgspec.json.decode(told, type=PedestalSummary)


def read_ledger(detectors: Sequence[StandardDetector]) -> MsgGenerator[None]:
    """Read what became of the frames of all detectors into one event of the stream ``ledger``, inside an open run.

    Once all frames were waited for, and before the detectors are unstaged.

    :param detectors: those that are no Lima2Detector are left out.
    """
    reports = [detector.ledger_report for detector in detectors if isinstance(detector, Lima2Detector)]
    if not reports:
        return
    yield from bps.create(name="ledger")
    for report in reports:
        yield from bps.read(report)
    yield from bps.save()
