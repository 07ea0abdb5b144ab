"""``lima2 frame``: one frame of an acquisition, described and, if wanted, saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray

from lima2_processing.frame import AcquisitionId

from ..client import ConductorClient
from ..daemons import BAD_START
from .operations import ConfigPath, Json, Key, with_client

if TYPE_CHECKING:
    from ..lookup import FoundFrame

DARK, BRIGHT = 1.0, 99.8  # percentiles of the pixels that are black and white in a PNG


class FrameReport(msgspec.Struct, frozen=True):
    """What ``lima2 frame --json`` prints.

    :param minimum: of the finite values; 0 where there are none. So are ``maximum`` and ``total``.
    :param source: ``memory`` or ``file``.
    """

    acquisition: str
    frame: int
    output: str
    shape: tuple[int, ...]
    dtype: str
    minimum: float
    maximum: float
    total: float
    status: str
    reason: str
    receiver: int | None
    row: int | None
    master_file: str
    dataset: str
    source: str
    saved_as: str = ""


def frame(
    config: ConfigPath,
    acquisition: Annotated[str, typer.Argument(help="Id of the acquisition, as `lima2 state` shows it.")],
    index: Annotated[int, typer.Argument(help="Number of the frame; -1: the latest that is saved.")] = -1,
    stream: Annotated[str, typer.Option(help="What of it, such as raw or dense; by default the main image.")] = "",
    output: Annotated[Path | None, typer.Option(help="Save it there: FILE.npy, .tiff or .png.")] = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Show a frame of an acquisition that runs, or is among the last that ran, and where it is.

    It comes from the memory of its receiver while it is there, else from the files.
    """
    from ..lookup import find_frame  # slow to import

    if output is not None and (output.suffix not in _WRITERS or output.exists()):
        wanted = "a new file" if output.suffix in _WRITERS else f"one that ends in {', '.join(_WRITERS)}"
        typer.echo(f"error: --output: got {output}, expected {wanted}", err=True)
        raise typer.Exit(BAD_START)

    async def look(client: ConductorClient) -> FoundFrame:
        return await find_frame(client, AcquisitionId(acquisition), index, stream)

    found = with_client(config, key, look)
    if output is not None:
        try:
            _WRITERS[output.suffix](output, found.data)
        except OSError as error:
            typer.echo(f"error: --output: {output}: {error.strerror or error}", err=True)
            raise typer.Exit(BAD_START) from error
    report = describe(found, output)
    typer.echo(msgspec.json.encode(report).decode() if json else _text(report))


def describe(found: FoundFrame, output: Path | None = None) -> FrameReport:
    """Return what is to be said of a frame."""
    location, data = found.location, found.data
    values = data[np.isfinite(data)].astype(np.float64) if data.dtype.kind == "f" else data
    return FrameReport(
        acquisition=location.acquisition,
        frame=location.frame,
        output=location.dataset.name,
        shape=data.shape,
        dtype=data.dtype.name,
        minimum=float(values.min()) if values.size else 0.0,
        maximum=float(values.max()) if values.size else 0.0,
        total=float(values.sum()),
        status=location.status.name.lower(),
        reason=location.reason,
        receiver=found.place.receiver if found.place else None,
        row=found.place.row if found.place else None,
        master_file=location.master_file,
        dataset=location.dataset.path,
        source=found.source,
        saved_as=str(output or ""),
    )


def _text(report: FrameReport) -> str:
    why = f", {report.reason}" if report.reason else ""
    lines = [
        f"frame {report.frame} of {report.acquisition}: {report.status}{why}",
        f"  {report.output}: {report.dtype} {report.shape}, min {report.minimum:g}, max {report.maximum:g}, "
        f"sum {report.total:g}",
        f"  {_where(report)}, read from {report.source}",
        f"  {report.master_file} {report.dataset}",
    ]
    return "\n".join([*lines, f"  saved as {report.saved_as}"] if report.saved_as else lines)


def _where(report: FrameReport) -> str:
    return (
        "part of it on every receiver" if report.receiver is None else f"receiver {report.receiver}, row {report.row}"
    )


def _image(data: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return something of two dimensions: modules or channels below each other."""
    return np.atleast_2d(data).reshape(-1, data.shape[-1]) if data.ndim else data.reshape(1, 1)


def _save_tiff(path: Path, data: NDArray[np.generic]) -> None:
    from fabio.tifimage import TifImage

    TifImage(data=_image(data)).write(str(path))


def _save_png(path: Path, data: NDArray[np.generic]) -> None:
    """Save it in grey, from the darkest to the brightest percent or so; what has no value is black."""
    from PIL import Image

    values = _image(data).astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (DARK, BRIGHT)) if finite.size else (0.0, 1.0)
    scaled = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    Image.fromarray((np.nan_to_num(scaled) * 255).astype(np.uint8)).save(path)


_WRITERS = {".npy": np.save, ".tiff": _save_tiff, ".tif": _save_tiff, ".png": _save_png}
