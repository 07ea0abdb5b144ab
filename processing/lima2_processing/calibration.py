"""Calibration files, as a plan names them: the path, and the hash that every host checks."""

from __future__ import annotations

import msgspec


class CalibrationFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that a pipeline needs. The receivers read it; the pipeline gets an array (or the text of a PONI).

    :param path: absolute path, the same on every receiver host; ``.npy``, ``.h5``, ``.bin`` (raw values), ``.poni``,
        or any image format that FabIO reads.
    :param sha256: of the file's bytes, hexadecimal; empty: taken when the acquisition is prepared.
    :param dataset: path of the dataset in an ``.h5`` file.
    :param dtype: NumPy type string of the values of a ``.bin`` file.
    """

    path: str
    sha256: str = ""
    dataset: str = ""
    dtype: str = "<f4"
