"""Pedestal files, made of acquisitions of dark frames in the three gain stages; and PSI's gain maps put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameSpec, PixelKind
from lima2_processing.pedestals import Bad, BadPixels, PedestalSummary, PedestalSums, StagePedestal, bad_pixels

from ..errors import SavingError
from ..ledger import FrameStatus
from ..plan import RAW_STREAM, FileExistsPolicy
from .h5 import claim, group, saving_errors
from .master import DATA, ENTRY, MEASUREMENT
from .read import find_dataset, find_group, open_file, read_rows

BATCH_BYTES = 64 * 2**20  # of frames that are read together
MIN_FRAMES = 2  # that a standard deviation needs

Progress = Callable[[int, int], None]
"""Called with how many frames are done, and how many there are."""


class _Darks(msgspec.Struct, frozen=True):
    """What an acquisition of dark frames is.

    :param dataset: path of its raw frames.
    :param rows: of the frames that were saved whole.
    :param settings: JSON of what the acquisition and the detector were told.
    """

    dataset: str
    spec: FrameSpec
    rows: list[int]
    taken: str
    settings: dict[str, str]


def make_pedestal(
    masters: Sequence[Path],
    output: Path,
    limits: BadPixels,
    overwrite: bool = False,
    progress: Progress = lambda done, of: None,
) -> PedestalSummary:
    """Make a pedestal file of dark frames.

    :param masters: master files of three acquisitions: dynamic gain (in the dark, all pixels are in G0), then forced to
        G1, then to G2.
    :param output: HDF5 file with ``pedestal`` and ``noise`` (3, modules, rows, cols) in ADU, float32, and ``mask``
        (modules, rows, cols), sums of ``lima2_processing.pedestals.Bad``; with what they are made of, and when.
    :raises SavingError: a file can't be read, has no or too few raw frames of a Jungfrau, or they don't fit together.
    """
    if len(masters) != 3:
        raise SavingError(f"pedestal: got {len(masters)} acquisitions, expected 3: of gains G0, G1 and G2")
    darks = [_look(master) for master in masters]
    for master, each in zip(masters[1:], darks[1:], strict=True):
        if each.spec.shape != darks[0].spec.shape:
            raise SavingError(f"{master}: got frames of {each.spec.shape}, expected {darks[0].spec.shape} as before")
    total = sum(len(each.rows) for each in darks)
    stages: list[StagePedestal] = []
    done = 0
    for stage, (master, each) in enumerate(zip(masters, darks, strict=True)):
        sums = PedestalSums(stage, each.spec.shape)
        step = max(1, BATCH_BYTES // each.spec.nbytes)
        for first in range(0, len(each.rows), step):
            wanted = each.rows[first : first + step]
            frames = read_rows(master, each.dataset, wanted[0], wanted[-1] + 1)
            for row in wanted:
                sums.add(frames[row - wanted[0]])
                done += 1
            progress(done, total)
        stages.append(sums.result())
    mask = bad_pixels(stages, limits)
    _write(output, stages, mask, limits, list(zip(masters, darks, strict=True)), overwrite)
    reasons = {flag.name.lower(): int(np.count_nonzero(mask & np.uint32(flag))) for flag in Bad if flag.name}
    return PedestalSummary(str(output), tuple(s.n_frames for s in stages), int(np.count_nonzero(mask)), reasons)


def _look(master: Path) -> _Darks:
    """Find what a master file has of dark frames."""
    with open_file(master) as file:
        measurement = find_group(file, MEASUREMENT)
        name = RAW_STREAM if RAW_STREAM in measurement else DATA
        shape = find_dataset(measurement, name).shape[1:]
        texts = _texts(find_group(file, ENTRY))
        if "frame_spec" not in texts:
            raise SavingError(f"{master}: it does not say what its frames look like")
        spec = msgspec.json.decode(texts["frame_spec"], type=FrameSpec)
        if spec.pixels is not PixelKind.GAIN_ADC or shape != spec.shape:
            raise SavingError(
                f"{master}: got {name} of {shape} ({spec.pixels}), expected raw frames ({PixelKind.GAIN_ADC})"
            )
        status = np.asarray(find_dataset(measurement, "frame_status")[()])
        taken = str(file.attrs.get("file_time", ""))
    rows = np.flatnonzero(status == FrameStatus.SAVED).tolist()
    if len(rows) < MIN_FRAMES:
        raise SavingError(f"{master}: got {len(rows)} saved frames, expected {MIN_FRAMES} at least")
    settings = {name: texts[name] for name in ("acquisition", "detector") if name in texts}
    return _Darks(f"{MEASUREMENT}/{name}", spec, rows, taken, settings)


def _texts(entry: h5py.Group) -> dict[str, str]:
    """Return the texts in the parameters and the description of the detector, by their names."""
    found: dict[str, str] = {}

    def visit(path: str, item: object) -> None:
        *_, parent, name = ("", "", *path.split("/"))
        if isinstance(item, h5py.Dataset) and parent in ("params", "detector_information") and item.shape == ():
            value = item[()]
            if isinstance(value, bytes):
                found[name] = value.decode()

    entry.visititems(visit)
    return found


def _write(
    output: Path,
    stages: Sequence[StagePedestal],
    mask: NDArray[np.uint32],
    limits: BadPixels,
    sources: Sequence[tuple[Path, _Darks]],
    overwrite: bool,
) -> None:
    claimed = claim(output, FileExistsPolicy.OVERWRITE if overwrite else FileExistsPolicy.ABORT)
    try:
        with saving_errors(output, "writing"), h5py.File(output, "w") as file:
            file["pedestal"] = np.stack([stage.pedestal for stage in stages])
            file["noise"] = np.stack([stage.noise for stage in stages])
            file["mask"] = mask
            for name in ("pedestal", "noise"):
                file[name].attrs["units"] = "ADU"
            file["mask"].attrs["reasons"] = msgspec.json.encode({flag.name: int(flag) for flag in Bad}).decode()
            file.attrs["made"] = datetime.now().astimezone().isoformat()
            file.attrs["limits"] = msgspec.json.encode(limits).decode()
            for gain, (stage, (master, darks)) in enumerate(zip(stages, sources, strict=True)):
                place = group(file, f"source/g{gain}", "NXcollection")
                place["file"], place["taken"], place["n_frames"] = str(master), darks.taken, stage.n_frames
                for key, text in darks.settings.items():
                    place[key] = text
        claimed.written()
        claimed.keep()
    except BaseException:
        claimed.drop()
        raise


def merge_gains(maps: Sequence[Path], output: Path, overwrite: bool = False) -> int:
    """Put PSI's gain maps of modules together in one file.

    :param maps: ``gainMaps_M*.bin`` of each module, in the order of the detector's modules: float64 of 3 stages, or 4
        with high gain G0, which is left out.
    :param output: ``.npy`` file (3, modules, 512, 1024) float32, in the unit of the maps, ADU/keV.
    :returns: the number of modules.
    :raises SavingError: a file can't be read, or has another size.
    """
    planes = []
    for path in maps:
        with saving_errors(path, "reading"):
            if (size := path.stat().st_size) not in (24 * _MODULE, 32 * _MODULE):
                raise SavingError(f"{path}: got {size} bytes, expected {24 * _MODULE} or {32 * _MODULE}")
            found = np.fromfile(path, "<f8")
        planes.append(found.reshape(-1, 512, 1024)[:3])
    claimed = claim(output, FileExistsPolicy.OVERWRITE if overwrite else FileExistsPolicy.ABORT)
    try:
        with saving_errors(output, "writing"), output.open("wb") as file:
            np.save(file, np.stack(planes, axis=1).astype(np.float32))
        claimed.written()
        claimed.keep()
    except BaseException:
        claimed.drop()
        raise
    return len(planes)


_MODULE = 512 * 1024  # pixels
