"""The files of one acquisition on one receiver: one per stream, readable while they are written.

A row is a frame of this receiver's share. Images go to their row at once, as chunks that were compressed elsewhere;
what is small waits for ``flush`` and goes out in runs. Rows that were skipped have no data and read as fill.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import Constant, LocalIdx, Output, OutputKind, SparseFrame
from lima2_processing.result_pool import ResultPools

from ..errors import SavingError
from ..plan import Compression, SavingParams
from .claim import Claim
from .h5 import claim, create, dataset, give_up, group, growing, remove, saving_errors
from .names import part_names
from .row_files import EncodedRow, RowFiles, Value
from .sparse import SparseColumns

SPARSE_GROUP = "sparse_frames"  # the name that pyFAI and FabIO look for
_CHUNK_BYTES = 256 * 1024  # of tables and profiles
_MAX_CHUNK_ROWS = 1024


def dataset_path(output: Output) -> str:
    """Return where a part file holds an output."""
    return f"/entry_0000/{group_name(output.stream)}/{output.name}"


def group_name(stream: str) -> str:
    """Return the group of a part file that holds a stream's datasets."""
    return SPARSE_GROUP if stream == "sparse" else stream


def chunk_rows(output: Output, most: int = 0) -> int:
    """Return how many rows a chunk of an output's dataset holds.

    :param most: rows that there will be; 0: any number.
    """
    if output.kind is OutputKind.IMAGE:
        return 1
    row_bytes = max(1, int(np.prod(output.shape)) * np.dtype(output.dtype).itemsize)
    return max(1, min(most or _MAX_CHUNK_ROWS, _MAX_CHUNK_ROWS, _CHUNK_BYTES // row_bytes))


class PartFiles(RowFiles):
    """All files of one acquisition on one receiver. Made empty; used by one thread, but for ``encode``.

    :param folder: where; made if it is missing.
    :param rank: of the receiver.
    :param saving: which streams are saved, and how.
    :param outputs: everything that a frame gives.
    :param constants: what is saved once.
    :param metadata: text that goes into every file, by name.
    :param ahead: encoded frames that memory is set aside for, so that saving needs none from the system while it runs.
    :param pools: where that memory comes from; None: it is made anew.
    :raises SavingError: a file can't be made; none is left behind.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        saving: SavingParams,
        outputs: Sequence[Output],
        constants: Sequence[Constant],
        metadata: Mapping[str, str],
        ahead: int = 0,
        pools: ResultPools | None = None,
    ) -> None:
        streams = {output.stream for output in outputs}
        enabled = sorted(stream for stream in streams if saving.stream(stream).enabled)
        super().__init__(part_names(saving.filename_prefix, rank, enabled), saving, outputs, ahead, pools)
        self._extent = {False: 0, True: 0}  # rows of frames, and of accumulated windows
        self._streams: dict[str, StreamFile] = {}
        self._claims: list[Claim] = []
        try:
            for stream, name in self.names.items():
                mine = [output for output in self._outputs.values() if output.stream == stream]
                claimed = claim(folder / name, saving.file_exists_policy)
                self._claims.append(claimed)
                self._streams[stream] = StreamFile(claimed, create(claimed), stream, mine, self._compression[stream])
                self._streams[stream].begin([c for c in constants if c.stream == stream], metadata)
        except BaseException:
            self.discard()
            raise

    def write(self, rows: Sequence[EncodedRow]) -> None:
        """Write rows, in any order, each once. With the first, files that these replace are gone for good.

        :raises SavingError: a file can't be written.
        """
        self.keep()
        for row in rows:
            self._write(row, accumulated=False)

    def write_accumulated(self, row: EncodedRow) -> None:
        """Write the values of a window, in any order, each once.

        :param row: its row is the window's number.
        :raises SavingError: a file can't be written.
        """
        self._write(row, accumulated=True)

    def _write(self, row: EncodedRow, accumulated: bool) -> None:
        self._extent[accumulated] = max(self._extent[accumulated], row.row + 1)
        for stream in self._streams.values():
            if stream.accumulated is accumulated:
                stream.write(row)

    def skip(self, row: LocalIdx) -> None:
        """Note that a row will have no data."""
        self._extent[False] = max(self._extent[False], row + 1)
        for stream in self._streams.values():
            stream.skip(row)

    def flush(self, partly: bool = False) -> None:
        """Make all leading rows that were written or skipped readable by other processes, also after a kill.

        :raises SavingError: a file can't be written.
        """
        del partly
        for stream in self._streams.values():
            stream.flush(self._extent[stream.accumulated])

    def holds_back(self, row: LocalIdx) -> bool:
        """Tell no: what was flushed is readable."""
        del row
        return False

    def close(self, rows: int) -> None:
        """Extend every dataset and close the files. Closed already, it does nothing.

        :param rows: frames of this receiver.
        :raises SavingError: a file can't be written; the others are closed all the same.
        """
        failure: SavingError | None = None
        for stream in self._streams.values():
            try:
                stream.close(max(0 if stream.accumulated else rows, self._extent[stream.accumulated]))
            except SavingError as error:
                failure = failure or error
        self._streams.clear()
        if failure is not None:
            raise failure

    def discard(self) -> None:
        """Close and remove the files that this object made, and put back those that they were to replace."""
        for stream in self._streams.values():
            stream.discard()
        self._streams.clear()
        for claimed in self._claims:
            claimed.drop()

    def keep(self) -> None:
        """Let the files go that these replace. Idempotent.

        :raises SavingError: one can't be removed.
        """
        for claimed in self._claims:
            with saving_errors(claimed.path, "replacing the old"):
                claimed.keep()


class StreamFile:
    """One stream's file.

    :param claimed: its path.
    :param opened: it, just made.
    :param outputs: of the stream.
    :param compression: of its images.
    :param per_file: rows that it gets at most, and then it is synced to disk and read only once it is closed; 0: any
        number, and readers are let in from ``begin`` on.
    """

    def __init__(
        self,
        claimed: Claim,
        opened: h5py.File,
        stream: str,
        outputs: Sequence[Output],
        compression: Compression,
        per_file: int = 0,
    ) -> None:
        self.path = claimed.path
        self.accumulated = any(output.window for output in outputs)
        self._claim = claimed
        self._file = opened
        self._name = stream
        self._outputs = outputs
        self._compression = compression
        self._datasets: dict[str, h5py.Dataset] = {}
        self._small: dict[int, Mapping[str, Value]] = {}  # rows that wait for the next flush
        self._sparse: SparseColumns | None = None
        self._per_file = per_file
        self.broken = False  # it can't be trusted any more

    def begin(self, constants: Sequence[Constant], metadata: Mapping[str, str]) -> None:
        """Make all datasets, then let readers in if that is wanted."""
        if len({output.window for output in self._outputs}) > 1:
            raise SavingError(f"stream {self._name}: its outputs have rows of different numbers of frames")
        with saving_errors(self.path, "making"):
            self._file.attrs["default"] = "entry_0000"
            entry = group(self._file, "entry_0000", "NXentry")
            name = group_name(self._name)
            data = group(entry, name, "NXdata")
            entry.attrs["default"] = name
            for key, text in metadata.items():
                entry[key] = text
            for constant in constants:
                made = data.create_dataset(constant.name, data=constant.data)
                made.attrs["units"], made.attrs["long_name"] = constant.unit, constant.label
            for output in self._outputs:
                self._declare(data, output)
            if not self._per_file:
                self._file.swmr_mode = True

    def resume(self, rows: int) -> None:
        """Go on with a file that was closed.

        :param rows: that it has.
        """
        with saving_errors(self.path, "opening"):
            data = group(self._file, f"entry_0000/{group_name(self._name)}", "NXdata")
            for output in self._outputs:
                if output.kind is OutputKind.SPARSE:
                    self._sparse = SparseColumns(self.path, data, output, rows)
                else:
                    self._datasets[output.name] = dataset(data, output.name)

    def _declare(self, data: h5py.Group, output: Output) -> None:
        if output.kind is OutputKind.SPARSE:
            self._sparse = SparseColumns(self.path, data, output)
            return
        compression = self._compression if output.kind is OutputKind.IMAGE else Compression.NONE
        rows = chunk_rows(output, self._per_file)
        made = growing(data, output.name, output.shape, output.dtype, output.fill, rows, compression)
        made.attrs["units"], made.attrs["long_name"] = output.unit, output.label
        if "signal" not in data.attrs and self._sparse is None:
            data.attrs["signal"] = output.name
        self._datasets[output.name] = made

    def write(self, row: EncodedRow) -> None:
        """Write images now, keep the rest for the next flush."""
        small: dict[str, Value] = {}
        with self._writing("writing"):
            for output in self._outputs:
                value = row.values.get(output.name)
                if value is None:
                    continue  # the row reads as fill
                if isinstance(value, SparseFrame):
                    if self._sparse is not None:
                        self._sparse.put(row.row, value)
                elif isinstance(value, np.ndarray):
                    small[output.name] = value
                else:
                    column = self._datasets[output.name]
                    if column.shape[0] <= row.row:
                        column.resize(row.row + 1, axis=0)
                    column.id.write_direct_chunk((row.row, *(0 for _ in output.shape)), value)
        self._small[row.row] = small

    def skip(self, row: LocalIdx) -> None:
        """Note that a row will have no data."""
        if self._sparse is not None:
            self._sparse.put(row, None)

    def flush(self, rows: int) -> None:
        """Write what waits, and give every dataset so many rows at least."""
        with self._writing("flushing"):
            for first, values in _runs(self._small):
                for name in values[0]:
                    column = self._datasets[name]
                    if column.shape[0] < first + len(values):
                        column.resize(first + len(values), axis=0)
                    column[first : first + len(values)] = np.stack([value[name] for value in values])
            self._small.clear()
            for column in self._datasets.values():
                if column.shape[0] < rows:
                    column.resize(rows, axis=0)
            if self._sparse is not None:
                self._sparse.flush()
            self._file.flush()

    def close(self, rows: int) -> None:
        """Give every dataset so many rows at least, and close the file; one that is broken is left as it is."""
        try:
            if self._sparse is not None and not self.broken:
                with self._writing("closing"):
                    self._sparse.finish(rows)
            if not self.broken:
                self.flush(rows)
                with self._writing("closing"):
                    self._close()
        finally:
            give_up(self._file)
            self._claim.written()

    def _close(self) -> None:
        if not self._per_file:
            self._file.close()
            return
        handle = os.dup(self._file.id.get_vfd_handle())  # of the same opening: it hears of every failed write
        try:
            self._file.close()
            os.fsync(handle)
        finally:
            os.close(handle)

    @contextmanager
    def _writing(self, doing: str) -> Iterator[None]:
        """Turn errors into SavingErrors; one of HDF5 or the system means that the file can't be trusted with more."""
        try:
            with saving_errors(self.path, doing):
                yield
        except SavingError as error:
            self.broken = self.broken or isinstance(error.__cause__, OSError | RuntimeError)
            raise

    def discard(self) -> None:
        """Remove the file."""
        remove(self._claim, self._file)


def _runs(rows: Mapping[int, Mapping[str, Value]]) -> list[tuple[int, list[Mapping[str, NDArray[np.generic]]]]]:
    """Split rows into runs of consecutive ones: (first row, values)."""
    found: list[tuple[int, list[Mapping[str, NDArray[np.generic]]]]] = []
    for row in sorted(rows):
        values: Mapping[str, NDArray[np.generic]] = {k: v for k, v in rows[row].items() if isinstance(v, np.ndarray)}
        if found and found[-1][0] + len(found[-1][1]) == row:
            found[-1][1].append(values)
        else:
            found.append((row, [values]))
    return found
