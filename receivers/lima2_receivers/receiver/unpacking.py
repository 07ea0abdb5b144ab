"""Frames made ready to be worked on: packed pixels are unpacked into their ring slots, where somebody needs them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import Frame, FrameIdx, FrameSpec

from ..errors import ProtocolError
from ..packing import PackedImage, Packing, check_packed, unpack
from ..source import PackedFrame
from .ring import Slot

log = logging.getLogger(__name__)

Taken = tuple[Frame | PackedFrame, Slot]
"""A frame as its source gave it, and its slot."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A frame that can be worked on.

    :param slot: where its pixels are.
    :param raw: what is saved of it as it came.
    :param frame: for the pipeline; None: its pixels are still packed, and nobody needs them.
    """

    index: FrameIdx
    slot: Slot
    raw: NDArray[np.generic] | PackedImage
    frame: Frame | None = None


class Unpacker:
    """Makes frames ready, several side by side.

    :param spec: of the frames.
    :param threads: that unpack.
    :param passes: whether bitshuffled pixels are wanted as they are, and nothing else of a frame.
    """

    def __init__(self, spec: FrameSpec, threads: int, passes: bool) -> None:
        self._spec = spec
        self._passes = passes
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="unpacker")

    def ready(self, taken: Sequence[Taken]) -> list[Ready | Exception]:
        """Return each frame, or what is wrong with its pixels."""
        packed = any(isinstance(frame, PackedFrame) for frame, _ in taken)
        return list((self._pool.map if packed else map)(self._one, taken))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True)

    def _one(self, taken: Taken) -> Ready | Exception:
        frame, slot = taken
        if isinstance(frame, Frame):
            return Ready(frame.index, slot, frame.data, frame)
        spec = self._spec
        try:
            if self._passes and [channel.packing for channel in frame.channels] == [Packing.BSLZ4]:
                check_packed(frame.channels[0], spec.nbytes, np.dtype(spec.dtype).itemsize)
                return Ready(frame.index, slot, frame.channels[0])
            data = slot.memory[: spec.nbytes].view(spec.dtype).reshape(spec.shape)
            for channel, image in zip(data.reshape(-1, *spec.shape[-2:]), frame.channels, strict=True):
                unpack(image, channel)
        except ProtocolError as error:
            return error
        except Exception as error:  # such as no memory: the frame fails, and its slot is given back
            log.exception("frame %d", frame.index)
            return error
        return Ready(frame.index, slot, data, Frame(frame.index, data, spec.all_modules, frame.timestamp))
