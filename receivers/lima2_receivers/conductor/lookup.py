"""Which frame is meant, what became of it, and where it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from lima2_processing.frame import FrameIdx, OutputKind

from ..errors import StateError
from ..ledger import FrameLedger, FrameStatus
from ..messages import Dataset, FrameLocation, LocateFrame, Place, Prepared

_STEP = 4096  # frames that are looked through together


def locate(
    request: LocateFrame, ledger: FrameLedger, written: int, prepared: Prepared, endpoints: Sequence[str]
) -> FrameLocation:
    """Return where a frame is.

    :param ledger: of its acquisition.
    :param written: leading frames whose fate is known and flushed.
    :param prepared: what the acquisition makes.
    :param endpoints: of the receivers' commands, by rank.
    :raises StateError: there is no such frame or output, or nothing is known of the frame yet.
    """
    name = f"acquisition {request.acquisition}"
    dataset = _dataset(request, prepared.datasets)
    frame = FrameIdx(request.frame) if request.frame >= 0 else _latest(ledger, written, name)
    fate, place = ledger.fate(frame), ledger.locate(frame)
    if fate is None:
        raise StateError(f"{name}: frame {frame} is not there, {written} frames are settled")
    return FrameLocation(
        acquisition=request.acquisition,
        frame=frame,
        status=fate.status,
        reason=fate.reason,
        place=Place(*place, endpoints[place[0]]) if place else None,
        master_file=prepared.master_file,
        dataset=dataset,
    )


def _dataset(request: LocateFrame, datasets: Sequence[Dataset]) -> Dataset:
    """Return what is wanted; the main image is ``dense``, or the first that there is."""
    if request.output:
        for dataset in datasets:
            if dataset.name == request.output:
                return dataset
        names = ", ".join(dataset.name for dataset in datasets)
        raise StateError(
            f"acquisition {request.acquisition}: got output {request.output!r}, expected one that is saved: {names}"
        )
    images = [dataset for dataset in datasets if dataset.kind is OutputKind.IMAGE]
    if not images:
        raise StateError(f"acquisition {request.acquisition} saves no images, name another output")
    return next((dataset for dataset in images if dataset.name == "dense"), images[0])


def _latest(ledger: FrameLedger, written: int, name: str) -> FrameIdx:
    last = written
    while last > 0:
        first = max(0, last - _STEP)
        statuses = ledger.statuses(first, last)
        saved = (statuses == FrameStatus.SAVED).nonzero()[0]
        if len(saved):
            return FrameIdx(first + int(saved[-1]))
        last = first
    raise StateError(f"{name}: no frame is saved yet, {written} are settled")
