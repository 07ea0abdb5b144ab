"""The latest encoded images of a share, for those who look frames up while they are taken. Any thread may ask."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

from lima2_processing.frame import LocalIdx, SparseFrame

from ..errors import StateError
from ..saving.codecs import Chunk
from ..saving.part import EncodedRow

REMEMBERED = 2  # rows: they take memory beside the ring
LARGEST = 15 * 1024 * 1024  # bytes of an image that fits into a message; a larger one is read from the file


class RecentImages:
    """Holds the images of the rows that were written last.

    :param name: of the acquisition, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._rows: OrderedDict[LocalIdx, Mapping[str, Chunk]] = OrderedDict()

    def put(self, row: EncodedRow) -> None:
        """Remember a row that was written; the oldest is forgotten."""
        images = {name: value for name, value in row.values.items() if not isinstance(value, np.ndarray | SparseFrame)}
        with self._lock:
            self._rows[row.row] = images
            while len(self._rows) > REMEMBERED:
                self._rows.popitem(last=False)

    def get(self, row: LocalIdx, output: str) -> bytes:
        """Return an encoded image.

        :raises StateError: it is not in memory, or too large to be sent.
        """
        with self._lock:
            found = self._rows.get(row, {}).get(output)
            rows = list(self._rows)
        if found is None:
            raise StateError(f"{self._name}: {output} of row {row} is not in memory, rows {rows} are")
        if len(found) > LARGEST:
            raise StateError(f"{self._name}: {output} of row {row} has {len(found)} bytes, {LARGEST} can be sent")
        return bytes(found)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._rows.clear()
