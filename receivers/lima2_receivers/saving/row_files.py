"""What saves a share's rows: encoding them beside other threads, and what every layout of files can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import LocalIdx, Output, OutputKind, SparseFrame
from lima2_processing.result_pool import ResultPool, ResultPools

from ..errors import SavingError
from ..packing import PackedImage
from ..plan import Compression, SavingParams
from .codecs import Chunk, encode, room_bytes
from .sparse import check_sparse

Value = Chunk | NDArray[np.generic] | SparseFrame


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One frame's values as they go to the files.

    :param row: where.
    :param values: by output name; images are encoded chunks.
    """

    row: LocalIdx
    values: Mapping[str, Value]


class RowFiles(ABC):
    """The files of one acquisition on one receiver. Used by one thread, but for ``encode``.

    :param names: of the first file of each stream that is saved.
    :param saving: how it is saved.
    :param outputs: everything that a frame gives.
    :param ahead: encoded frames that memory is set aside for, so that saving needs none from the system while it runs.
    :param pools: where that memory comes from; None: it is made anew.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        saving: SavingParams,
        outputs: Sequence[Output],
        ahead: int,
        pools: ResultPools | None = None,
    ) -> None:
        self.names = dict(names)
        self._outputs = {output.name: output for output in outputs if output.stream in self.names}
        self._compression = {stream: saving.stream(stream).compression for stream in self.names}
        self._rooms = self._make_rooms(ahead, pools or ResultPools())

    def takes_packed(self, name: str) -> bool:
        """Tell whether a bitshuffled image can go to the file of an output as it came, or to none at all."""
        output = self._outputs.get(name)
        return output is None or self._compression[output.stream] is Compression.BSHUF_LZ4

    def compression(self, name: str) -> Compression:
        """Return how the images of an output are stored.

        :raises SavingError: it is not saved.
        """
        output = self._outputs.get(name)
        if output is None:
            raise SavingError(f"output {name} is not saved")
        return self._compression[output.stream]

    def _make_rooms(self, ahead: int, pools: ResultPools) -> dict[str, ResultPool]:
        rooms: dict[str, ResultPool] = {}
        sizes: set[tuple[int, int]] = set()
        for name, output in self._outputs.items():
            if output.kind is OutputKind.IMAGE and not output.window:
                size = room_bytes(self._compression[output.stream], output.shape, output.dtype)
                if size:
                    rooms[name] = pools.get(size, ahead)
                    sizes.add((size, ahead))
        pools.keep_only(sizes)
        return rooms

    def encode(
        self, values: Mapping[str, NDArray[np.generic] | PackedImage | SparseFrame], accumulated: bool = False
    ) -> dict[str, Value]:
        """Return the values of those outputs that are saved, images compressed. Any thread may call it.

        :param accumulated: these are values of a window, not of a frame.
        :raises SavingError: an output is missing, or a value has another shape or type than was declared.
        """
        encoded: dict[str, Value] = {}
        for name, output in self._outputs.items():
            if bool(output.window) is not accumulated:
                continue
            value = values.get(name)
            if value is None and output.optional:
                continue
            if value is None:
                raise SavingError(f"output {name}: got nothing, expected {output.dtype} {output.shape}")
            if isinstance(value, PackedImage):
                encoded[name] = value.data  # whoever has it asked ``takes_packed``
                continue
            if isinstance(value, SparseFrame) or output.kind is OutputKind.SPARSE:
                check_sparse(output, value)
            else:
                value = np.asarray(value)
                if value.shape != output.shape or value.dtype != np.dtype(output.dtype):
                    got = f"{value.dtype.str} {value.shape}"
                    raise SavingError(f"output {name}: got {got}, expected {output.dtype} {output.shape}")
                if output.kind is OutputKind.IMAGE:
                    rooms = self._rooms.get(name)
                    encoded[name] = encode(self._compression[output.stream], value, rooms and rooms.take())
                    continue
            encoded[name] = value
        return encoded

    @abstractmethod
    def write(self, rows: Sequence[EncodedRow]) -> None:
        """Write rows, in any order, each once. With the first, files that these replace are gone for good.

        :raises SavingError: a file can't be written.
        """

    @abstractmethod
    def write_accumulated(self, row: EncodedRow) -> None:
        """Write the values of a window, in any order, each once.

        :param row: its row is the window's number.
        :raises SavingError: a file can't be written.
        """

    @abstractmethod
    def skip(self, row: LocalIdx) -> None:
        """Note that a row will have no data."""

    @abstractmethod
    def flush(self, partly: bool = False) -> None:
        """Make rows readable by other processes, also after a kill: those that ``holds_back`` denies.

        :param partly: True: also those in files that have room for more rows.
        :raises SavingError: a file can't be written.
        """

    @abstractmethod
    def holds_back(self, row: LocalIdx) -> bool:
        """Tell whether a row that was written can't be read before its file is closed."""

    @abstractmethod
    def close(self, rows: int) -> None:
        """Close the files. Closed already, it does nothing.

        :param rows: frames of this receiver.
        :raises SavingError: a file can't be written; the others are closed all the same.
        """

    @abstractmethod
    def discard(self) -> None:
        """Close and remove the files that this object made, and put back those that they were to replace."""

    @abstractmethod
    def keep(self) -> None:
        """Let the files go that these replace. Idempotent.

        :raises SavingError: one can't be removed.
        """
