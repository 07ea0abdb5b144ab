"""Ideas beyond the smx pipeline as it is, each against what it would replace, all in turns in one run.

- One pass a frame: count values and list candidates together, against the thresholds of the frame before.
- 16-bit calibration planes for a Jungfrau: less memory to read.
- bslz4 decoded straight into the table of values: the image is never written.

Each idea is checked before it is timed. What it would cost to verify and to redo is left out: it is the most to gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import figures
import frames
import numpy as np
import pyopencl as cl
from bench_smx import PARAMS, correction
from numpy.typing import NDArray

from lima2_processing.device import Device, open_device
from lima2_processing.frame import FrameSpec
from lima2_processing.pipelines.smx_setup import make_bins, make_images
from lima2_processing.stages.pixels import SOURCE, pixels_of
from lima2_processing.stages.radial_background import RadialBackground
from lima2_processing.stages.sparsify import Sparsify
from lima2_receivers.plan import Compression
from lima2_receivers.saving.codecs import encode

LEVELS = 128
ELEMENTS = 4096  # of a bitshuffled block of uint16
KERNELS = Path(__file__).with_name("ideas.cl")
PIXELS = pixels_of("<u2")


def build(device: Device, name: str, define: str) -> cl.Kernel:
    """Return a kernel of ``ideas.cl``."""
    program = device.build(KERNELS, {**PIXELS.constants, "LEVELS": LEVELS, define: 1}, (SOURCE,))
    return cl.Kernel(program, name)


def check(what: str, found: NDArray[np.generic], expected: NDArray[np.generic]) -> None:
    """Compare an idea's result with the reference.

    :raises ValueError: it is wrong.
    """
    if not np.array_equal(found, expected):
        raise ValueError(f"{what}: {np.count_nonzero(found != expected)} values are wrong")


class Counting:
    """Everything that counts an image's values by bin.

    :param device: where it runs.
    :param image: uint16 (rows, cols).
    """

    def __init__(self, device: Device, image: NDArray[np.uint16]) -> None:
        self._device, self._queue = device, device.queue()
        spec, files = FrameSpec(frames.SHAPE, "<u2"), {"mask": frames.eiger_mask()}
        made = make_images(PARAMS, spec, device, files, 1)
        self._bins, _ = make_bins(PARAMS, spec, files, made.bad)
        self._image, self._on_device = image, device.upload(image)
        self._sizes = (np.uint32(image.size), np.uint32(PARAMS.n_bins))
        self._parts = device.compute_units
        self._number = device.upload(np.append(self._bins.number.ravel(), np.zeros(ELEMENTS, np.uint16)))
        self._table = device.allocate(self._parts * (PARAMS.n_bins + 1) * LEVELS * 4)
        self._ceiling = np.uint32(frames.MASKED)

    def expected(self) -> NDArray[np.uint32]:
        """Return the table (bins, levels) as NumPy counts it."""
        used = self._image.ravel() < self._ceiling
        cells = self._bins.number.ravel().astype(np.int64) * LEVELS + np.minimum(self._image.ravel(), LEVELS - 1)
        counts = np.bincount(cells[used], minlength=(PARAMS.n_bins + 1) * LEVELS)
        return counts.reshape(-1, LEVELS)[:-1].astype(np.uint32)

    def table(self) -> NDArray[np.uint32]:
        """Return the table (bins, levels) on the device."""
        parts = np.empty((self._parts, PARAMS.n_bins + 1, LEVELS), np.uint32)
        cl.enqueue_copy(self._queue, parts, self._table)
        return parts.sum(axis=0, dtype=np.uint32)[:-1]

    def two_passes(self) -> figures.Contender:
        """Return background and sparse pixels as the pipeline makes them: two passes over the image."""
        background = RadialBackground(
            self._device, self._bins, PIXELS, PARAMS.cutoff_clip, PARAMS.cycle, poisson=False, batch=1
        )
        sparsify = Sparsify(self._device, self._bins, PIXELS, PARAMS.cutoff_pick, PARAMS.noise, 1)

        def run() -> None:
            sparsify.run(self._queue, self._on_device, background.enqueue(self._queue, self._on_device, 1), 1)
            self._queue.finish()

        return figures.Contender(run)

    def background_alone(self) -> figures.Contender:
        """Return the background as the pipeline makes it: the first of the two passes."""
        background = RadialBackground(
            self._device, self._bins, PIXELS, PARAMS.cutoff_clip, PARAMS.cycle, poisson=False, batch=1
        )

        def run() -> None:
            background.enqueue(self._queue, self._on_device, 1)
            self._queue.finish()

        return figures.Contender(run)

    def one_pass(self) -> figures.Contender:
        """Return one pass that counts and lists candidates."""
        kernel = build(self._device, "one_pass", "ONE_PASS")
        limit = self._device.upload(np.full(PARAMS.n_bins + 1, 30, np.float32))
        found = self._device.allocate(self._image.size * 4)
        counts = self._device.allocate(self._parts * 4)
        chunk = -(-self._image.size // self._parts)
        arguments = (self._on_device, self._number, self._table, limit, found, counts, self._ceiling, *self._sizes)

        def run() -> None:
            kernel(self._queue, (self._parts,), (1,), *arguments, np.uint32(chunk))
            self._queue.finish()

        run()
        check("one pass", self.table(), self.expected())
        return figures.Contender(run)

    def decoding(self) -> figures.Contender:
        """Return decoding into the table, the packed frame being uploaded first."""
        packed, starts = blocks_of(bytes(encode(Compression.BSHUF_LZ4, self._image)))
        kernel = build(self._device, "decode", "DECODE")
        room, where = self._device.upload(packed, writable=True), self._device.upload(starts)
        n_blocks = len(starts) - 1
        per_item = -(-n_blocks // self._parts)
        sizes = (np.uint32(n_blocks), self._sizes[1], np.uint32(per_item))

        def run() -> None:
            cl.enqueue_copy(self._queue, room, packed)
            cl.enqueue_copy(self._queue, where, starts)
            kernel(self._queue, (self._parts,), (1,), room, where, self._number, self._table, self._ceiling, *sizes)
            self._queue.finish()

        run()
        tail = self._image.size % ELEMENTS  # a last block of fewer pixels is laid out otherwise: left out here
        counted = int(self.table().sum())
        expected = int((self._image.ravel()[: self._image.size - tail] < self._ceiling).sum())
        outside = int((self._bins.number.ravel()[: self._image.size - tail] == PARAMS.n_bins).sum())
        if not expected - outside <= counted <= expected:
            raise ValueError(f"decoding: counted {counted} pixels, expected {expected - outside} to {expected}")
        return figures.Contender(run)

    def decoding_first(self) -> figures.Contender:
        """Return what is done without the idea: decoding by the library, uploading, and counting."""
        import h5py
        import hdf5plugin

        file = h5py.File("packed", "w", driver="core", backing_store=False)
        shape = self._image.shape
        made = file.create_dataset("image", shape, "<u2", chunks=shape, **hdf5plugin.Bitshuffle())
        made.id.write_direct_chunk((0, 0), bytes(encode(Compression.BSHUF_LZ4, self._image)))
        host = np.empty_like(self._image)
        count = self.background_alone()

        def run() -> None:
            made.id.refresh()
            made.read_direct(host)
            cl.enqueue_copy(self._queue, self._on_device, host)
            count.run()

        return figures.Contender(run)


def blocks_of(chunk: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Return the bytes of a bslz4 chunk, and where in them its whole LZ4 blocks begin, and the last ends."""
    total = int.from_bytes(chunk[:8], "big")
    starts: list[int] = []
    at = 12
    for _ in range(total // (2 * ELEMENTS)):
        size = int.from_bytes(chunk[at : at + 4], "big")
        starts.append(at + 4)
        at += 4 + size
    return np.frombuffer(chunk, np.uint8), np.array([*starts, at + 4], np.uint32)


def narrow(device: Device) -> figures.Contender:
    """Return the Jungfrau correction with 16-bit planes."""
    _, raw, files = frames.jungfrau_4m()
    pedestal, gain = (np.asarray(files[name], np.float64).reshape(3, -1) for name in ("pedestal.0", "gain.0"))
    factor = 1 / gain
    scale = np.abs(factor).max() / 65535
    planes: Sequence[NDArray[np.float64]] = (pedestal * 4, np.abs(factor) / scale)
    buffers = [device.upload(np.rint(plane).astype(np.uint16)) for plane in planes]
    kernel, queue, words = build(device, "narrow", "NARROW"), device.queue(), device.upload(raw)
    result = device.allocate(raw.size * 4)
    chunk = 16384

    def run() -> None:
        sizes = (np.float32(scale), np.uint32(raw.size), np.uint32(chunk))
        kernel(queue, (-(-raw.size // chunk),), (1,), words, *buffers, result, *sizes)
        queue.finish()

    return figures.Contender(run)


def main() -> None:
    """Measure and report."""
    options = figures.arguments(__doc__ or "")
    device = open_device()
    counting = Counting(device, frames.eiger())
    contenders = {
        "background and sparse pixels": counting.two_passes(),
        "background": counting.background_alone(),
        "one pass": counting.one_pass(),
        "decode, upload, background": counting.decoding_first(),
        "decoding into the table": counting.decoding(),
        "Jungfrau correction": correction(device),
        "16-bit planes": narrow(device),
    }
    times = figures.measure(contenders, options.rounds, options.json)
    pairs = {
        "one pass": "background and sparse pixels",
        "decoding into the table": "decode, upload, background",
        "16-bit planes": "Jungfrau correction",
    }
    found = [
        figures.Figure(
            name, times[name], "ms", f"{base}, {times[base]:.2f} ms", times[base] / times[name], "", None, device.name
        )
        for name, base in pairs.items()
    ]
    figures.report(found, options)


if __name__ == "__main__":
    main()
