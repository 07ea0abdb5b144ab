"""Fuzz what detectors send, by coverage, for a minute each: ``python tests/fuzz/fuzz_sources.py [SECONDS]``, at night.

It needs ``pip install atheris``, which is no part of the environment: its wheels are large, and every test run has
hypothesis. A crash, or an error that is no ProtocolError, ends a target, with the input in a file ``crash-*``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

SECONDS = 60


def stream2(data: bytes) -> None:
    """Parse a message of Stream2, and unpack its first channel if it is small."""
    from lima2_receivers.detectors.eiger2.events import StreamImage
    from lima2_receivers.detectors.eiger2.stream2 import parse_stream2
    from lima2_receivers.errors import ProtocolError
    from lima2_receivers.packing import unpack

    try:
        event = parse_stream2(memoryview(data))
        if isinstance(event, StreamImage) and np.prod(event.shape, dtype=float) < 10_000:
            unpack(event.channels[0], np.empty(event.shape, event.dtype))
    except ProtocolError:
        return


def stream1(data: bytes) -> None:
    """Parse a message of Stream v1; parts are what zero bytes separate."""
    from lima2_receivers.detectors.eiger2.stream1 import parse_stream1
    from lima2_receivers.errors import ProtocolError

    try:
        parse_stream1([memoryview(part) for part in data.split(b"\0")])
    except ProtocolError:
        return


def packing(data: bytes) -> None:
    """Unpack pixels in either packing."""
    from lima2_receivers.errors import ProtocolError
    from lima2_receivers.packing import PackedImage, Packing, check_packed, unpack

    for kind in Packing:
        try:
            if kind is Packing.BSLZ4:
                check_packed(PackedImage(kind, data), 4096, 2)
            unpack(PackedImage(kind, data), np.empty(2048, "<u2"))
        except ProtocolError:
            continue


def simulator(data: bytes) -> None:
    """Parse a message of the simulated detectors; the first 72 bytes are its header."""
    import msgspec

    from lima2_processing.frame import FrameSpec
    from lima2_receivers.detectors.stream import StreamSource
    from lima2_receivers.errors import ProtocolError

    try:
        source = StreamSource(msgspec.Struct(), FrameSpec((4, 8), "<u2"), 1)
        source.receive([memoryview(data[:72]), memoryview(data[72:])])
    except ProtocolError:
        return


def jungfrau(data: bytes) -> None:
    """Find the places of packets: their headers are what is fuzzed, and every place has to be within the frame."""
    from lima2_receivers.detectors.jungfrau.packets import PACKET
    from lima2_receivers.detectors.jungfrau.params import JungfrauParams, JungfrauSettings, frame_spec
    from lima2_receivers.detectors.jungfrau.source import JungfrauSource
    from lima2_receivers.source import Run

    settings = JungfrauSettings(control="ipc:///c", folder="/f", modules=(2, 2), interfaces=2)
    spec = frame_spec(settings, 64)
    n_packets = spec.nbytes // JungfrauSource.payload_bytes
    headers = [data[at : at + 48] for at in range(0, len(data) - 47, 48)][:16]
    if not headers:
        return
    packets = np.zeros((len(headers), PACKET.itemsize), np.uint8)
    for row, header in zip(packets, headers, strict=True):
        row[:48] = np.frombuffer(header, np.uint8)
    sizes = np.full(len(headers), PACKET.itemsize, np.uint32)
    located = JungfrauSource(settings, JungfrauParams(64), spec, 5).locate(packets, sizes)
    if isinstance(located, Run):
        good = located.frame < 0 or 0 <= located.first <= n_packets - len(headers)
    else:
        places = located.places[located.frames >= 0]
        good = bool(((places >= 0) & (places < n_packets)).all())
    if not good:
        raise AssertionError(f"{located}: a place is not within the frame of {n_packets} packets")


def seeds(name: str) -> list[bytes]:
    """Return good input to begin with."""
    from lima2_processing.frame import FrameSpec
    from lima2_receivers.detectors.eiger2 import packets
    from lima2_receivers.detectors.jungfrau.packets import packets_of
    from lima2_receivers.detectors.stream import encode_end, encode_frame_header
    from lima2_receivers.packing import Packing

    image = np.arange(2048, dtype="<u2").reshape(32, 64)
    when = datetime(2026, 1, 1, tzinfo=UTC)
    match name:
        case "stream2":
            start = packets.start2(1, image, ("threshold_1",), 4, when, {"pixel_mask": {"threshold_1": image}}, "note")
            images = {"threshold_1": image, "difference": image}
            return [start, packets.image2(1, 0, images, Packing.BSLZ4, when, 0.5, "note"), packets.end2(1)]
        case "stream1":
            parts = [packets.start1(1), packets.image1(1, 0, image, Packing.BSLZ4, "note"), packets.end1(1)]
            return [b"\0".join(message) for message in parts]
        case "packing":
            return [packets.pack(image, Packing.BSLZ4), image.tobytes()]
        case "simulator":
            spec = FrameSpec((4, 8), "<u2")
            return [encode_frame_header(spec, 1, 0, 1, 0.0) + bytes(spec.nbytes), encode_end(1, 4)]
        case _:
            frame = np.zeros((4, 64, 1024), np.uint16)
            return [b"".join(header for _, header, _ in packets_of(frame, 7, 2, 2))[: 48 * 16]]


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (stream2, stream1, packing, simulator, jungfrau)
}


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris  # pyright: ignore[reportMissingImports]

    target = TARGETS[name]
    with atheris.instrument_imports(include=["lima2_receivers"]):
        target(b"")  # imports what is to be watched
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds(name)):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=8192", corpus], target)
        atheris.Fuzz()


def main() -> int:
    """Fuzz all targets, one after the other; 1: one failed."""
    if len(sys.argv) == 3:
        fuzz(sys.argv[1], int(sys.argv[2]))
    seconds = sys.argv[1] if len(sys.argv) > 1 else str(SECONDS)
    commands = {name: [sys.executable, __file__, name, seconds] for name in TARGETS}
    failed = [name for name, command in commands.items() if subprocess.run(command, check=False).returncode]
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else f"{len(TARGETS)} targets, none failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
