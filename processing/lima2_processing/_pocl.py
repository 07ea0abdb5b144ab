"""A workaround for PoCL on CPUs that are younger than its compiler.

The PoCL that comes as a wheel (3.0, LLVM 14) doesn't know the names of newer CPUs, calls them ``generic``, and then
refuses to compile for that name (https://github.com/pocl/pocl/issues/1049). There is no setting for it, but the name
is a field of PoCL's device structure, behind the target triple: this replaces it by the level of the x86-64
instruction set that the CPU has. Memory is read through the kernel, so that a wrong guess gives an error and not a
crash, and nothing is changed unless the field is found beyond doubt.
"""

from __future__ import annotations

import ctypes
import os
import platform
from itertools import pairwise
from pathlib import Path

import pyopencl as cl

_FIELDS = 4096  # bytes of the structure that are searched
_WORD = 8
_UNKNOWN = b"generic\0"
_TRIPLE = b"x86_64-"
_V3_FLAGS = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}

_names: list[ctypes.Array[ctypes.c_char]] = []  # PoCL keeps pointers to them


def name_unknown_cpu(device: cl.Device) -> str:
    """Give a PoCL device whose CPU has no name one that its compiler knows, and return it.

    :returns: the name given; empty where nothing was changed, since nothing was wrong.
    """
    is_pocl = device.platform.name == "Portable Computing Language" and bool(device.type & cl.device_type.CPU)
    if not is_pocl or platform.machine() != "x86_64" or platform.system() != "Linux":
        return ""
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        fields = _read(memory, device.int_ptr, _FIELDS)
        words = [int.from_bytes(fields[at : at + _WORD], "little") for at in range(0, len(fields), _WORD)]
        places = [
            at
            for at, (triple, name) in enumerate(pairwise(words))
            if _read(memory, name, len(_UNKNOWN)) == _UNKNOWN and _read(memory, triple, len(_TRIPLE)) == _TRIPLE
        ]
    finally:
        os.close(memory)
    if len(places) != 1:
        return ""
    level = "x86-64-v3" if _cpu_flags() >= _V3_FLAGS else "x86-64"
    name = ctypes.create_string_buffer(level.encode())
    _names.append(name)
    ctypes.c_void_p.from_address(device.int_ptr + (places[0] + 1) * _WORD).value = ctypes.addressof(name)
    return level


def _read(memory: int, address: int, size: int) -> bytes:
    """Read this process's memory; empty where there is none."""
    try:
        return os.pread(memory, size, address)
    except (OSError, OverflowError):
        return b""


def _cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()
