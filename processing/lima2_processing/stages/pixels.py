"""What the pixels of images are, for kernels that take images of any type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ParameterError

SOURCE = Path(__file__).with_suffix(".cl")  # functions of kernels that are built behind it
_TYPES = {"<u2": "ushort", "<u4": "uint", "<f4": "float", "|u1": "uchar", "<i4": "int", "<i2": "short"}


@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixels of an image.

    :param dtype: NumPy type string.
    :param ceiling: values from here on are not used; infinity: all are.
    """

    dtype: str
    ceiling: float

    @property
    def unsigned(self) -> bool:
        """Whether they are unsigned integers."""
        return np.dtype(self.dtype).kind == "u"

    @property
    def constants(self) -> dict[str, str | int]:
        """What kernels need defined."""
        integer = {} if np.dtype(self.dtype).kind == "f" else {"INTEGER": 1}
        return {"PIXEL": _TYPES[self.dtype], **integer}


FLOAT = Pixels("<f4", np.inf)


def pixels_of(dtype: str, saturation: float = 0.0) -> Pixels:
    """Return what the pixels of a type are.

    :param saturation: values from here on are saturated and not used; 0: only the largest value of an integer type,
        which marks masked pixels.
    :raises ParameterError: kernels can't take that type.
    """
    kind = np.dtype(dtype)
    if kind.str not in _TYPES:
        raise ParameterError("frame.dtype", dtype, f"one of {', '.join(_TYPES)}")
    largest = np.inf if kind.kind == "f" else float(np.iinfo(kind).max)
    return Pixels(kind.str, min(saturation or np.inf, largest))
