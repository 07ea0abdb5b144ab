"""Outputs like those of a real pipeline, small, and values that tell which frame they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lima2_processing.frame import Constant, Output, OutputKind, SparseFrame
from lima2_receivers.acquisition import Outcome
from lima2_receivers.ledger import Counts
from lima2_receivers.plan import Compression, FileExistsPolicy, SavingParams, StreamSaving
from lima2_receivers.saving.ledger_file import LedgerFile, LedgerSummary
from lima2_receivers.saving.part import EncodedRow, PartFiles
from lima2_receivers.topology import RoundRobin

SHAPE = (24, 20)
RAW = Output("raw", OutputKind.IMAGE, "<u2", (2, 8, 16), "raw", label="raw frame")
DENSE = Output("dense", OutputKind.IMAGE, "<f4", SHAPE, "dense", "photons", "corrected image")
SPARSE = Output("sparse", OutputKind.SPARSE, "<f4", SHAPE, "sparse", "photons")
AVG = Output("background_avg", OutputKind.PROFILE, "<f4", (10,), "sparse", "photons", "background")
STD = Output("background_std", OutputKind.PROFILE, "<f4", (10,), "sparse", "photons", "its deviation")
COUNT = Output("n_peaks", OutputKind.SCALAR, "<i4", (), "results", label="peaks", hinted=True)
HIT = Output("is_hit", OutputKind.SCALAR, "|u1", (), "results")
PEAKS = Output("peaks", OutputKind.TABLE, "<f4", (6, 5), "results")
OUTPUTS = (RAW, DENSE, SPARSE, AVG, STD, COUNT, HIT, PEAKS)

_ROW, _COL = np.indices(SHAPE)
_DISTANCE = np.hypot(_ROW - 11.5, _COL - 9.5).astype("<f4") * 75e-6
CONSTANTS = (
    Constant("radius", np.linspace(0, _DISTANCE.max(), 10).astype("<f4"), "sparse", "m", "radius"),
    Constant("mask", np.where(_ROW == 3, np.nan, _DISTANCE).astype("<f4"), "sparse", "m"),
)
METADATA = {"acquisition": "0" * 32, "detector": "jungfrau", "instrument": "ID00"}


def values(frame: int) -> dict[str, np.ndarray | SparseFrame]:
    """Return every output of a frame."""
    rng = np.random.default_rng(frame)
    pixels = np.sort(rng.choice(SHAPE[0] * SHAPE[1], frame % 5, replace=False)).astype("<u4")
    return {
        "raw": rng.poisson(frame + 1, RAW.shape).astype("<u2"),
        "dense": rng.normal(frame, 1, DENSE.shape).astype("<f4"),
        "sparse": SparseFrame(pixels, (1000 * (frame + 1) + pixels).astype("<f4")),
        "background_avg": np.full(10, frame, "<f4"),
        "background_std": np.full(10, 0.5, "<f4"),
        "n_peaks": np.array(frame, "<i4"),
        "is_hit": np.array(frame % 2, "|u1"),
        "peaks": np.arange(30, dtype="<f4").reshape(6, 5) + 100 * frame,
    }


def is_lost(frame: int) -> bool:
    """Tell whether a writer is to leave a frame out."""
    return frame % 7 == 4


def saving(
    folder: Path,
    compression: Compression = Compression.BSHUF_LZ4,
    policy: FileExistsPolicy = FileExistsPolicy.ABORT,
    disabled: tuple[str, ...] = (),
) -> SavingParams:
    """Return saving parameters, the same for all streams."""
    streams = {
        stream: StreamSaving(enabled=stream not in disabled, compression=compression)
        for stream in ("raw", "dense", "sparse", "results")
    }
    return SavingParams(str(folder), "run", policy, streams)


def part_files(folder: Path, rank: int = 0, params: SavingParams | None = None) -> PartFiles:
    """Return open part files of all outputs."""
    return PartFiles(folder, rank, params or saving(folder), OUTPUTS, CONSTANTS, METADATA)


def encoded(files: PartFiles, row: int, frame: int) -> EncodedRow:
    """Return a frame's values, encoded for a row."""
    return EncodedRow(row, files.encode(values(frame)))


def write_run(folder: Path, n_receivers: int, n_frames: int) -> None:
    """Write closed part files and ledger of a run."""
    topology = RoundRobin(n_receivers)
    for rank in range(n_receivers):
        files = part_files(folder, rank)
        rows = topology.rows(rank, n_frames)
        for row in range(rows):
            frame = topology.frame_at(rank, row)
            if not is_lost(frame):
                files.write((encoded(files, row, frame),))
        files.close(rows)
    ledger = LedgerFile(folder / "run_ledger.h5", topology)
    statuses = np.array([3 if is_lost(frame) else 1 for frame in range(n_frames)], "u1")
    ledger.append(statuses, np.arange(n_frames) + 0.5, (statuses == 1).astype("u8"))
    ledger.close(LedgerSummary("0" * 32, n_frames, "triggers", Counts(), {}, Outcome.COMPLETE, ""))
