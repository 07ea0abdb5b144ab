"""The files of one acquisition on one receiver, closed one after the other, and read only once they are.

File k has ``per_file`` rows, from row k * ``per_file`` on. It is written under another name, closed, synced to disk,
and renamed: nothing that readers can see ever changes, so that file systems without SWMR's guarantees will do. A file
that had to be closed early is copied when more rows come for it, and the copy replaces it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import h5py

from lima2_processing.frame import Constant, LocalIdx, Output
from lima2_processing.result_pool import ResultPools

from ..errors import SavingError
from ..plan import FileExistsPolicy, SavingParams
from ..rollover import nth_name
from .claim import ASIDE, Claim
from .h5 import CACHE_BYTES, claim, create, remove, saving_errors
from .names import numbered_files, part_names
from .part import StreamFile
from .publish import publish, unpublished
from .row_files import EncodedRow, RowFiles


class RollingFiles(RowFiles):
    """All files of one acquisition on one receiver. Made with the first file of each stream, empty.

    Sums over windows are in one file, closed at the end.

    :param folder: where; made if it is missing.
    :param rank: of the receiver.
    :param saving: which streams are saved, and how.
    :param outputs: everything that a frame gives.
    :param constants: what is saved once, in the first file.
    :param metadata: text that goes into every file, by name.
    :param per_file: rows of a file.
    :param planned: rows that there are to be, so that the last file is as long as the master says; 0: any number.
    :param ahead: encoded frames that memory is set aside for.
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
        per_file: int,
        planned: int = 0,
        ahead: int = 0,
        pools: ResultPools | None = None,
    ) -> None:
        streams = {output.stream for output in outputs}
        enabled = sorted(stream for stream in streams if saving.stream(stream).enabled)
        names = part_names(saving.filename_prefix, rank, enabled, rolling=True)
        super().__init__(names, saving, outputs, ahead, pools)
        self._folder = folder
        self._constants = constants
        self._metadata = metadata
        self._per_file = per_file
        self._planned = planned
        by_window = {output.stream for output in self._outputs.values() if output.window}
        self._by_frame = [stream for stream in self.names if stream not in by_window]
        self._old = _OldFiles(folder, self.names.values(), saving.file_exists_policy)
        self._volumes: dict[int, _Volume] = {}  # those that may still get rows
        self._published: list[Path] = []
        self._sums = _Volume(0, {stream: folder / self.names[stream] for stream in self.names if stream in by_window})
        try:
            self._open(self._sums)
            self._open(self._volume(0))
        except BaseException:
            self.discard()
            raise

    def write(self, rows: Sequence[EncodedRow]) -> None:
        """Write rows, in any order, each once. With the first, files that these replace are gone for good."""
        self.keep()
        for row in rows:
            volume = self._volume(row.row // self._per_file)
            self._open(volume)
            volume.write(EncodedRow(LocalIdx(row.row % self._per_file), row.values))

    def write_accumulated(self, row: EncodedRow) -> None:
        """Write the values of a window, in any order, each once."""
        self._sums.write(row)

    def skip(self, row: LocalIdx) -> None:
        """Note that a row will have no data; a file of such rows alone is not made."""
        self._volume(row // self._per_file).skip(LocalIdx(row % self._per_file))

    def flush(self, partly: bool = False) -> None:
        """Close the files that are full, and write what is small into the others.

        :param partly: True: close all of them.
        """
        for volume in list(self._volumes.values()):
            full = volume.known >= self._per_file
            if volume.is_open and (full or partly):
                self._publish(volume)
            elif volume.is_open:
                volume.flush()
            if full:
                del self._volumes[volume.number]

    def holds_back(self, row: LocalIdx) -> bool:
        """Tell whether the file of a row is still open."""
        volume = self._volumes.get(row // self._per_file)
        return volume is not None and volume.is_open

    def close(self, rows: int) -> None:
        """Close all files. Closed already, it does nothing."""
        del rows
        failure: SavingError | None = None
        for volume in (*self._volumes.values(), self._sums):
            try:
                if volume.is_open:
                    self._publish(volume)
            except SavingError as error:
                failure = failure or error
        self._volumes.clear()
        if failure is not None:
            raise failure

    def discard(self) -> None:
        """Close and remove the files that this object made, and put back those that they were to replace."""
        for volume in (*self._volumes.values(), self._sums):
            volume.discard()
        self._volumes.clear()
        for path in self._published:
            path.unlink(missing_ok=True)
        self._published.clear()
        self._old.restore()

    def keep(self) -> None:
        """Let the files go that these replace. Idempotent."""
        self._old.drop()

    def _volume(self, number: int) -> _Volume:
        if number not in self._volumes:
            paths = {stream: self._folder / nth_name(self.names[stream], number) for stream in self._by_frame}
            self._volumes[number] = _Volume(number, paths)
        return self._volumes[number]

    def _open(self, volume: _Volume) -> None:
        if not volume.is_open:
            volume.open(self._continue if volume.published else self._make)

    def _publish(self, volume: _Volume) -> None:
        rows = volume.extent
        if self._planned and volume is not self._sums:
            rows = max(rows, min(self._per_file, self._planned - volume.number * self._per_file))
        self._published += volume.publish(rows)

    def _make(self, stream: str, path: Path, _: int) -> StreamFile:
        claimed = claim(unpublished(path), FileExistsPolicy.ABORT)
        opened = create(claimed)
        made = self._stream_file(stream, claimed, opened)
        try:
            opened.attrs["file_name"] = path.name
            first = path.name == self.names[stream]
            made.begin([c for c in self._constants if c.stream == stream and first], self._metadata)
        except BaseException:
            made.discard()
            raise
        return made

    def _continue(self, stream: str, path: Path, rows: int) -> StreamFile:
        claimed = claim(unpublished(path), FileExistsPolicy.ABORT)
        try:
            with saving_errors(claimed.path, "copying"):
                shutil.copyfile(path, claimed.path)
                opened = h5py.File(claimed.path, "r+", libver="latest", locking=False, rdcc_nbytes=CACHE_BYTES)
        except BaseException:
            claimed.drop()
            raise
        made = self._stream_file(stream, claimed, opened)
        try:
            made.resume(rows)
        except BaseException:
            remove(claimed, opened)
            raise
        return made

    def _stream_file(self, stream: str, claimed: Claim, opened: h5py.File) -> StreamFile:
        mine = [output for output in self._outputs.values() if output.stream == stream]
        return StreamFile(claimed, opened, stream, mine, self._compression[stream], self._per_file)


@dataclass(slots=True, eq=False)
class _Volume:
    """The files of one number, one a stream.

    :param paths: of each stream.
    :param known: rows of which it is known what they hold.
    :param extent: rows up to the last of them.
    :param published: whether a file of that name is there, which may have fewer rows.
    """

    number: int
    paths: Mapping[str, Path]
    known: int = 0
    extent: int = 0
    published: bool = False
    _rows: int = 0  # that were published
    _streams: list[StreamFile] = field(default_factory=list)
    _skipped: list[LocalIdx] = field(default_factory=list)  # while it was not open

    @property
    def is_open(self) -> bool:
        """Whether it is being written."""
        return bool(self._streams)

    def open(self, make: Callable[[str, Path, int], StreamFile]) -> None:
        """Open the files.

        :param make: a file of a stream and path that has some rows.
        """
        try:
            for stream, path in self.paths.items():
                self._streams.append(make(stream, path, self._rows))
        except BaseException:
            self.discard()
            raise
        for row in self._skipped:
            self._skip(row)
        self._skipped.clear()

    def write(self, row: EncodedRow) -> None:
        self._note(row.row)
        for stream in self._streams:
            stream.write(row)

    def skip(self, row: LocalIdx) -> None:
        self._note(row)
        if self.is_open:
            self._skip(row)
        else:
            self._skipped.append(row)

    def _note(self, row: int) -> None:
        self.known += 1
        self.extent = max(self.extent, row + 1)

    def _skip(self, row: LocalIdx) -> None:
        for stream in self._streams:
            stream.skip(row)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush(self.extent)

    def publish(self, rows: int) -> list[Path]:
        """Close the files and let readers see them; those that can't be trusted are removed.

        :param rows: of each.
        :returns: what is there now.
        """
        streams, self._streams = self._streams, []
        try:
            for stream in streams:
                stream.close(rows)
            if any(stream.broken for stream in streams):  # and somebody was told
                self._remove(streams)
                return []
            paths = list(self.paths.values())
            with saving_errors(paths[0], "renaming"):
                publish(paths)
        except BaseException:
            self._remove(streams)
            raise
        self.published, self._rows = True, self.extent
        return paths

    def discard(self) -> None:
        streams, self._streams = self._streams, []
        self._remove(streams)

    def _remove(self, streams: Sequence[StreamFile]) -> None:
        for stream in streams:
            stream.discard()


class _OldFiles:
    """The files that those of an acquisition replace: they wait under other names.

    :param firsts: name of the first file of each stream.
    :raises SavingError: there are some, and they are not to be overwritten.
    """

    def __init__(self, folder: Path, firsts: Iterable[str], policy: FileExistsPolicy) -> None:
        self._folder = folder
        self._names: list[str] = []
        with saving_errors(folder, "looking into"):
            found = [name for first in firsts for name in numbered_files(folder, first)]
        if found and policy is FileExistsPolicy.ABORT:
            raise SavingError(f"making {folder / found[0]}: File exists")
        try:
            for name in found:
                with saving_errors(folder / name, "renaming"):
                    (folder / name).replace(folder / (name + ASIDE))
                self._names.append(name)
        except BaseException:
            self.restore()
            raise

    def drop(self) -> None:
        """Remove them. Idempotent."""
        while self._names:
            path = self._folder / (self._names[-1] + ASIDE)
            with saving_errors(path, "removing"):
                path.unlink(missing_ok=True)
            self._names.pop()

    def restore(self) -> None:
        """Put them back."""
        while self._names:
            name = self._names.pop()
            with suppress(FileNotFoundError):
                (self._folder / (name + ASIDE)).replace(self._folder / name)
