"""Parts of frames: which modules each receiver has, and where they lie in the whole image. Pure arithmetic."""

from __future__ import annotations

import itertools
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import ParameterError
from .frame import FrameSpec, ModuleLayout, Part
from .geometry import image_shape

V = TypeVar("V", bound=np.generic)


def module_shares(n_modules: int, n_receivers: int) -> tuple[range, ...]:
    """Return which modules each receiver has: neighbours, and as many as the others, or one more.

    :raises ParameterError: there are fewer modules than receivers.
    """
    if not 1 <= n_receivers <= n_modules:
        raise ParameterError("dispatch", f"{n_receivers} receivers", f"1 to {n_modules}, since frames have {n_modules}")
    each, more = divmod(n_modules, n_receivers)
    starts = [rank * each + min(rank, more) for rank in range(n_receivers + 1)]
    return tuple(range(first, last) for first, last in itertools.pairwise(starts))


def part_of(spec: FrameSpec, modules: range) -> FrameSpec:
    """Return what the frames look like that have some modules only. Their image is as large as these need.

    :param spec: of whole frames.
    :param modules: neighbours.
    :raises ParameterError: frames have no modules.
    """
    if spec.layout is None:
        raise ParameterError("dispatch", "frames without modules", "a detector of several modules")
    rows, cols = module_size(spec, spec.layout)
    origins = [spec.layout.origins[module] for module in modules]
    top, left = (min(origin[axis] for origin in origins) for axis in (0, 1))
    bottom, right = (max(origin[axis] for origin in origins) + size for axis, size in ((0, rows), (1, cols)))
    layout = msgspec.structs.replace(
        spec.layout,
        origins=tuple((row - top, col - left) for row, col in origins),
        image_shape=(bottom - top, right - left),
    )
    part = Part(modules.start, (top, left), spec.layout.image_shape, spec.n_modules)
    return msgspec.structs.replace(spec, shape=(len(modules), *spec.shape[1:]), layout=layout, part=part)


def parts_of(spec: FrameSpec, n_receivers: int) -> tuple[FrameSpec, ...]:
    """Return what each receiver gets of frames that are spread by their modules; see ``module_shares``, ``part_of``."""
    return tuple(part_of(spec, modules) for modules in module_shares(spec.n_modules, n_receivers))


def module_size(spec: FrameSpec, layout: ModuleLayout) -> tuple[int, int]:
    """Return the pixels (rows, cols) that a module takes of the image, those between its chips included."""
    rows, cols = (
        pixels + (pixels // chip - 1) * layout.chip_gap
        for pixels, chip in zip(spec.shape[1:], layout.chip_shape, strict=True)
    )
    return rows, cols


def whole_shape(spec: FrameSpec) -> tuple[int, int]:
    """Return the shape (rows, cols) of the whole detector's image."""
    return spec.part.image_shape if spec.part else image_shape(spec)


def crop(image: NDArray[V], spec: FrameSpec) -> NDArray[V]:
    """Return what a part has of an image of the whole detector (rows, cols): all of it where frames are whole."""
    if spec.part is None:
        return image
    (row, col), (rows, cols) = spec.part.origin, image_shape(spec)
    return image[row : row + rows, col : col + cols]


def embed(image: NDArray[V], spec: FrameSpec, fill: float) -> NDArray[V]:
    """Return a part's image (rows, cols) in its place in that of the whole detector.

    :param fill: of all other pixels.
    """
    if spec.part is None:
        return image
    whole = np.full(spec.part.image_shape, fill, image.dtype)
    crop(whole, spec)[...] = image
    return whole


def positions_in_whole(index: NDArray[np.uint32], spec: FrameSpec) -> NDArray[np.uint32]:
    """Return flat positions in a part's image (n,) as those in the whole detector's; their order stays."""
    if spec.part is None:
        return index
    row, col = np.divmod(index, np.uint32(image_shape(spec)[1]))
    top, left = np.uint32(spec.part.origin[0]), np.uint32(spec.part.origin[1])
    return (row + top) * np.uint32(spec.part.image_shape[1]) + (col + left)


def own_modules(values: NDArray[np.floating], spec: FrameSpec, planes: int) -> NDArray[np.floating]:
    """Return what a part's modules have of calibration values of the whole detector, flat.

    :param values: flat, ``planes`` after each other, each of all modules; of another size, they stay as they are.
    """
    if spec.part is None or values.size != planes * spec.part.n_modules * int(np.prod(spec.shape[1:])):
        return values
    modules = slice(spec.part.first, spec.part.first + spec.n_modules)
    return values.reshape(planes, spec.part.n_modules, -1)[:, modules].ravel()
