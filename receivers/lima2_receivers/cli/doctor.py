"""``lima2 doctor``: whether this host can do what a configuration asks of it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import typer

from ..config import Config, detector_settings, load_config
from ..daemons import BAD_START
from ..errors import ReceiverError, SavingError
from ..plugins import DETECTORS
from ..rollover import SavingMode
from ..transport.datagrams import enlarge
from .operations import ConfigPath, Json

PACKAGES = ("lima2-ophyd", "h5py", "hdf5plugin", "numpy", "pyzmq", "msgspec", "pyopencl", "ophyd-async", "tiled")
SOMETHING_WRONG = 1  # exit status
FULL = 0.95  # share of a file system that is taken, from which on it is worth a warning


class Verdict(StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(msgspec.Struct, frozen=True):
    """What one check found.

    :param check: what was looked at.
    :param text: what there is, or what is wrong and what to do.
    """

    check: str
    verdict: Verdict
    text: str


def doctor(config: ConfigPath, json: Json = False) -> None:
    """Check this host: file systems of the saving roots, compression, OpenCL devices, buffers of sockets, versions.

    Exit status 0: nothing is wrong, though there may be warnings; 1: something is; 2: the configuration can't be read.
    """
    try:
        settings = load_config(config)
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error
    findings = list(examine(settings))
    if json:
        typer.echo(msgspec.json.encode(findings).decode())
    else:
        for finding in findings:
            typer.echo(f"{finding.verdict:7} {finding.check}: {finding.text}")
    if any(finding.verdict is Verdict.ERROR for finding in findings):
        raise typer.Exit(SOMETHING_WRONG)


def examine(config: Config) -> Iterator[Finding]:
    """Yield what is found on this host."""
    yield Finding("versions", Verdict.OK, _versions())
    for root in config.saving.roots:
        yield _look(f"saving.roots {root}", lambda root=root: _root(Path(root), config))
    yield _look("compression", _codecs)
    for rank, receiver in enumerate(config.receivers):
        yield _look(f"receivers[{rank}].opencl", lambda wanted=receiver.opencl.device: _device(wanted))
    if any(receiver.data.startswith("udp:") for receiver in config.receivers):
        yield _look("udp receive buffer", lambda: _buffer(config))


def _look(check: str, look: Callable[[], tuple[Verdict, str]]) -> Finding:
    try:
        verdict, text = look()
    except Exception as error:  # whatever is broken on this host, the other checks go on
        verdict, text = Verdict.ERROR, str(error) or type(error).__name__
    return Finding(check, verdict, text)


def _versions() -> str:
    import h5py

    found = [f"Python {platform.python_version()}", f"HDF5 {h5py.version.hdf5_version}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def _root(root: Path, config: Config) -> tuple[Verdict, str]:
    from ..saving.file_systems import Promise, swmr_promise
    from ..saving.probe import probe

    if not root.is_dir():
        raise SavingError(f"{root} is not there, or not a folder: is its file system mounted?")
    mode = config.saving.mode
    mount = probe(root, mode, config.saving.swmr_on)
    usage = shutil.disk_usage(root)
    text = f"{mount.kind}, mounted on {mount.point}, {usage.free / 2**30:.1f} GiB free; saving.mode {mode} works"
    if mode is SavingMode.SWMR and swmr_promise(mount.kind) is not Promise.HOLDS:
        return Verdict.WARNING, (
            f"{text} on this host, but it is not known whether other hosts see what is written: "
            'saving.mode = "close_per_file" is safe'
        )
    full = usage.used / usage.total if usage.total else 0.0
    return (Verdict.WARNING, f"{text}; it is {full:.0%} full") if full > FULL else (Verdict.OK, text)


def _codecs() -> tuple[Verdict, str]:
    import numpy as np

    from ..plan import Compression
    from ..saving.codecs import decode, encode

    data = np.arange(4096, dtype="<u2").reshape(64, 64)
    for kind in Compression:
        if not np.array_equal(decode(kind, encode(kind, data), data.shape, data.dtype.str), data):
            return Verdict.ERROR, f"{kind} does not give back what went in"
    return Verdict.OK, ", ".join(Compression)


def _device(wanted: str) -> tuple[Verdict, str]:
    try:
        from lima2_processing.device import open_device
    except ImportError as error:
        return Verdict.WARNING, f"no OpenCL: {error}; acquisitions without a pipeline work"
    with open_device(wanted) as device:
        text = f"{device.name}, {device.compute_units} compute units, {device.memory / 2**30:.1f} GiB"
    return Verdict.OK, text


def _buffer(config: Config) -> tuple[Verdict, str]:
    settings = msgspec.to_builtins(detector_settings(config, DETECTORS.get(config.detector.plugin).settings))
    asked = int(settings.get("receive_buffer", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        granted = enlarge(probe, asked)
    if granted >= asked:
        return Verdict.OK, f"{granted} bytes granted, detector.settings.receive_buffer asks for {asked}"
    return Verdict.WARNING, (
        f"{granted} bytes granted to user {os.geteuid()}, detector.settings.receive_buffer asks for {asked}: "
        f"`sysctl -w net.core.rmem_max={asked}`"
    )
