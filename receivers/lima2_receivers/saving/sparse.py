"""The columns of sparse frames, as in pyFAI's ``sparsify-Bragg`` files: ``frame_ptr``, ``index``, ``intensity``."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from lima2_processing.frame import LocalIdx, Output, OutputKind, SparseFrame

from ..errors import SavingError
from .h5 import dataset, growing

_CHUNK_PIXELS = 65536
_CHUNK_FRAMES = 1024


class SparseColumns:
    """Appends sparse frames in the order of rows; a row that comes early waits for those before it.

    :param path: of the file, for errors.
    :param data: the group that holds the columns.
    :param output: the sparse output.
    :param rows: that are there already, in a group that had columns before; None: they are made.
    """

    def __init__(self, path: Path, data: h5py.Group, output: Output, rows: int | None = None) -> None:
        self._path = path
        self._dtype = np.dtype(output.dtype)
        self._waiting: dict[int, SparseFrame | None] = {}
        self._rows = 0
        self._pixels = 0
        if rows is None:
            self._make(data, output)
        else:
            self._resume(data, rows)

    def _make(self, data: h5py.Group, output: Output) -> None:
        data.attrs["dataformat"] = "sparsify-Bragg"
        data.attrs["signal"] = "background_avg"
        data.attrs["axes"] = [".", "radius"]
        self._index = growing(data, "index", (), "<u4", 0, _CHUNK_PIXELS)
        self._intensity = growing(data, "intensity", (), output.dtype, output.fill, _CHUNK_PIXELS)
        self._intensity.attrs["units"] = output.unit
        self._frame_ptr = growing(data, "frame_ptr", (), "<u8", 0, _CHUNK_FRAMES)
        self._frame_ptr.resize(1, axis=0)
        self._frame_ptr[0] = 0

    def _resume(self, data: h5py.Group, rows: int) -> None:
        self._index, self._intensity, self._frame_ptr = (
            dataset(data, name) for name in ("index", "intensity", "frame_ptr")
        )
        self._frame_ptr.resize(rows + 1, axis=0)
        self._rows, self._pixels = rows, len(self._index)

    def put(self, row: LocalIdx, frame: SparseFrame | None) -> None:
        """Take a row's pixels; None: it has none, since it was lost or vetoed.

        :raises SavingError: the row was put before.
        """
        if row < self._rows or row in self._waiting:
            raise SavingError(f"{self._path}: sparse row {row} came twice")
        self._waiting[row] = frame

    def flush(self) -> None:
        """Write the leading rows: pixels first, so that a reader's ``frame_ptr`` never points past the data."""
        frames: list[SparseFrame | None] = []
        while self._rows + len(frames) in self._waiting:
            frames.append(self._waiting.pop(self._rows + len(frames)))
        if not frames:
            return
        sizes = [0 if frame is None else len(frame.index) for frame in frames]
        ends = self._pixels + np.cumsum(sizes, dtype=np.int64)
        present = [frame for frame in frames if frame is not None and len(frame.index)]
        if present:
            for column, parts in (
                (self._index, [frame.index for frame in present]),
                (self._intensity, [frame.intensity.astype(self._dtype, copy=False) for frame in present]),
            ):
                column.resize(int(ends[-1]), axis=0)
                column[self._pixels :] = np.concatenate(parts)
                column.flush()
        last = self._rows + len(frames)
        self._frame_ptr.resize(last + 1, axis=0)
        self._frame_ptr[self._rows + 1 : last + 1] = ends
        self._rows, self._pixels = last, int(ends[-1])

    def finish(self, rows: int) -> None:
        """Give every row up to ``rows`` that never came no pixels, and write all."""
        for row in range(self._rows, rows):
            self._waiting.setdefault(row, None)
        self.flush()


def check_sparse(output: Output, value: object) -> None:
    """See whether a value is a sparse frame as its output declares it.

    :raises SavingError: it is not.
    """
    got = f"a {type(value).__name__}"
    if isinstance(value, SparseFrame):
        index, intensity = value.index, value.intensity
        got = f"index {index.dtype.str} {index.shape}, intensity {intensity.dtype.str} {intensity.shape}"
        fits = index.dtype == np.uint32 and intensity.dtype == np.dtype(output.dtype)
        if output.kind is OutputKind.SPARSE and fits and index.ndim == 1 and index.shape == intensity.shape:
            return
    raise SavingError(f"output {output.name}: got {got}, expected {output.kind} {output.dtype} {output.shape}")
