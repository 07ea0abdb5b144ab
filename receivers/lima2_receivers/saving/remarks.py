"""A file of what a detector says beside its pixels: CBOR items in the order that they came (RFC 8742)."""

from __future__ import annotations

from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import cbor2

from ..errors import SavingError
from ..plan import FileExistsPolicy
from .h5 import claim, saving_errors


class RemarkFile:
    """Keeps remarks. Made empty; used by one thread at a time.

    :param path: missing folders are made.
    :param policy: what happens where a file is there already.
    :raises SavingError: it can't be made.
    """

    def __init__(self, path: Path, policy: FileExistsPolicy) -> None:
        self._claim = claim(path, policy)
        try:
            with saving_errors(path, "making"):
                self._file = FileIO(path, "wb")
        except BaseException:
            self._claim.drop()
            raise

    def write(self, data: bytes) -> None:
        """Append an item.

        :raises SavingError: it can't be written.
        """
        path = self._claim.path
        with saving_errors(path, "writing"):
            written = self._file.write(data)
        if written != len(data):
            raise SavingError(f"writing {path}: got room for {written} of {len(data)} bytes: is the disk full?")

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()
        self._claim.written()

    def keep(self) -> None:
        """Let it stay, and the one that it replaced go."""
        self._claim.keep()

    def discard(self) -> None:
        """Remove it, and put back the one that it was to replace."""
        self._file.close()
        self._claim.drop()


def read_remarks(path: Path) -> Iterator[object]:
    """Yield the items of a file; one at its end that is cut off is left out.

    :raises SavingError: it can't be read, or holds something else.
    """
    with saving_errors(path, "reading"), path.open("rb") as file:
        decoder = cbor2.CBORDecoder(file)
        while True:
            try:
                yield decoder.decode()
            except cbor2.CBORDecodeEOF:
                return
            except cbor2.CBORDecodeError as error:
                raise SavingError(f"reading {path}: {error}, expected items of CBOR") from error
