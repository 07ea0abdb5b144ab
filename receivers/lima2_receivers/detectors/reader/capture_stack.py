"""Frames out of captures: what was recorded is parsed by the source of the detector that sent it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import Frame

from ...capture.format import Capture, Entry
from ...control import DetectorPlugin, Transport
from ...errors import ConfigError, DetectorError, ProtocolError
from ...packing import unpack
from ...plugins import DETECTORS
from ...source import PackedFrame, PacketSource, Run, Source, Stranger, Surveyed
from .stack import Stack

log = logging.getLogger(__name__)

SURVEYED = 4096  # packets from the beginning that tell what the frames look like
MISSING = 0xFF  # every byte of pixels that did not come, as in a receiver


def open_capture(path: Path) -> Stack:
    """Open a capture, and find the frames of the first series in it, in the order of their numbers.

    :raises ConfigError: it is no capture, its detector plugin is not installed, or there is no frame in it.
    """
    capture = Capture(path)
    try:
        plugin = DETECTORS.get(capture.head.plugin)
        try:
            settings = msgspec.convert(capture.head.settings, plugin.settings)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"capture {path}: settings of detector plugin {plugin.name}: {error}") from error
        stack = _PacketStack if plugin.transport is Transport.UDP else _MessageStack
        opened = stack(capture, plugin, settings)
    except BaseException:
        capture.close()
        raise
    if capture.flaw:
        log.warning("capture %s: %s; what is before it is played", path, capture.flaw)
    return opened


def _no_frames(capture: Capture) -> ConfigError:
    return ConfigError(
        f"capture {capture.path}: got {len(capture.entries)} records, expected a frame of detector plugin "
        f"{capture.head.plugin!r} among them"
    )


class _MessageStack:
    """Frames that came in a ZeroMQ message each.

    :param capture: closed by ``close``.
    :raises ConfigError: there are none.
    """

    def __init__(self, capture: Capture, plugin: DetectorPlugin, settings: msgspec.Struct) -> None:
        self._capture = capture
        self.model = f"Capture of {capture.head.detector}"
        kind = plugin.load_source()
        surveyed = self._survey(kind, settings)
        self.spec = surveyed.spec
        self._source = kind(plugin.params(), surveyed.spec, surveyed.series)
        found: dict[int, Entry] = {}
        others = 0
        for entry in capture.entries:
            try:
                items = self._source.receive(capture.parts(entry))
            except ProtocolError:
                others += 1
                continue
            others += any(isinstance(item, Stranger) for item in items)
            for item in items:
                if isinstance(item, Frame | PackedFrame):
                    found.setdefault(item.index, entry)
        self._frames = [entry for _, entry in sorted(found.items())]
        if not self._frames:
            raise _no_frames(capture)
        if others:
            log.warning("capture %s: %d messages are not of series %d", capture.path, others, surveyed.series)

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, index: int) -> NDArray[np.generic]:
        """Read a frame; see ``Stack``."""
        try:
            out = np.empty(self.spec.shape, self.spec.dtype)
            for item in self._source.receive(self._capture.parts(self._frames[index])):
                if isinstance(item, Frame):
                    out[...] = item.data
                elif isinstance(item, PackedFrame):
                    _unpack(item, out)
        except (ProtocolError, MemoryError) as error:  # the latter: a stranger's header may tell any size
            raise DetectorError(f"capture {self._capture.path}: frame {index}: {error}") from error
        return out

    def close(self) -> None:
        """Close the capture. Idempotent."""
        self._capture.close()

    def _survey(self, kind: type[Source[msgspec.Struct]], settings: msgspec.Struct) -> Surveyed:
        """Return what the first message that says something says.

        :raises ConfigError: none does.
        """
        for entry in self._capture.entries:
            try:
                if surveyed := kind.survey(settings, self._capture.parts(entry)):
                    return surveyed
            except ProtocolError as error:
                log.info("capture %s: a message is left out: %s", self._capture.path, error)
        raise _no_frames(self._capture)


def _unpack(frame: PackedFrame, out: NDArray[np.generic]) -> None:
    channels = out.reshape(len(frame.channels), *out.shape[-2:])
    for image, channel in zip(frame.channels, channels, strict=True):
        unpack(image, channel)


class _PacketStack:
    """Frames that came in many datagrams.

    :param capture: closed by ``close``.
    :raises ConfigError: there are none.
    """

    def __init__(self, capture: Capture, plugin: DetectorPlugin, settings: msgspec.Struct) -> None:
        self._capture = capture
        self.model = f"Capture of {capture.head.detector}"
        kind = plugin.load_packet_source()
        self._kind = kind
        surveyed = self._survey(kind, settings)
        if surveyed is None:
            raise _no_frames(capture)
        self.spec = surveyed.spec
        source = kind(settings, plugin.params(), surveyed.spec, surveyed.series)
        places = [self._locate(source, number) for number in range(len(capture.entries))]
        found = np.concatenate(places) if places else np.empty((0, 4), np.int64)
        found = found[found[:, 0] >= 0]
        if not len(found):
            raise _no_frames(capture)
        self._found = found[np.argsort(found[:, 0], kind="stable")]  # frame, record, packet of it, place in the frame
        _, starts = np.unique(self._found[:, 0], return_index=True)
        self._bounds = [*starts.tolist(), len(self._found)]

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def read(self, index: int) -> NDArray[np.generic]:
        """Read a frame; pixels that did not come have all bits set. See ``Stack``."""
        out = np.full(self.spec.nbytes, MISSING, np.uint8)
        pixels = out.reshape(-1, self._kind.payload_bytes)
        found = self._found[self._bounds[index] : self._bounds[index + 1]]
        for number in np.unique(found[:, 1]).tolist():
            packets, _ = self._packets(self._capture.entries[number])
            of_record = found[found[:, 1] == number]
            pixels[of_record[:, 3]] = packets[of_record[:, 2], self._kind.header_bytes :]
        return out.view(self.spec.dtype).reshape(self.spec.shape)

    def close(self) -> None:
        """Close the capture. Idempotent."""
        self._capture.close()

    def _survey(self, kind: type[PacketSource[Any, Any]], settings: msgspec.Struct) -> Surveyed | None:
        """Return what the first packets say."""
        taken: list[tuple[NDArray[np.uint8], NDArray[np.uint32]]] = []
        for entry in self._capture.entries:
            taken.append(self._packets(entry))
            if sum(len(sizes) for _, sizes in taken) >= SURVEYED:
                break
        if not taken:
            return None
        packets, sizes = zip(*taken, strict=True)
        return kind.survey(settings, np.concatenate(packets), np.concatenate(sizes))

    def _packets(self, entry: Entry) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """Return a record's datagrams as a receiver has them: alike in size, each with the size that it came in."""
        size = self._kind.header_bytes + self._kind.payload_bytes
        sizes = np.array(entry.sizes, np.uint32)
        joined = np.frombuffer(self._capture.joined(entry), np.uint8)
        if (sizes == size).all():
            return joined.reshape(-1, size), sizes
        packets = np.zeros((len(sizes), size), np.uint8)
        for packet, part in zip(packets, self._capture.parts(entry), strict=True):
            packet[: len(part)] = np.frombuffer(part, np.uint8)[:size]
        return packets, sizes

    def _locate(self, source: PacketSource[Any, Any], number: int) -> NDArray[np.int64]:
        """Return frame, record, packet and place of a record's packets (n, 4); the frame is below 0 for strangers."""
        packets, sizes = self._packets(self._capture.entries[number])
        located = source.locate(packets, sizes) if len(packets) else Run(-1, 0)
        n = np.arange(len(packets))
        if isinstance(located, Run):
            frames, places = np.full(len(n), located.frame), located.first + n
        else:
            frames, places = located.frames, located.places
        return np.stack([frames, np.full(len(n), number), n, places], axis=1).astype(np.int64)
