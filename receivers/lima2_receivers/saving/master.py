"""The master file: all receivers' data as one, by virtual datasets. Made once, before the start."""

from __future__ import annotations

from math import prod

import h5py
import msgspec
import numpy as np

from lima2_processing.frame import AcquisitionId, FrameSpec, Output, OutputKind, PipelineFacts, fill_value

from ..errors import SavingError
from ..messages import ConstantInfo, Dataset
from ..plan import AcquisitionPlan
from ..topology import RoundRobin
from .claim import Claim
from .h5 import create, give_up, group, saving_errors
from .ledger_file import COLUMNS, GROUP
from .mapping import map_frames
from .mosaic import link_parts, parts_of_constant, whole_output_shape
from .part import dataset_path, group_name

ENTRY = "/entry_0000"
MEASUREMENT = f"{ENTRY}/measurement"
PARTS = "parts"  # the group of the entry that says where part files have an output, where a table says which frame
PER_FILE = "rows_per_file"  # its attribute: of each file of a receiver, the first being linked; none: it has one
SPARSE = "sparse"  # the path that sparse frames are announced under; the file has one group a receiver
DATA = "data"  # the name of the main image in ``measurement``, as LImA2 has it
_READ_BYTES = 4 * 1024 * 1024  # what a reader best asks for together
_MAX_READ_ROWS = 1024
_BIG_ROW = 1024 * 1024  # images from this size on are asked for one by one
_TAKEN = {"measurement", "ledger", "title", "entry_identifier"}  # names in the entry


class MasterInfo(msgspec.Struct, frozen=True):
    """What a master file is made from.

    :param model: of the detector.
    :param outputs: everything that a frame gives.
    :param constants: what part files hold once.
    :param files: stream to part file name, one mapping a receiver; of the first file, where ``per_file`` is not 0.
    :param ledger: name of the ledger file.
    :param pipelines: what is to be known of each receiver's pipeline.
    :param frames: name of the file that will show all frames, where the files of each are not known now; empty: they
        are.
    :param per_file: rows of each of a receiver's files; 0: it has one a stream.
    :param parts: what each receiver gets of a frame, where each has some modules of all; empty: frames are whole.
        ``outputs`` and ``constants`` are the first receiver's then.
    """

    acquisition: AcquisitionId
    detector: str
    instrument: str
    model: str
    plan: AcquisitionPlan
    frame_spec: FrameSpec
    outputs: tuple[Output, ...]
    constants: tuple[ConstantInfo, ...]
    files: tuple[dict[str, str], ...]
    ledger: str
    pipelines: tuple[PipelineFacts, ...]
    frames: str = ""
    parts: tuple[FrameSpec, ...] = ()
    per_file: int = 0

    def saved(self) -> list[Output]:
        """Return the outputs that are saved."""
        return [output for output in self.outputs if output.stream in self.files[0]]

    def by_frame(self) -> list[tuple[str, Output]]:
        """Return the outputs that are datasets of a row a frame, each with its name in ``measurement``."""
        saved = self.saved()
        rows = [output for output in saved if output.kind is not OutputKind.SPARSE and not output.window]
        return [(_name_in_measurement(output, saved), output) for output in rows]


def write_master(claimed: Claim, info: MasterInfo) -> tuple[Dataset, ...]:
    """Write a master file and return what it shows.

    :param claimed: where it goes.
    :raises SavingError: it can't be written; the claim is the caller's to drop.
    """
    _check_name("instrument", info.instrument)
    _check_name("detector", info.detector)
    master = create(claimed)
    try:
        with saving_errors(claimed.path, "making"):
            datasets = _fill(master, info)
            master.close()
    except BaseException:
        give_up(master)
        raise
    claimed.written()
    return datasets


def _check_name(what: str, name: str) -> None:
    if name in _TAKEN or not name.strip(".") or "/" in name:
        taken = ", ".join(sorted(_TAKEN))
        raise SavingError(f"{what}: got {name!r}, expected a name without '/' that is none of {taken}")


def _fill(master: h5py.File, info: MasterInfo) -> tuple[Dataset, ...]:
    """Write everything into the file."""
    saved = info.saved()
    master.attrs["default"] = "entry_0000"
    entry = group(master, "entry_0000", "NXentry")
    entry["title"] = f"{info.detector} {info.acquisition}"
    entry["entry_identifier"] = info.acquisition
    measurement = group(entry, "measurement", "NXdata")
    if info.per_file:
        group(entry, PARTS, "NXcollection").attrs[PER_FILE] = info.per_file
    datasets = [_link_output(measurement, info, output, name) for name, output in info.by_frame()]
    datasets += [_sparse(output) for output in saved if output.kind is OutputKind.SPARSE]
    for output in saved:
        if output.window:
            _link_accumulated(measurement, info, output)
    datasets += [_link_column(measurement, info.ledger, name) for name in COLUMNS]
    entry["ledger"] = h5py.ExternalLink(info.ledger, GROUP)
    for rank, files in enumerate(info.files):
        if "sparse" in files:
            measurement[f"sparse_{rank}"] = h5py.ExternalLink(files["sparse"], f"{ENTRY}/{group_name('sparse')}")
    for constant in info.constants:
        _link_constant(measurement, info, constant)
    _describe(entry, measurement, info)
    return tuple(datasets)


def _name_in_measurement(output: Output, saved: list[Output]) -> str:
    """Return ``data`` for the main image: the dense one, else the raw one."""
    images = [other.name for other in saved if other.kind is OutputKind.IMAGE and not other.window]
    main = "dense" if "dense" in images else (images[0] if images else "")
    return DATA if output.name == main else output.name


def _link_output(measurement: h5py.Group, info: MasterInfo, output: Output, name: str) -> Dataset:
    """Show an output of all receivers as one dataset, a row a frame."""
    kind, hinted = output.kind, output.hinted
    if info.frames:
        _link_table(measurement, info, output, name)
    elif info.parts:
        made = link_parts(measurement, name, output, info.parts, info.files)
        _describe_output(measurement, made, output, name)
        output = msgspec.structs.replace(output, shape=whole_output_shape(output, info.parts))
        if kind is OutputKind.SCALAR:
            kind, hinted = OutputKind.PROFILE, False  # one a receiver
    elif info.per_file:
        _map_files(measurement, info, output, name)
    else:
        _interleave(measurement, info, output, name)
    if name == DATA:
        _plot(measurement, output)
    return Dataset(
        name=output.name,
        path=f"{MEASUREMENT}/{name}",
        kind=kind,
        dtype=output.dtype,
        shape=output.shape,
        chunk_frames=_read_rows(output),
        unit=output.unit,
        label=output.label,
        hinted=hinted,
    )


def _link_table(measurement: h5py.Group, info: MasterInfo, output: Output, name: str) -> None:
    """Link a dataset that will be made when all is settled, and tell where the part files have it meanwhile."""
    for alias in dict.fromkeys((name, output.name)):
        measurement[alias] = h5py.ExternalLink(info.frames, f"{MEASUREMENT}/{name}")
    _tell_parts(measurement, info, output, name)


def _map_files(measurement: h5py.Group, info: MasterInfo, output: Output, name: str) -> None:
    """Map every file that there will be; one that is not there yet, or never will be, reads as fill."""
    places = RoundRobin(len(info.files)).places(0, info.plan.acquisition.nb_frames)
    sources = [(files[output.stream], dataset_path(output)) for files in info.files]
    fill = np.asarray(output.fill, output.dtype)
    made = map_frames(measurement, name, output.shape, fill, places, sources, (), info.per_file)
    _describe_output(measurement, made, output, name)
    _tell_parts(measurement, info, output, name)


def _tell_parts(measurement: h5py.Group, info: MasterInfo, output: Output, name: str) -> None:
    """Tell where the part files have an output."""
    parts = group(measurement.file, f"{ENTRY}/{PARTS}", "NXcollection")
    for alias in dict.fromkeys((name, output.name)):
        place = group(parts, alias, "NXcollection")
        place.attrs["shape"] = np.array(output.shape, np.int64)
        place.attrs["fill"] = np.asarray(output.fill, np.dtype(output.dtype))
        for rank, files in enumerate(info.files):
            place[str(rank)] = h5py.ExternalLink(files[output.stream], dataset_path(output))


def _interleave(measurement: h5py.Group, info: MasterInfo, output: Output, name: str) -> None:
    """Interleave the receivers' rows: frame i is row i // n of receiver i % n, whatever their lengths are now."""
    n = len(info.files)
    layout = h5py.VirtualLayout((n, *output.shape), output.dtype, maxshape=(None, *output.shape))
    for rank, files in enumerate(info.files):
        source = h5py.VirtualSource(
            files[output.stream],
            dataset_path(output),
            shape=(1, *output.shape),
            dtype=output.dtype,
            maxshape=(None, *output.shape),
        )
        layout[rank : h5py.h5s.UNLIMITED : n] = source[0 : h5py.h5s.UNLIMITED]
    made = measurement.create_virtual_dataset(name, layout, fillvalue=output.fill)
    _describe_output(measurement, made, output, name)


def _describe_output(measurement: h5py.Group, made: h5py.Dataset, output: Output, name: str) -> None:
    """Say what an output's dataset is, also under the output's own name."""
    made.attrs["units"], made.attrs["long_name"] = output.unit, output.label
    if name == DATA:
        made.attrs["interpretation"] = "image"
    if name == DATA and output.name != DATA:
        measurement[output.name] = made


def _link_accumulated(measurement: h5py.Group, info: MasterInfo, output: Output) -> None:
    """Show an accumulated output as (windows, receivers, ...): each receiver has what it accumulated itself."""
    n = len(info.files)
    layout = h5py.VirtualLayout((1, n, *output.shape), output.dtype, maxshape=(None, n, *output.shape))
    for rank, files in enumerate(info.files):
        name, path = files[output.stream], dataset_path(output)
        shape, longest = (1, *output.shape), (None, *output.shape)
        source = h5py.VirtualSource(name, path, shape=shape, dtype=output.dtype, maxshape=longest)
        layout[0 : h5py.h5s.UNLIMITED, rank] = source[0 : h5py.h5s.UNLIMITED]
    made = measurement.create_virtual_dataset(output.name, layout, fillvalue=output.fill)
    made.attrs["units"], made.attrs["long_name"] = output.unit, output.label
    made.attrs["frames_per_window"] = output.window


def _sparse(output: Output) -> Dataset:
    """Return what readers are told of sparse frames: no dataset of the file, but what an adapter shows as one."""
    return Dataset(
        name=output.name,
        path=f"{MEASUREMENT}/{SPARSE}",
        kind=output.kind,
        dtype=output.dtype,
        shape=output.shape,
        unit=output.unit,
        label=output.label,
    )


def _read_rows(output: Output) -> int:
    """Return how many frames a reader best asks for together: a few MiB, a single one where images are big."""
    size = max(1, prod(output.shape)) * np.dtype(output.dtype).itemsize
    return 1 if size >= _BIG_ROW else min(_MAX_READ_ROWS, _READ_BYTES // size)


def _plot(data: h5py.Group, output: Output) -> None:
    """Let viewers plot the main image of a group."""
    data.attrs["signal"] = DATA
    data.attrs["axes"] = ["."] * (1 + len(output.shape))


def _link_column(measurement: h5py.Group, ledger: str, name: str) -> Dataset:
    dtype, fill = COLUMNS[name]
    layout = h5py.VirtualLayout((1,), dtype, maxshape=(None,))
    source = h5py.VirtualSource(ledger, f"{GROUP}/{name}", shape=(1,), dtype=dtype, maxshape=(None,))
    layout[0 : h5py.h5s.UNLIMITED] = source[0 : h5py.h5s.UNLIMITED]
    measurement.create_virtual_dataset(name, layout, fillvalue=fill)
    return Dataset(
        name=name,
        path=f"{MEASUREMENT}/{name}",
        kind=OutputKind.SCALAR,
        dtype=dtype,
        shape=(),
        chunk_frames=_MAX_READ_ROWS,
        label=name.replace("_", " "),
    )


def _link_constant(measurement: h5py.Group, info: MasterInfo, constant: ConstantInfo) -> None:
    """Show a constant of the first receiver's part file; all receivers have the same, unless they have parts."""
    if constant.stream not in info.files[0]:
        return
    names = [files[constant.stream] for files in info.files]
    path = f"{ENTRY}/{group_name(constant.stream)}/{constant.name}"
    if info.parts:
        layout = parts_of_constant(constant, info.parts, names, path)
    else:
        layout = h5py.VirtualLayout(constant.shape, constant.dtype)
        layout[...] = h5py.VirtualSource(names[0], path, shape=constant.shape, dtype=constant.dtype)
    fill = fill_value(constant.dtype)
    made = measurement.create_virtual_dataset(constant.name, layout, fillvalue=fill)
    made.attrs["units"], made.attrs["long_name"] = constant.unit, constant.label


def _describe(entry: h5py.Group, measurement: h5py.Group, info: MasterInfo) -> None:
    """Add what a person and NeXus want to know: instrument, detector, parameters."""
    instrument = group(entry, info.instrument, "NXinstrument")
    instrument["name"] = info.instrument
    detector = group(instrument, info.detector, "NXdetector")
    plot = group(detector, "plot", "NXdata")
    if measurement.get(DATA, getlink=True, default=None) is not None:
        for place in (detector, plot):
            # a soft link where the dataset is not there yet; LImA2's readers know both
            place[DATA] = h5py.SoftLink(f"{MEASUREMENT}/{DATA}") if info.frames else measurement[DATA]
        plot.attrs["signal"], plot.attrs["axes"] = DATA, measurement.attrs["axes"]
        detector.attrs["default"] = "plot"
        entry.attrs["default"] = f"{info.instrument}/{info.detector}/plot"  # FabIO wants a path of several parts here
    spec = info.frame_spec
    detector["description"] = info.model
    detector["count_time"] = info.plan.acquisition.expo_time
    detector["count_time"].attrs["units"] = "s"
    for axis, size in zip(("y_pixel_size", "x_pixel_size"), spec.pixel_size, strict=True):
        detector[axis] = size
        detector[axis].attrs["units"] = "m"
    about = group(detector, "detector_information", "NXcollection")
    about["frame_spec"] = msgspec.json.encode(spec).decode()
    about["opencl_device"] = [facts.device.encode() for facts in info.pipelines]
    about["opencl_bytes"] = [facts.device_bytes for facts in info.pipelines]
    for what, pixels in info.pipelines[0].pixels.items():  # alike on all receivers
        about[f"pixels_{what.replace(' ', '_')}"] = pixels
    params = group(detector, "params", "NXcollection")
    params["acquisition"] = msgspec.json.encode(info.plan.acquisition).decode()
    params["saving"] = msgspec.json.encode(info.plan.saving).decode()
    params["detector"] = msgspec.json.encode(msgspec.msgpack.decode(info.plan.detector)).decode()
    if info.plan.pipeline is not None:
        processing = {
            "name": info.plan.pipeline.name,
            "params": msgspec.msgpack.decode(info.plan.pipeline.params),
        }
        params["processing"] = msgspec.json.encode(processing).decode()
