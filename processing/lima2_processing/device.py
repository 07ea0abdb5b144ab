"""Choosing an OpenCL device, and building kernels for it.

PoCL reads its environment once, when it is loaded: a daemon that limits its threads (``POCL_MAX_PTHREAD_COUNT``) or
moves its kernel cache (``POCL_CACHE_DIR``) must do so before this module is imported. A process that has used OpenCL
must not fork afterwards.
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from ._pocl import name_unknown_cpu
from .errors import DeviceError, DeviceMemoryError, KernelBuildError

_GROUP = 64  # work-items of a GPU's work-group
_FLAGS = ("-cl-std=CL1.2",)  # no fast-math: NaN marks masked pixels, infinity saturated ones


@dataclass(frozen=True, slots=True)
class Cut:
    """How the pixels, or other parts, of a frame are shared among work-items.

    :param chunk: neighbouring parts of one work-item.
    :param items: work-items of one frame, the last ones maybe with nothing to do.
    :param group: work-items of a work-group.
    """

    chunk: int
    items: int
    group: int

    def launch(self, n_frames: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the global and the local size of a kernel that works on so many frames."""
        return (self.items, n_frames), (self.group, 1)


class _Counted(cl.Buffer):
    """A buffer that can be weakly referenced, as pyopencl's own can't."""


class Device:
    """An OpenCL device with its context and kernels. A context manager.

    :param device: pyopencl's.
    :param many_items: whether work is cut into many small work-items, as a GPU wants it, or into a few long ones, as a
        CPU does; None: as the device is.
    """

    def __init__(self, device: cl.Device, many_items: bool | None = None) -> None:
        name_unknown_cpu(device)
        self.name = f"{device.name.strip()} ({device.platform.name.strip()} {_version(device.platform)})"
        self.many_items = bool(device.type & cl.device_type.GPU) if many_items is None else many_items
        self.compute_units = int(device.max_compute_units)
        self.memory = int(device.global_mem_size)  # bytes
        self.is_host = bool(device.type & cl.device_type.CPU)  # its memory is the host's
        self.context = cl.Context([device])
        self._programs: dict[tuple[Path, tuple[str, ...]], cl.Program] = {}
        self._sizes: dict[int, int] = {}  # bytes of the buffers that live, by number
        self._numbers = itertools.count()

    @property
    def allocated(self) -> int:
        """Bytes that buffers take now."""
        return sum(list(self._sizes.values()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def queue(self) -> cl.CommandQueue:
        """Return a new in-order queue; each pipeline has its own."""
        return cl.CommandQueue(self.context)

    def cut(self, parts: int, chunk: int, least: int = 1) -> Cut:
        """Return how a frame's work is cut up.

        :param parts: pixels, bins or the like of one frame.
        :param chunk: parts of one work-item that suit a CPU.
        :param least: parts of one work-item that suit a GPU, where neighbours are worked on at the same time.
        """
        size, group = (least, _GROUP) if self.many_items else (chunk, 1)
        return Cut(size, -(-parts // (size * group)) * group, group)

    def build(
        self, source: Path, constants: Mapping[str, int | float | str] | None = None, before: tuple[Path, ...] = ()
    ) -> cl.Program:
        """Return the program of a kernel file, built when first asked for.

        :param source: the ``.cl`` file.
        :param constants: what the file needs defined.
        :param before: files whose functions it uses.
        :raises KernelBuildError: it does not compile; the message holds the log.
        """
        options = (*_FLAGS, *(f"-D{name}={value}" for name, value in sorted((constants or {}).items())))
        key = (source, options)
        if key not in self._programs:
            text = "\n".join(path.read_text() for path in (*before, source))
            try:
                self._programs[key] = cl.Program(self.context, text).build(list(options))
            except cl.Error as error:
                raise KernelBuildError(f"{source.name} for {self.name}: {error}") from error
        return self._programs[key]

    def upload(self, data: NDArray[np.generic], *, writable: bool = False) -> cl.Buffer:
        """Return a buffer with a copy of an array.

        :param writable: False: kernels only read it.
        :raises DeviceMemoryError: the device has no room.
        """
        self._require_room(data.nbytes)
        try:
            access = cl.mem_flags.READ_WRITE if writable else cl.mem_flags.READ_ONLY
            flags = access | cl.mem_flags.COPY_HOST_PTR
            return self._count(_Counted(self.context, flags, hostbuf=np.ascontiguousarray(data)))
        except cl.Error as error:
            raise DeviceMemoryError(f"{self.name}: no room for {data.nbytes} bytes: {error}") from error

    def allocate(self, nbytes: int) -> cl.Buffer:
        """Return an empty buffer.

        :raises DeviceMemoryError: the device has no room.
        """
        self._require_room(nbytes)
        try:
            return self._count(_Counted(self.context, cl.mem_flags.READ_WRITE, max(4, nbytes)))
        except cl.Error as error:
            raise DeviceMemoryError(f"{self.name}: no room for {nbytes} bytes: {error}") from error

    def _require_room(self, nbytes: int) -> None:
        """Refuse what would only be missing once it is used: some devices, and all hosts, give more than they have."""
        if (taken := self.allocated) + nbytes > self.memory:
            raise DeviceMemoryError(
                f"{self.name}: no room for {nbytes} bytes: {taken} of its {self.memory} bytes are taken"
            )

    def _count(self, buffer: _Counted) -> cl.Buffer:
        number = next(self._numbers)
        self._sizes[number] = buffer.size
        weakref.finalize(buffer, self._sizes.pop, number).atexit = False
        return buffer

    def close(self) -> None:
        """Drop the kernels. Buffers belong to the pipelines that made them."""
        self._programs.clear()


def open_device(name: str = "", many_items: bool | None = None) -> Device:
    """Choose a device: a GPU before a CPU, and among equals the newest version of its platform.

    :param name: part of the device's or platform's name; empty: any.
    :param many_items: see ``Device``.
    :raises DeviceError: none fits; the message lists what was found.
    """
    found = _devices()
    fitting = [device for device in found if name.lower() in f"{device.name} {device.platform.name}".lower()]
    if not fitting:
        listed = "; ".join(f"{d.name.strip()} on {d.platform.name.strip()}" for d in found) or "none"
        wanted = f"whose name contains {name!r}" if name else "at all"
        raise DeviceError(
            f"no OpenCL device {wanted}; found: {listed}. `pip install 'lima2-ophyd[pocl]'` gives one on any CPU"
        )
    return Device(max(fitting, key=_rank), many_items)


def open_cpu() -> Device:
    """Choose a CPU device, the newest version of its platform.

    :raises DeviceError: there is none.
    """
    found = [device for device in _devices() if device.type & cl.device_type.CPU]
    if not found:
        raise DeviceError("no OpenCL CPU device; `pip install 'lima2-ophyd[pocl]'` gives one on any CPU")
    return Device(max(found, key=_rank))


def _devices() -> list[cl.Device]:
    try:
        return [device for platform in cl.get_platforms() for device in platform.get_devices()]
    except cl.Error:
        return []  # pyopencl's way to say that there is no platform


def _rank(device: cl.Device) -> tuple[bool, list[int], str, str]:
    """Return what the choice among devices goes by, the best being the largest."""
    numbers = [int(number) for number in re.findall(r"\d+", _version(device.platform).partition("-")[0])]
    return bool(device.type & cl.device_type.GPU), numbers, device.platform.name, device.name


def _version(platform: cl.Platform) -> str:
    """Return the implementation's own version, such as ``3.0-rc2`` of ``OpenCL 3.0 PoCL 3.0-rc2 Linux``."""
    words = platform.version.split()
    return words[3] if len(words) > 3 else words[1]
