"""The packets of a Jungfrau: PSI's detector header, version 2, and four rows of a module's pixels.

The fields and their offsets are those of PSI's slsDetectorPackage (``UDP data format``); little endian throughout. A
module has 128 packets a frame, 4 rows of 1024 pixels each. With two interfaces, either carries 64 of them, numbered
from 0: the lower half of the rows has an even ``row``, the upper half the next odd one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

PIXELS_BYTES = 8192
PACKETS = 128  # of a module that is read out whole
ROWS_A_PACKET = 4
JUNGFRAU, VERSION = 3, 2  # of the header

HEADER = np.dtype(
    [
        ("frame", "<u8"),
        ("exposure", "<u4"),  # 100 ns
        ("packet", "<u4"),
        ("bunch", "<u8"),
        ("time", "<u8"),  # 100 ns
        ("module", "<u2"),  # need not be unique
        ("row", "<u2"),
        ("column", "<u2"),
        ("reserved", "<u2"),
        ("daq", "<u4"),  # gain and storage cell
        ("destination", "<u2"),  # number in the round robin
        ("type", "u1"),
        ("version", "u1"),
    ]
)
PACKET = np.dtype([("header", HEADER), ("pixels", "u1", PIXELS_BYTES)])


def packets_of(
    frame: NDArray[np.generic], number: int, across: int = 1, interfaces: int = 1, destination: int = 0
) -> Iterator[tuple[int, bytes, memoryview]]:
    """Yield the packets of a frame, one module after the other.

    :param frame: raw pixels (modules, rows, 1024), uint16, modules in rows of ``across``.
    :param number: of the frame, as the detector counts.
    :param interfaces: that a module sends with, 1 or 2.
    :param destination: rank of the receiver that it goes to.
    :returns: the port that it is for, counted from the receiver's first, its header, and its pixels.
    """
    n_modules, rows, _ = frame.shape
    count = rows // ROWS_A_PACKET
    first = (PACKETS - count) // 2
    per_port = PACKETS // interfaces
    pixels = frame.reshape(n_modules, count, -1)
    header = np.zeros((), HEADER)
    header["frame"], header["type"], header["version"], header["destination"] = number, JUNGFRAU, VERSION, destination
    for module in range(n_modules):
        for at in range(count):
            half, packet = divmod(first + at, per_port)
            header["packet"], header["module"] = packet, module
            header["row"], header["column"] = module // across * interfaces + half, module % across
            yield module * interfaces + half, header.tobytes(), pixels[module, at].data.cast("B")
