"""Transfer descriptors: which pixels of which frames a detector sends where. Several are at work at once."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Rank = Annotated[int, Meta(ge=0)]
Roi = tuple[
    Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=1)]
]


class Descriptor(Struct, frozen=True, forbid_unknown_fields=True):
    """One stream of a detector.

    :param name: of its channel.
    :param module: number of the module that is sent.
    :param roi: (row, col, height, width) of the module's image, gaps between chips included; None: all chips as they
        are read out.
    :param every: of so many frames, the first is sent.
    :param destinations: ranks of the receivers that get it in turn; empty: all, in order.
    :param block: so many frames in a row go to one of them.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_\-]+\Z", max_length=100)]
    module: Annotated[int, Meta(ge=0)] = 0
    roi: Roi | None = None
    every: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    destinations: tuple[Rank, ...] = ()
    block: Annotated[int, Meta(ge=1)] = 1

    def position(self, frame: int) -> int | None:
        """Return which frame of the stream a frame of the detector is, counted from 0; None: it is not sent."""
        position, rest = divmod(frame, self.every)
        return None if rest else position

    def frame(self, position: int) -> int:
        """Return which frame of the detector a frame of the stream is: the inverse of ``position``."""
        return position * self.every

    def destination(self, position: int, n_receivers: int) -> int:
        """Return the rank of the receiver that gets a frame of the stream.

        :param position: of the frame in the stream.
        """
        turn = position // self.block
        return self.destinations[turn % len(self.destinations)] if self.destinations else turn % n_receivers
