"""All receivers' frames as one where the master can't say ahead where they are: made when all of them are settled.

A virtual dataset that grows can't follow a table of receivers and rows, nor files of unknown number, so that this file
is written at the end; until then, and in our own readers always, frames are found by the table of the ledger and the
part files.
"""

from __future__ import annotations

from collections.abc import Sequence

import h5py
import numpy as np

from lima2_processing.frame import Output

from ..topology import Places
from .claim import Claim
from .h5 import create, give_up, group, saving_errors
from .mapping import map_frames
from .master import DATA
from .part import dataset_path


class FramesFile:
    """The file, empty until ``write``.

    :param claimed: where it goes.
    :param outputs: the datasets to make, each with its name.
    :param files: stream to part file name, one mapping a receiver.
    :param per_file: rows of each of a receiver's files, ``files`` naming the first; 0: it has one a stream.
    """

    def __init__(
        self,
        claimed: Claim,
        outputs: Sequence[tuple[str, Output]],
        files: Sequence[dict[str, str]],
        per_file: int = 0,
    ) -> None:
        self._claim = claimed
        self._outputs = outputs
        self._files = files
        self._per_file = per_file

    def write(self, places: Places, rows: Sequence[int]) -> None:
        """Write the file.

        :param places: where the frames are; those that have no data in part files are nowhere.
        :param rows: of each receiver's part files.
        :raises SavingError: it can't be written.
        """
        made = create(self._claim)
        try:
            with saving_errors(self._claim.path, "writing"):
                data = group(group(made, "entry_0000", "NXentry"), "measurement", "NXdata")
                for name, output in self._outputs:
                    self._map(data, name, output, places, rows)
                made.close()
        finally:
            give_up(made)
            self._claim.written()

    def keep(self) -> None:
        """Let the file go that this one replaces."""
        with saving_errors(self._claim.path, "replacing the old"):
            self._claim.keep()

    def discard(self) -> None:
        """Remove the file, and put back the one that it was to replace."""
        self._claim.drop()

    def _map(self, data: h5py.Group, name: str, output: Output, places: Places, rows: Sequence[int]) -> None:
        path = dataset_path(output)
        sources = [(files[output.stream], path) for files in self._files]
        fill = np.asarray(output.fill, output.dtype)
        made = map_frames(data, name, output.shape, fill, places, sources, rows, self._per_file)
        made.attrs["units"], made.attrs["long_name"] = output.unit, output.label
        if name == DATA:
            made.attrs["interpretation"] = "image"
