"""Where a Jungfrau's packets belong."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameSpec

from ...plan import FileExistsPolicy
from ...source import REFUSED, STRANGE, Located, PacketSource, Run, Surveyed
from .packets import HEADER, JUNGFRAU, PACKET, PACKETS, PIXELS_BYTES, ROWS_A_PACKET, VERSION
from .params import JungfrauParams, JungfrauSettings, frame_spec
from .raw_files import RawFiles, raw_file_names

# Of a header's six 64-bit words, the bits that tell where a packet belongs.
_MASK = np.array([2**64 - 1, 0xFFFFFFFF << 32, 0, 0, 0xFFFFFFFF << 16, 0xFFFF << 48], "<u8")
_PLACE = 0xFFFFFFFF << 16  # row and column, of the fifth word


class JungfrauSource(PacketSource[JungfrauSettings, JungfrauParams]):
    """Finds a packet's place by its frame's number, its module's row and column, and its own number.

    The detector counts frames over all acquisitions: ``series`` is the number of this one's first frame. A number below
    it is a straggler of an earlier one, also across the end of the 64 bits.
    """

    header_bytes = HEADER.itemsize
    payload_bytes = PIXELS_BYTES

    def __init__(self, settings: JungfrauSettings, params: JungfrauParams, spec: FrameSpec, series: int) -> None:
        super().__init__(settings, params, spec, series)
        down, self._columns = settings.modules
        self._rows = down * settings.interfaces
        self._per_port = PACKETS // settings.interfaces
        count = spec.shape[1] // ROWS_A_PACKET  # packets that are sent of a module
        self._first = (PACKETS - count) // 2
        self._count = count
        # By row and column: place of the module's first packet, were all of its packets sent.
        row, column = np.indices((self._rows, self._columns))
        module = row // settings.interfaces * self._columns + column - (spec.part.first if spec.part else 0)
        self._half = row % settings.interfaces * self._per_port - self._first
        self._base = module * count + self._half
        self._own = (module >= 0) & (module < spec.n_modules)  # where this receiver has only some modules
        places = product(range(self._rows), range(self._columns))
        self._expected = {self._key(at): self._headers(at) for at in places if self._own[at]}
        self._sizes = np.full(PACKETS, PACKET.itemsize, np.uint32).tobytes()

    @classmethod
    def survey(
        cls, settings: JungfrauSettings, packets: NDArray[np.uint8], sizes: NDArray[np.uint32]
    ) -> Surveyed | None:
        """Return the first frame's number, and how many rows were read out, by the numbers of the packets.

        The rows are those around a module's middle, so that the outermost packet on either side tells.
        """
        header = packets.view(PACKET)[:, 0]["header"]
        down, across = settings.modules
        per_port = PACKETS // settings.interfaces
        valid = (sizes == PACKET.itemsize) & (header["type"] == JUNGFRAU) & (header["version"] == VERSION)
        valid &= (header["row"] < down * settings.interfaces) & (header["column"] < across)
        valid &= header["packet"] < per_port
        if not valid.any():
            return None
        header = header[valid]
        at = header["row"] % settings.interfaces * per_port + header["packet"].astype(np.int64)
        first = min(int(at.min()), PACKETS - 1 - int(at.max()))
        spec = frame_spec(settings, (PACKETS - 2 * first) * ROWS_A_PACKET)
        return Surveyed(int(header["frame"].min()), spec)

    @property
    def keeps_partial(self) -> bool:
        """Whether frames that miss packets are processed and saved all the same."""
        return self.params.partial_frames == "process"

    def file_names(self, prefix: str, rank: int) -> tuple[str, ...]:
        """Return the names of the files that packets are saved in; none: they aren't."""
        return raw_file_names(prefix, rank, self.spec.n_modules) if self.params.save_packets else ()

    def make_files(self, folder: Path, prefix: str, rank: int, policy: FileExistsPolicy) -> RawFiles | None:
        """Make these files, empty; None: there are none."""
        if not self.params.save_packets:
            return None
        return RawFiles(folder, prefix, rank, self.spec, self._grid(), policy)

    def _grid(self) -> tuple[int, int]:
        """Return how the modules of this receiver lie (down, across); below each other if not in whole rows."""
        across = self.settings.modules[1]
        part, n = self.spec.part, self.spec.n_modules
        whole_rows = part is None or (part.first % across == 0 and n % across == 0)
        return (n // across, across) if whole_rows else (n, 1)

    def locate(self, packets: NDArray[np.uint8], sizes: NDArray[np.uint32]) -> Located | Run:
        """Return where packets belong; see ``PacketSource.locate``."""
        return self._locate_run(packets, sizes) or self._locate_each(packets, sizes)

    def _locate_run(self, packets: NDArray[np.uint8], sizes: NDArray[np.uint32]) -> Run | None:
        """Return where packets belong if they are of one frame and in order; None: they aren't.

        It compares the headers with those that would follow the first, which is several times faster than looking into
        each.
        """
        words = packets[:, : HEADER.itemsize].copy().view("<u8")
        number, packet, place = words[0, 0], int(words[0, 1]) >> 32, int(words[0, 4]) & _PLACE
        if (expected := self._expected.get(place)) is None:
            return None
        words &= _MASK
        words[:, 0] -= number
        base, lowest, headers = expected
        at = HEADER.itemsize * (packet - lowest)
        if at < 0 or words.tobytes() != headers[at : at + HEADER.itemsize * len(words)]:
            return None
        if sizes.tobytes() != self._sizes[: 4 * len(words)]:
            return None
        index = (int(number) - self.series) % 2**64
        return Run(index if index < 2**63 else STRANGE, base + packet)

    def _key(self, at: tuple[int, int]) -> int:
        """Return row and column as they are in a header's fifth word."""
        return at[0] << 16 | at[1] << 32

    def _headers(self, at: tuple[int, int]) -> tuple[int, int, bytes]:
        """Return the place of packet 0 of a port, the first packet that is read out, and the masked headers of all."""
        lowest = max(0, -int(self._half[at]))
        highest = min(self._per_port, self._count - int(self._half[at]))
        headers = np.zeros(max(0, highest - lowest), HEADER)
        headers["packet"] = np.arange(lowest, highest)
        headers["row"], headers["column"], headers["type"], headers["version"] = *at, JUNGFRAU, VERSION
        return int(self._base[at]), lowest, headers.tobytes()

    def _locate_each(self, packets: NDArray[np.uint8], sizes: NDArray[np.uint32]) -> Located:
        header = packets.view(PACKET)[:, 0]["header"]
        frames = (header["frame"] - np.uint64(self.series)).view(np.int64)
        frames = np.maximum(frames, STRANGE)
        row, column, packet = header["row"], header["column"], header["packet"]
        valid = (sizes == PACKET.itemsize) & (header["type"] == JUNGFRAU) & (header["version"] == VERSION)
        valid &= (row < self._rows) & (column < self._columns) & (packet < self._per_port)
        if not valid.all():
            row, column = np.where(valid, row, 0), np.where(valid, column, 0)
        valid &= self._own[row, column]
        within = self._half[row, column] + packet.astype(np.int64)  # packets from the first that is read out
        valid &= (within >= 0) & (within < self._count)
        if valid.all():
            return Located(frames, self._base[row, column] + packet)
        frames = np.where(valid, frames, REFUSED)
        refused = np.flatnonzero(~valid)
        refusals = Counter(self._refusal(header[at], int(sizes[at])) for at in refused.tolist())
        return Located(frames, self._base[row, column] + packet, refusals)

    def _refusal(self, header: np.void, size: int) -> str:
        """Return what is wrong with a packet."""
        if size != PACKET.itemsize:
            return f"it has {size} bytes, expected {PACKET.itemsize}"
        if (got := (int(header["type"]), int(header["version"]))) != (JUNGFRAU, VERSION):
            return f"it is of detector type {got[0]}, version {got[1]}, expected {JUNGFRAU} and {VERSION}"
        row, column = int(header["row"]), int(header["column"])
        if row >= self._rows or column >= self._columns:
            return f"it is of row {row}, column {column}, expected less than {self._rows} and {self._columns}"
        if not self._own[row, column]:
            return f"it is of row {row}, column {column}, a module of another receiver"
        return f"it is packet {int(header['packet'])} of row {row}, expected one of the {self._count} of a module"
