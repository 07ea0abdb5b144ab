"""The packets of one share: put together to frames, which go to the share, and to files of their own where wanted."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..source import FramePackets, PacketFiles
from .assembly import Assembled, Assembler, Strangers
from .ring import FrameRing

if TYPE_CHECKING:
    from .share import Share


class Packets:
    """Takes the packets of a share.

    :param share: that gets the frames.
    :param assembler: puts them together.
    :param ring: where it does so.
    :param files: that packets are saved in as they came, also those of frames that are not complete; None: they aren't.
    """

    def __init__(self, share: Share, assembler: Assembler, ring: FrameRing, files: PacketFiles | None) -> None:
        self.n_packets = assembler.n_packets  # of a frame
        self._share = share
        self._assembler = assembler
        self._ring = ring
        self._files = files
        self._lock = threading.Lock()  # of the assembler
        self._closed = False
        self._to_files: queue.SimpleQueue[Assembled | None] = queue.SimpleQueue()  # the ring bounds it
        self._thread = threading.Thread(target=self._write, name="packet writer", daemon=True)
        if files is not None:
            self._thread.start()

    # --- called by the intake thread ---

    def place(self, packets: NDArray[np.uint8], sizes: NDArray[np.uint32]) -> Strangers:
        """Take packets of the data stream; see ``Assembler.place``."""
        with self._lock:
            if self._closed:  # a frame that began now would keep its slot for ever
                return Strangers(np.ones(len(packets), bool))
            closed, strangers = self._assembler.place(packets, sizes, time.monotonic())
            self._take(closed)
        return strangers

    def expire(self) -> None:
        """Close the frames whose packets did not come in time."""
        with self._lock:
            if not self._closed:
                self._take(self._assembler.expire(time.monotonic()))

    def fail_by(self, error: Exception) -> str:
        """Fail the share by an error that nobody expected, and return the reason."""
        return self._share.fail_by(error)

    # --- called when the share ends ---

    def close(self) -> None:
        """Let go of open frames, and finish the files. Idempotent."""
        with self._lock:
            self._closed = True
            self._assembler.release()
            self._to_files.put(None)
        if self._thread.is_alive():
            self._thread.join()
        if self._files is not None:
            self._files.close()

    def keep(self) -> None:
        """Let the files stay, and those that they replaced go."""
        if self._files is not None:
            self._files.keep()

    def discard(self) -> None:
        """Remove the files, and put back those that they were to replace."""
        if self._files is not None:
            self._files.discard()

    def _take(self, closed: Sequence[Assembled]) -> None:
        """Hand frames to the share and the files, and give the slots back that nobody wants."""
        for each in closed:
            if each.frame is None or each.slot is None:
                self._share.claim(each.index, each.timestamp, each.flaw)
                continue
            if self._files is not None:
                self._ring.lend(each.slot)
                self._to_files.put(each)
            if not self._share.accept(each.frame, each.slot, each.flaw):
                self._ring.give(each.slot)

    def _write(self) -> None:
        while (each := self._to_files.get()) is not None:
            if each.frame is None or each.slot is None or self._files is None:
                continue
            try:
                self._files.write(FramePackets(each.index, each.frame.data, each.came, each.headers))
            except Exception as error:  # also a bug must not leave the slot with nobody
                self._share.fail_by(error)
            finally:
                self._ring.give(each.slot)
