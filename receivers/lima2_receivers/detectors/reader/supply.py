"""The Reader's frames, read a little ahead of their time."""

from __future__ import annotations

from pathlib import Path

from ...capture.format import is_capture
from ...errors import ConfigError
from ..supply import Supply
from .ahead import ReadAhead
from .capture_stack import open_capture
from .h5_stack import H5Stack
from .params import ReaderSettings
from .raw_stack import MASTER, RawStack
from .recording import FolderStack
from .stack import Stack, choose_frames


def read_supply(settings: ReaderSettings) -> Supply:
    """Open a recording. Its frames are read when they are sent, or a little before.

    :raises ConfigError: the recording is not complete, can't be read, or does not have the frames that are asked for.
    """
    stack = open_stack(settings)
    try:
        chosen = choose_frames(len(stack), settings.start, settings.count, settings.stride)
        frames = ReadAhead(stack, chosen)
    except BaseException:
        stack.close()
        raise
    return Supply(stack.model, stack.spec, frames, (), len(chosen), frames.close)


def open_stack(settings: ReaderSettings) -> Stack:
    """Open what ``recording`` names, by what it is: a folder, a master file of packets, a capture, or HDF5.

    :raises ConfigError: it is none of them, is not complete or can't be read.
    """
    path = Path(settings.recording)
    try:
        if not path.exists():
            raise ConfigError(f"recording {path}: there is no such file or folder")
        other = _open_other(path, settings)
    except OSError as error:
        raise ConfigError(f"recording {path}: {error.filename or path}: {error.strerror}") from error
    if other is None:
        return H5Stack(path, settings.dataset)
    if settings.dataset:
        other.close()
        raise ConfigError(f"detector.settings.dataset: got {settings.dataset!r}, but {path} is no HDF5 file")
    return other


def _open_other(path: Path, settings: ReaderSettings) -> Stack | None:
    """Open what is not HDF5; None: it is, or should be."""
    if path.is_dir():
        return FolderStack(path, settings.gap_pixels)
    if MASTER.fullmatch(path.name):
        return RawStack(path, settings.gap_pixels)
    return open_capture(path) if is_capture(path) else None
