"""The truth that a simulated detector keeps: what it sent, and what was in it. For checks of everything behind it."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

import msgspec
from msgspec import Struct


class Spot(Struct, frozen=True, array_like=True):
    """A Bragg spot that was simulated.

    :param row: of its centre in the assembled image; pixel centres are whole numbers.
    :param col: of its centre.
    :param photons: that it has in all.
    """

    row: float
    col: float
    photons: float


class Scene(Struct, frozen=True):
    """One of the distinct frames that are sent in turn.

    :param crc32: of its raw bytes.
    :param spots: what is in it; empty where it is not known or there are none.
    """

    crc32: int
    spots: tuple[Spot, ...] = ()


class Sent(Struct, frozen=True):
    """One frame of a series.

    :param index: its number.
    :param scene: which distinct frame it is.
    :param receiver: where it went.
    :param fate: ``sent``, ``lost`` (on purpose) or ``dropped`` (its receiver did not take it).
    :param timestamp: as stamped on the frame; seconds since the epoch.
    :param missing: packets, messages or completion records of it that got lost on the way (on purpose).
    :param crc32: of its raw bytes, where the scenes are not known before they are sent.
    """

    index: int
    scene: int
    receiver: int
    fate: str
    timestamp: float = 0.0
    missing: int = 0
    crc32: int = 0


class Journal(Struct, frozen=True):
    """Everything that a series sent.

    :param scenes: the distinct frames; empty: each frame that was sent has its own.
    :param sent: frames in the order of their numbers.
    """

    scenes: tuple[Scene, ...]
    sent: tuple[Sent, ...]

    def scene_of(self, frame: int) -> Scene:
        """Return what was in a frame."""
        sent = self.sent[frame]
        return self.scenes[sent.scene] if self.scenes else Scene(sent.crc32)


class JournalWriter:
    """Writes a series' journal as lines of JSON, each readable at once.

    :param folder: where; made if it is missing.
    :param series: number of the series.
    :param scenes: the distinct frames, where they are known.
    """

    def __init__(self, folder: Path, series: int, scenes: tuple[Scene, ...]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = journal_path(folder, series).open("w", buffering=1)
        self._write(list(scenes))

    def note(self, sent: Sent) -> None:
        """Write down a frame."""
        self._write(sent)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: Struct | list[Scene]) -> None:
        self._file.write(msgspec.json.encode(line).decode() + "\n")


def journal_path(folder: Path, series: int) -> Path:
    """Return where a series' journal is."""
    return folder / f"journal_{series}.jsonl"


def latest_journal(folder: Path) -> Path:
    """Return the journal of the newest series in a folder.

    :raises FileNotFoundError: there is none.
    """
    found = sorted(folder.glob("journal_*.jsonl"), key=lambda path: int(path.stem.removeprefix("journal_")))
    if not found:
        raise FileNotFoundError(f"no journal_*.jsonl in {folder}")
    return found[-1]


def read_journal(path: Path) -> Journal:
    """Read a journal; a last line that is cut off is left out."""
    first, *rest = path.read_text().splitlines(keepends=True)
    scenes = msgspec.json.decode(first, type=tuple[Scene, ...])
    sent = tuple(msgspec.json.decode(line, type=Sent) for line in rest if line.endswith("\n"))
    return Journal(scenes, sent)
