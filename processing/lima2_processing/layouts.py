"""How the modules of known detectors lie in the image."""

from __future__ import annotations

from .errors import ParameterError
from .frame import FrameSpec, ModuleLayout, PixelKind

JUNGFRAU_MODULE = (512, 1024)
JUNGFRAU_CHIP = (256, 256)
JUNGFRAU_CHIP_GAP = 2  # image pixels between chips, from the double-size pixels at their edges
JUNGFRAU_MODULE_GAP = (36, 8)  # image pixels between modules (rows, cols)
JUNGFRAU_GRIDS = {1: (1, 1), 2: (2, 1), 8: (4, 2)}  # modules (down, across): 500 k, 1M and 4M


def jungfrau(n_modules: int, gap_pixels: bool = True) -> FrameSpec:
    """Return what the raw frames of a PSI Jungfrau look like, (modules, 512, 1024) uint16.

    The sizes are PSI's: a 4M of 8 modules gives an image of (2164, 2068) with gap pixels.

    :param n_modules: 1, 2 (1M) or 8 (4M).
    :param gap_pixels: True: double-size pixels at chip edges take two image pixels each.
    :raises ParameterError: there is no Jungfrau of so many modules.
    """
    if n_modules not in JUNGFRAU_GRIDS:
        raise ParameterError("n_modules", n_modules, "1, 2 or 8")
    return grid(JUNGFRAU_GRIDS[n_modules], JUNGFRAU_MODULE, JUNGFRAU_CHIP, gap_pixels, JUNGFRAU_MODULE_GAP)


def grid(
    modules: tuple[int, int],
    module_shape: tuple[int, int],
    chip_shape: tuple[int, int],
    gap_pixels: bool,
    module_gap: tuple[int, int],
) -> FrameSpec:
    """Return the raw frame of Jungfrau's pixels in modules on a grid, row by row.

    :param modules: how many (down, across).
    :param module_shape: raw pixels (rows, cols) of a module.
    :param chip_shape: raw pixels (rows, cols) of a chip.
    :param gap_pixels: True: chips lie ``JUNGFRAU_CHIP_GAP`` image pixels apart.
    :param module_gap: image pixels between modules (rows, cols).
    """
    gap = JUNGFRAU_CHIP_GAP if gap_pixels else 0
    size = tuple(pixels + (pixels // chip - 1) * gap for pixels, chip in zip(module_shape, chip_shape, strict=True))
    step = (size[0] + module_gap[0], size[1] + module_gap[1])
    origins = tuple((down * step[0], across * step[1]) for down in range(modules[0]) for across in range(modules[1]))
    image = (modules[0] * step[0] - module_gap[0], modules[1] * step[1] - module_gap[1])
    layout = ModuleLayout(origins=origins, image_shape=image, chip_shape=chip_shape, chip_gap=gap)
    return FrameSpec(shape=(len(origins), *module_shape), dtype="<u2", layout=layout, pixels=PixelKind.GAIN_ADC)
