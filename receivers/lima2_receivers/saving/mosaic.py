"""The master file's datasets where each receiver has some modules of every frame: the parts put together, virtually.

Row i of every part file is frame i. Raw frames are the receivers' modules one after the other; images are put together
module by module, with fill between them; of all else, each receiver has its own value: (frames, receivers, ...).
"""

from __future__ import annotations

from collections.abc import Sequence

import h5py
import msgspec

from lima2_processing.frame import FrameSpec, Output, OutputKind
from lima2_processing.parts import module_size, whole_shape

from ..messages import ConstantInfo
from .part import dataset_path

_ALL = h5py.h5s.UNLIMITED


def whole_output_shape(output: Output, parts: Sequence[FrameSpec]) -> tuple[int, ...]:
    """Return the shape of one frame's value, of all receivers together.

    :param output: as the first receiver declares it.
    :param parts: what each receiver gets of a frame.
    """
    if _is_raw(output, parts[0]):
        return (sum(part.n_modules for part in parts), *output.shape[1:])
    if _is_image(output, parts[0]):
        return whole_shape(parts[0])
    return (len(parts), *output.shape)


def as_whole(output: Output, part: FrameSpec) -> Output:
    """Return a receiver's output as it would be of whole frames, so that those of several can be compared."""
    if _is_raw(output, part) and part.part is not None:
        return msgspec.structs.replace(output, shape=(part.part.n_modules, *output.shape[1:]))
    return msgspec.structs.replace(output, shape=whole_shape(part)) if _is_image(output, part) else output


def link_parts(
    measurement: h5py.Group, name: str, output: Output, parts: Sequence[FrameSpec], files: Sequence[dict[str, str]]
) -> h5py.Dataset:
    """Make the virtual dataset of an output, which grows as its part files do.

    :param output: as the first receiver declares it.
    :param parts: what each receiver gets of a frame.
    :param files: stream to part file name, one mapping a receiver.
    """
    shape = whole_output_shape(output, parts)
    layout = h5py.VirtualLayout((1, *shape), output.dtype, maxshape=(None, *shape))
    for rank, (part, names) in enumerate(zip(parts, files, strict=True)):
        own = _own_shape(output, part, parts[0])
        source = h5py.VirtualSource(
            names[output.stream], dataset_path(output), shape=(1, *own), dtype=output.dtype, maxshape=(None, *own)
        )
        for here, there in _places(output, part, parts[0], rank):
            layout[(slice(0, _ALL), *here)] = source[(slice(0, _ALL), *there)]
    return measurement.create_virtual_dataset(name, layout, fillvalue=output.fill)


def parts_of_constant(
    constant: ConstantInfo, parts: Sequence[FrameSpec], files: Sequence[str], path: str
) -> h5py.VirtualLayout:
    """Return how a constant is put together.

    Of an image of the whole detector, each receiver's modules are taken; of all else, each has its own: (receivers,
    ...).

    :param files: name of each receiver's part file.
    :param path: of the constant in them.
    """
    image = constant.shape == whole_shape(parts[0])
    layout = h5py.VirtualLayout(constant.shape if image else (len(parts), *constant.shape), constant.dtype)
    for rank, (part, name) in enumerate(zip(parts, files, strict=True)):
        source = h5py.VirtualSource(name, path, shape=constant.shape, dtype=constant.dtype)
        if not image:
            layout[rank] = source
            continue
        for whole, _ in _module_places(part):
            layout[whole] = source[whole]
    return layout


def _is_raw(output: Output, first: FrameSpec) -> bool:
    return output.kind is OutputKind.IMAGE and output.shape == first.shape


def _is_image(output: Output, first: FrameSpec) -> bool:
    layout = first.layout
    return output.kind is OutputKind.IMAGE and layout is not None and output.shape == layout.image_shape


def _own_shape(output: Output, part: FrameSpec, first: FrameSpec) -> tuple[int, ...]:
    """Return the shape of a receiver's value."""
    if _is_raw(output, first):
        return part.shape
    if _is_image(output, first) and part.layout is not None:
        return part.layout.image_shape
    return output.shape


def _places(output: Output, part: FrameSpec, first: FrameSpec, rank: int) -> list[tuple[tuple[slice | int, ...], ...]]:
    """Return pairs of what goes where: (place in the whole, place in the receiver's value)."""
    if part.part is None:
        raise ValueError("got whole frames, expected parts")
    rest = tuple(slice(None) for _ in output.shape)
    if _is_raw(output, first):
        modules = slice(part.part.first, part.part.first + part.n_modules)
        return [((modules, *rest[1:]), rest)]
    if not _is_image(output, first):
        return [((rank, *rest), rest)]
    return _module_places(part)


def _module_places(part: FrameSpec) -> list[tuple[tuple[slice | int, ...], ...]]:
    """Return where each module is: (in the whole image, in the part's image)."""
    if part.part is None or part.layout is None:
        raise ValueError("got whole frames, expected parts")
    (rows, cols), (top, left) = module_size(part, part.layout), part.part.origin
    return [
        (
            (slice(top + row, top + row + rows), slice(left + col, left + col + cols)),
            (slice(row, row + rows), slice(col, col + cols)),
        )
        for row, col in part.layout.origins
    ]
