"""Reads a run back through Tiled, in a process of its own, and compares every frame with what was sent.

``python -m lima2_ophyd.demo.check TASK`` reads the task (JSON) and writes a report and a picture beside it. The key of
the Tiled server is in the environment, as Tiled's own clients have it (``TILED_API_KEY``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from lima2_processing.frame import FrameSpec
from lima2_receivers.detectors.journal import Journal, read_journal
from lima2_receivers.ledger import FrameStatus

from . import truth
from .picture import Picture, draw

MAX_PROBLEMS = 20  # that are listed
PRECISION = RECALL = 0.95


class CheckTask(msgspec.Struct, frozen=True):
    """What is to be checked.

    :param url: of the Tiled server.
    :param run: uid of the run.
    :param detector: name of the detector.
    :param master: the master file.
    :param announced: frames that the ledger says there are.
    :param journal: the simulated detector's journal.
    :param spec: of the raw frames.
    :param pedestal: files of three planes in all, in the order of the gain stages.
    :param gain: likewise.
    :param has_spots: whether the journal knows what is in the frames.
    :param recording: folder of a recording, for PSI's converted frames; empty: none.
    :param title: of the picture.
    :param picture: where it goes.
    :param report: where the report goes.
    """

    url: str
    run: str
    detector: str
    master: str
    announced: int
    journal: str
    spec: FrameSpec
    pedestal: tuple[str, ...]
    gain: tuple[str, ...]
    has_spots: bool
    recording: str
    title: str
    picture: str
    report: str


class CheckReport(msgspec.Struct, frozen=True):
    """What was found.

    :param frames: that were compared.
    :param peaks_found: in all frames.
    :param peaks_true: simulated spots in the frames that were saved; None where they are not known.
    :param recall: share of the strong spots that were found; None where they are not known.
    :param precision: share of the peaks that are spots; None likewise.
    :param psi: the smallest share of pixels that agree with PSI's conversion; None: there was nothing to compare.
    :param problems: what was wrong; empty: all agrees.
    """

    frames: int
    peaks_found: int
    peaks_true: int | None
    recall: float | None
    precision: float | None
    psi: float | None
    problems: tuple[str, ...]


class Readable(Protocol):
    """An array that Tiled serves."""

    shape: tuple[int, ...]

    def __getitem__(self, item: int | slice) -> NDArray[Any]: ...


class _Tally:
    """What adds up over frames."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.peaks = self.spots = self.right = self.found = self.strong = 0
        self.psi: list[float] = []

    def note(self, problem: str) -> None:
        self.problems.append(problem)


def check(task: CheckTask, arrays: dict[str, Readable], console: Console) -> CheckReport:
    """Compare every frame of a run.

    :param arrays: Tiled's arrays by data key suffix; ``""`` is the dense image.
    """
    journal = read_journal(Path(task.journal))
    pedestal, gain = (_planes(paths, task.spec) for paths in (task.pedestal, task.gain))
    converted = truth.converted_frames(Path(task.recording)) if task.recording else {}
    names = ("frame_status", "frame_number", "n_peaks", "is_hit", "peaks", "background_avg", "timestamp")
    columns = {name: np.asarray(arrays[name][:]) for name in names}
    tally = _Tally()
    _check_ledger(task, journal, columns, tally)
    picture = Picture(task.title)
    for frame in _progress(range(task.announced), console):
        if columns["frame_status"][frame] != FrameStatus.SAVED:
            continue
        raw, dense = np.asarray(arrays["raw"][frame]), np.asarray(arrays[""][frame])
        if truth.crc(raw) != journal.scene_of(frame).crc32:
            tally.note(f"frame {frame}: raw bytes differ from those that were sent")
        expected = truth.assemble(truth.correct(raw, pedestal, gain), task.spec)
        if not truth.same_image(dense, expected):
            tally.note(f"frame {frame}: the dense image differs from NumPy's correction of the raw frame")
        peaks = columns["peaks"][frame][: int(columns["n_peaks"][frame])]
        _check_peaks(task, journal, frame, peaks, tally)
        if frame in converted:
            psi = np.fromfile(converted[frame], "<f4").reshape(dense.shape)
            tally.psi.append(truth.agrees_with_psi(dense, psi, raw.reshape(dense.shape)))
        picture.add(dense, peaks, bool(columns["is_hit"][frame]))
    saved = columns["frame_status"] == FrameStatus.SAVED
    draw(picture, np.asarray(arrays["radius"]), columns["background_avg"][saved], Path(task.picture))
    return _report(task, tally, int(saved.sum()))


def _check_ledger(task: CheckTask, journal: Journal, columns: dict[str, NDArray[Any]], tally: _Tally) -> None:
    """Every frame that was announced has a row, and every row the fate that the detector's journal says."""
    for name, column in columns.items():
        if len(column) != task.announced:
            tally.note(f"{name}: got {len(column)} rows, expected the {task.announced} that were announced")
    if len(journal.sent) != task.announced:
        tally.note(f"the detector sent {len(journal.sent)} frames, announced are {task.announced}")
    fates = {"sent": FrameStatus.SAVED, "lost": FrameStatus.LOST, "dropped": FrameStatus.LOST}
    for frame, (sent, status) in enumerate(zip(journal.sent, columns["frame_status"], strict=False)):
        if status != fates[sent.fate]:
            tally.note(f"frame {frame}: was {sent.fate}, its status is {FrameStatus(int(status)).name.lower()}")
    if not np.array_equal(columns["frame_number"], np.arange(len(columns["frame_number"]))):
        tally.note("frame_number does not count up")


def _check_peaks(task: CheckTask, journal: Journal, frame: int, peaks: NDArray[np.float32], tally: _Tally) -> None:
    tally.peaks += len(peaks)
    if task.has_spots:
        spots = np.array([(s.row, s.col, s.photons) for s in journal.scene_of(frame).spots]).reshape(-1, 3)
        right, found, strong = truth.match(peaks, spots)
        tally.spots += len(spots)
        tally.right += right
        tally.found += found
        tally.strong += strong


def _report(task: CheckTask, tally: _Tally, frames: int) -> CheckReport:
    recall = precision = None
    if task.has_spots:
        recall = tally.found / tally.strong if tally.strong else 1.0
        precision = tally.right / tally.peaks if tally.peaks else 1.0
        if recall < RECALL:
            tally.note(f"recall: got {recall:.3f} of the spots of {truth.STRONG_PHOTONS:g} photons, expected {RECALL}")
        if precision < PRECISION:
            tally.note(f"precision: got {precision:.3f}, expected {PRECISION}")
    psi = min(tally.psi) if tally.psi else None
    if psi is not None and psi < truth.PSI_SHARE:
        tally.note(f"PSI's conversion: got {psi:.5f} of the pixels equal, expected {truth.PSI_SHARE}")
    return CheckReport(
        frames=frames,
        peaks_found=tally.peaks,
        peaks_true=tally.spots if task.has_spots else None,
        recall=recall,
        precision=precision,
        psi=psi,
        problems=tuple(tally.problems[:MAX_PROBLEMS]),
    )


def _planes(paths: Iterable[str], spec: FrameSpec) -> NDArray[np.float32]:
    """Read three planes of calibration: from one ``.npy`` file, or three ``.bin`` files."""
    parts = [np.load(path) if path.endswith(".npy") else np.fromfile(path, "<f4") for path in paths]
    return np.concatenate([part.ravel() for part in parts]).reshape(3, *spec.shape).astype(np.float32)


def _progress(frames: range, console: Console) -> Iterable[int]:
    return track(frames, "checking frames through Tiled", console=console)


def open_arrays(task: CheckTask, key: str) -> dict[str, Readable]:
    """Return Tiled's arrays of the run, by data key suffix, and the bins' radius from the master file."""
    import h5py
    from tiled.client import from_uri

    run = from_uri(task.url, api_key=key)[task.run]
    primary = run["primary"]
    arrays: dict[str, Readable] = {
        name.removeprefix(task.detector).removeprefix("-"): primary[name] for name in primary
    }
    with h5py.File(task.master, "r", swmr=True, libver="latest") as opened:
        arrays["radius"] = np.asarray(opened["entry_0000/measurement/radius"])  # type: ignore[assignment]
    return arrays


def main() -> int:
    """Check the task that the command line names; 0 where all agrees."""
    console = Console(stderr=True)
    task = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=CheckTask)
    report = check(task, open_arrays(task, os.environ["TILED_API_KEY"]), console)
    Path(task.report).write_bytes(msgspec.json.encode(report))
    for problem in report.problems:
        console.print(f"[red]{problem}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
