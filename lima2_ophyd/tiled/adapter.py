"""Reads arrays of HDF5 files for a Tiled server: one frame of a virtual dataset by reading one frame.

Tiled's own adapter takes a virtual dataset for one chunk and reads all of it. This one slices the dataset itself. HDF5
shares an open file inside a process, so that a second open would see the first one's stale extent: a lock holds from
open to close, and long reads let go of it between pieces.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import prod
from typing import Any, cast

import h5py
import hdf5plugin  # noqa: F401 - registers the decompressors
import numpy as np
from numpy.typing import NDArray
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.hdf5 import HDF5Adapter, HDF5ArrayAdapter, h5open
from tiled.adapters.utils import DataNotReadyError
from tiled.catalog.orm import Node
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.array import ArrayStructure
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import DataSource
from tiled.utils import path_from_uri

from .sparse import DATASET as SPARSE_DATASET
from .sparse import SparseStack
from .table import TableStack, is_table

PIECE_BYTES = 16 * 1024 * 1024
"""How much is read under the lock at a time; one frame where a frame is larger."""

_lock = threading.Lock()
Opener = Callable[[], h5open | SparseStack | TableStack]


class Lima2ArrayAdapter(ArrayAdapter):
    """A dataset that grows by a row a frame, also while it is written.

    :param open_dataset: opens the dataset, as a context manager.
    :param structure: as the catalog has it; with several frames an event, (events, frames, ...).
    """

    def __init__(self, open_dataset: Opener, structure: ArrayStructure, **more: Any) -> None:
        super().__init__(np.empty(0), structure, **more)
        self._open_dataset = open_dataset

    def read(self, slice: NDSlice = NDSlice(...)) -> NDArray[Any]:  # noqa: A002, B008 - Tiled's names
        """Read a part of the array."""
        return self._read(tuple(slice) if slice else ())

    def read_block(self, block: NDBlock, slice: NDSlice = NDSlice(...)) -> NDArray[Any]:  # noqa: A002, B008
        """Read a part of a block.

        :param block: which block, along each axis.
        :param slice: the part of it; nothing outside of the block.
        """
        chunks = self._structure.chunks
        if slice and (first := _first_axis(tuple(slice))) is not None:
            # The first axis goes into what is read, so that one frame of a block is one frame read.
            bounds = block.slice_from_chunks(chunks)
            rows = range(*_as_slice(bounds[0]).indices(self._structure.shape[0]))[first]
            one = rows if isinstance(rows, int) else _any_slice(rows)
            part = self._read((one, *bounds[1:]))
            rest = tuple(slice)[1:]
            return part[rest] if isinstance(rows, int) else part[(np.s_[:], *rest)]
        part = self._read(tuple(block.slice_from_chunks(chunks)))
        return part[tuple(slice)] if slice else part

    def _read(self, index: tuple[Any, ...]) -> NDArray[Any]:
        shape = self._structure.shape
        forward, after = _normalise(index, shape)
        rows, rest = forward[0], forward[1:]
        row_bytes = max(1, prod(shape[1:]) * self._structure.data_type.to_numpy_dtype().itemsize)
        step = max(1, PIECE_BYTES // row_bytes)
        pieces = [self._read_rows(rows[at : at + step], rest, shape) for at in range(0, len(rows), step)]
        if not pieces:
            pieces = [np.empty((0, *(len(part) for part in rest)), self._structure.data_type.to_numpy_dtype())]
        return np.concatenate(pieces)[after] if len(pieces) > 1 else pieces[0][after]

    def _read_rows(self, rows: range, rest: tuple[range, ...], shape: tuple[int, ...]) -> NDArray[Any]:
        dtype = self._structure.data_type.to_numpy_dtype()
        try:
            with _lock, self._open_dataset() as dataset:
                if not isinstance(dataset, h5py.Dataset | SparseStack | TableStack):
                    raise TypeError(f"{dataset.name} of {dataset.file.filename} is a group, expected a dataset")
                if dataset.shape[1:] == shape[1:]:
                    found = dataset[(rising_slice(rows), *(rising_slice(part) for part in rest))]
                    return _pad(found, len(rows), dataset.fillvalue, dtype)
                if dataset.shape[1:] == shape[2:]:
                    per_row = shape[1]
                    first, last = rows[0] * per_row, (rows[-1] + 1) * per_row
                    found = _pad(dataset[first:last], last - first, dataset.fillvalue, dtype)
                    whole = found.reshape(-1, per_row, *shape[2:])[:: rows.step]
                    return whole[(np.s_[:], *(rising_slice(part) for part in rest))]
                raise ValueError(f"{dataset.name}: got shape {dataset.shape}, the catalog has {shape}")
        except OSError as error:
            raise DataNotReadyError(str(error)) from error


class Lima2HDF5Adapter(HDF5Adapter):
    """What ``adapters_by_mimetype`` names: single arrays are read directly, whole files as Tiled does."""

    @classmethod
    def from_catalog(  # pyright: ignore[reportIncompatibleMethodOverride] - another kind of array adapter
        cls,
        data_source: DataSource[ArrayStructure | None],
        node: Node,
        /,
        dataset: str | list[str] = "/",
        swmr: bool = True,
        libver: str = "latest",
        locking: bool | str | None = None,
        **more: Any,
    ) -> HDF5Adapter | HDF5ArrayAdapter | Lima2ArrayAdapter:
        """Make the adapter of a node of the catalog; see Tiled's HDF5Adapter for the parameters."""
        structure = data_source.structure
        single = data_source.structure_family == StructureFamily.array and len(data_source.assets) == 1
        if not single or structure is None or any(more.values()) or not structure.shape:
            return super().from_catalog(
                data_source, node, dataset=dataset, swmr=swmr, libver=libver, locking=locking, **more
            )
        path = path_from_uri(data_source.assets[0].data_uri)
        name = dataset if isinstance(dataset, str) else "/".join(dataset)

        def open_dataset() -> h5open | SparseStack | TableStack:
            if name == SPARSE_DATASET:
                return SparseStack(str(path), structure.shape[-2:])
            if is_table(str(path), name):
                return TableStack(str(path), name)
            return h5open(path, name, swmr=swmr, libver=libver, locking=False)

        return Lima2ArrayAdapter(
            open_dataset, structure, metadata=dict(cast("dict[str, Any]", node.metadata_)), specs=node.specs
        )


def rising_slice(rows: range) -> slice:
    """Return the slice that selects a range of non-negative numbers, in rising order."""
    return slice(rows.start, rows.stop, rows.step)


def _any_slice(rows: range) -> slice:
    return slice(rows.start, rows.stop if rows.stop >= 0 else None, rows.step) if rows else slice(0, 0)


def _first_axis(index: tuple[Any, ...]) -> Any:
    first = index[0] if index else Ellipsis
    return None if first is Ellipsis else first


def _as_slice(item: Any) -> slice:
    return item if isinstance(item, slice) else slice(item, item + 1)


def _normalise(index: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[tuple[range, ...], tuple[Any, ...]]:
    """Return what to read, as rising ranges along every axis, and how to index the result to get what was asked for."""
    items = list(index)
    if Ellipsis in items:
        at = items.index(Ellipsis)
        items[at : at + 1] = [slice(None)] * (len(shape) - len(items) + 1)
    items += [slice(None)] * (len(shape) - len(items))
    forward: list[range] = []
    after: list[Any] = []
    for item, length in zip(items, shape, strict=True):
        if isinstance(item, slice):
            rows = range(length)[item]
            forward.append(rows if rows.step > 0 else rows[::-1])
            after.append(slice(None) if rows.step > 0 else slice(None, None, -1))
        else:
            row = range(length)[item]
            forward.append(range(row, row + 1))
            after.append(0)
    return tuple(forward), tuple(after)


def _pad(found: NDArray[Any], rows: int, fill: Any, dtype: np.dtype) -> NDArray[Any]:
    """Give rows that a tail of lost frames left out of the file the fill value."""
    if found.dtype != dtype:
        raise ValueError(f"got {found.dtype} in the file, the catalog has {dtype}")
    if len(found) >= rows:
        return found
    return np.concatenate([found, np.full((rows - len(found), *found.shape[1:]), fill, dtype)])
