"""What the Reader can be told."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class ReaderParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan may ask of the Reader: nothing."""


class ReaderSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The Reader's table in the configuration.

    :param control: endpoint of its commands.
    :param folder: absolute folder for its journals.
    :param recording: what is played: an HDF5 file; the ``*_master_*.json`` of packets that were saved as PSI's
        slsReceiver does; a file of ``lima2 capture``; or a folder of ``*_rawN.bin`` files, in the order of N.
    :param dataset: path of the frames in an HDF5 file, or of a group of ``data_N``; empty: it is looked for.
    :param start: first frame of the recording that is played, from 0.
    :param count: how many are played; 0: all.
    :param stride: from one frame that is played to the next, in frames of the recording.
    :param gap_pixels: of a Jungfrau's raw frames; True: the double-size pixels at chip edges take two pixels of the
        image.
    :param send_timeout: seconds that a frame waits for its receiver before it is dropped; after that, frames for this
        receiver don't wait until it takes one again.
    """

    control: str
    folder: str
    recording: str
    dataset: str = ""
    start: Annotated[int, Meta(ge=0)] = 0
    count: Annotated[int, Meta(ge=0)] = 0
    stride: Annotated[int, Meta(ge=1)] = 1
    gap_pixels: bool = False
    send_timeout: Annotated[float, Meta(gt=0, le=3600)] = 5.0
