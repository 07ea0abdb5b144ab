"""Getting one frame of an acquisition: from its receiver's memory while it is there, else from the files."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import AcquisitionId, OutputKind, fill_value

from .client import ConductorClient
from .errors import ConfigError, ReceiverError, StateError
from .ledger import FrameStatus
from .messages import FrameChunk, FrameLocation, GetFrame, Place
from .saving.codecs import decode
from .saving.read import read_frame, read_sparse_frame
from .security.keys import Credentials, load_credentials, receiver_name
from .security.reach import Reach, reach
from .transport.requests import Requester

log = logging.getLogger(__name__)

MEMORY_SECONDS = 5.0  # deadline of a receiver; then the file is read


@dataclass(frozen=True, slots=True)
class FoundFrame:
    """A frame that was looked up.

    :param location: where it is.
    :param place: of its row; None: every receiver has a part of it.
    :param data: its values, shaped as the location's dataset says; a sparse frame as an image with 0 for what was not
        picked.
    :param source: ``memory`` or ``file``.
    """

    location: FrameLocation
    place: Place | None
    data: NDArray[np.generic]
    source: str


async def find_frame(
    client: ConductorClient, acquisition: AcquisitionId, frame: int = -1, output: str = ""
) -> FoundFrame:
    """Return a frame of an acquisition that the conductor knows.

    :param client: connected.
    :param frame: its number; -1: the latest that is saved.
    :param output: name of the output, such as ``raw``; empty: the main image.
    :raises StateError: there is no such frame, or it was not saved, or vetoed without this output: the message says
        what became of it, and why.
    :raises SavingError: it is no longer in memory, and the file can't be read.
    """
    location = await client.locate(acquisition, frame, output)
    place = location.place
    if location.status not in (FrameStatus.SAVED, FrameStatus.VETOED):
        raise _gone(location)
    image = location.dataset.kind is OutputKind.IMAGE
    if image and place is not None and (chunk := await _from_memory(client, location, place)) is not None:
        data = await asyncio.to_thread(decode, chunk.compression, chunk.data, _shape(location), location.dataset.dtype)
        return FoundFrame(location, place, data, "memory")
    data = await asyncio.to_thread(_from_file, location)
    if image and location.status is FrameStatus.VETOED and _is_fill(data):
        raise _gone(location)
    return FoundFrame(location, place, data, "file")


def _gone(location: FrameLocation) -> StateError:
    """Return the error of a frame that has no data."""
    why = f": {location.reason}" if location.reason else ""
    return StateError(f"acquisition {location.acquisition}: frame {location.frame} was {_fate(location.status)}{why}")


def _is_fill(data: NDArray[np.generic]) -> bool:
    """Tell whether nothing was written: a frame that was vetoed may have no image."""
    fill = fill_value(data.dtype.str)
    return bool(np.isnan(data).all() if np.isnan(fill) else (data == fill).all())


def _fate(status: FrameStatus) -> str:
    return "not processed or saved" if status is FrameStatus.FAILED else status.name.lower()


def _shape(location: FrameLocation) -> tuple[int, ...]:
    return tuple(location.dataset.shape)


async def _from_memory(client: ConductorClient, location: FrameLocation, place: Place) -> FrameChunk | None:
    """Ask the frame's receiver; None: it has it no more, does not answer, or its public key is not known here."""
    credentials: Credentials | None = None
    if client.key is not None and reach(place.endpoint) is not Reach.FILES:
        try:
            credentials = load_credentials(client.key, receiver_name(place.receiver))
        except ConfigError as error:
            log.debug("%s", error)
            return None
    requester = Requester(place.endpoint, f"receiver {place.receiver}", MEMORY_SECONDS)
    requester.open(credentials)
    try:
        return await requester.request(GetFrame(location.acquisition, place.row, location.dataset.name), FrameChunk)
    except ReceiverError as error:
        log.debug("%s", error)
        return None
    finally:
        await requester.close()


def _from_file(location: FrameLocation) -> NDArray[np.generic]:
    master = Path(location.master_file)
    if location.dataset.kind is OutputKind.SPARSE:
        sparse = read_sparse_frame(master, location.frame)
        image = np.zeros(_shape(location), location.dataset.dtype)
        image.reshape(-1)[sparse.index] = sparse.intensity
        return image
    return read_frame(master, location.dataset.path, location.frame)
