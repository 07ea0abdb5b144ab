"""Packed frames on their way through a share: unpacked where somebody needs their pixels, else saved as they came."""

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import msgspec
import numpy as np
import pytest

from lima2_processing.frame import FrameResult, FrameSpec, Output, OutputKind, Results
from lima2_receivers.acquisition import Acquisition, Event
from lima2_receivers.ledger import FrameStatus
from lima2_receivers.packing import PackedImage, Packing
from lima2_receivers.plan import Compression, SavingParams, StreamSaving, raw_output
from lima2_receivers.receiver import unpacking
from lima2_receivers.receiver.ring import FrameRing
from lima2_receivers.receiver.rows import FixedRows
from lima2_receivers.receiver.share import Share
from lima2_receivers.saving.codecs import encode
from lima2_receivers.saving.part import PartFiles
from lima2_receivers.source import PackedFrame, Source
from lima2_receivers.topology import RoundRobin

SHAPE = (70, 50)
MEAN = Output("mean", OutputKind.SCALAR, "<f8", (), "results")


class NoSource(Source):
    def receive(self, message):
        raise NotImplementedError


class Means:
    """A pipeline that needs the pixels."""

    def process(self, frames):
        return Results(tuple(FrameResult(frame.index, {"mean": np.array(frame.data.mean())}) for frame in frames))

    def finish(self):
        return ()

    def close(self):
        pass


def image(index, channels=1):
    found = np.random.default_rng(index).poisson(index + 1, (channels, *SHAPE)).astype("<u2")
    return found if channels > 1 else found[0]


def packed(index, channels=1, packing=Packing.BSLZ4):
    data = image(index, channels).reshape(-1, *SHAPE)
    pack = {
        Packing.BSLZ4: lambda one: bytes(encode(Compression.BSHUF_LZ4, one)),
        Packing.NONE: lambda one: one.tobytes(),
    }
    return PackedFrame(index, tuple(PackedImage(packing, pack[packing](one)) for one in data), 1000.0 + index)


def run(folder, frames, pipeline=None, channels=1, compression=Compression.BSHUF_LZ4):
    """Save frames, and return the statuses and reasons of the rows."""
    spec = FrameSpec(SHAPE if channels == 1 else (channels, *SHAPE), "<u2")
    outputs = (raw_output(spec), *((MEAN,) if pipeline else ()))
    saving = SavingParams(str(folder), "run", streams={"raw": StreamSaving(compression=compression)})
    ring = FrameRing(4, spec.nbytes)
    machine = Acquisition("acquisition")
    share = Share(
        acquisition=machine,
        rows=FixedRows(RoundRobin(1), 0),
        source=NoSource(msgspec.Struct(), spec, 1),
        pipeline=pipeline,
        outputs=outputs,
        files=PartFiles(folder, 0, saving, outputs, (), {}),
        ring=ring,
        batch=3,
        encoders=2,
        flush_period=0.01,
        drain_timeout=60.0,
    )
    machine.handle(Event.READY)
    share.start()
    for frame in frames:
        slot = ring.take(10.0)
        assert share.accept(frame, slot)
    share.announce(len(frames), final=True)
    share.close()
    assert ring.free == ring.slots
    return [(r.status, r.reason) for r in share.progress("0" * 32, 0).runs for _ in range(r.count)]


def raw(folder):
    with h5py.File(folder / "run_raw_0.h5", "r") as file:
        return file["/entry_0000/raw/raw"][()]


@pytest.mark.parametrize("packing", [Packing.BSLZ4, Packing.NONE])
@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("channels", [1, 2])
def test_pixels_are_saved_right(tmp_path, packing, compression, channels):
    frames = [packed(index, channels, packing) for index in range(7)]
    assert run(tmp_path, frames, channels=channels, compression=compression) == [(FrameStatus.SAVED, "")] * 7
    np.testing.assert_array_equal(raw(tmp_path), [image(index, channels) for index in range(7)])


def test_what_nobody_needs_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.delattr(unpacking, "unpack")
    frames = [packed(index) for index in range(5)]
    assert run(tmp_path, frames) == [(FrameStatus.SAVED, "")] * 5
    with h5py.File(tmp_path / "run_raw_0.h5", "r") as file:
        for index, frame in enumerate(frames):
            _, chunk = file["/entry_0000/raw/raw"].id.read_direct_chunk((index, 0, 0))
            assert chunk == frame.channels[0].data


def test_a_pipeline_gets_the_pixels_and_they_are_saved_too(tmp_path):
    assert run(tmp_path, [packed(index) for index in range(7)], Means()) == [(FrameStatus.SAVED, "")] * 7
    np.testing.assert_array_equal(raw(tmp_path), [image(index) for index in range(7)])
    with h5py.File(tmp_path / "run_results_0.h5", "r") as file:
        found = file["/entry_0000/results/mean"][()]
    np.testing.assert_allclose(found, [image(index).mean() for index in range(7)])


@pytest.mark.parametrize("pipeline", [None, Means()], ids=["saved as it came", "unpacked"])
def test_a_frame_that_can_not_be_unpacked_fails_alone(tmp_path, pipeline):
    frames = [packed(index) for index in range(6)]
    cut = PackedImage(Packing.BSLZ4, frames[2].channels[0].data[:-40])
    frames[2] = PackedFrame(2, (cut,), 0.0)
    fates = run(tmp_path, frames, pipeline)
    assert [status for status, _ in fates] == [FrameStatus.FAILED if at == 2 else FrameStatus.SAVED for at in range(6)]
    assert fates[2][1].startswith("its pixels can't be unpacked: ")
    expected = [image(index) if index != 2 else np.full(SHAPE, 65535) for index in range(6)]
    np.testing.assert_array_equal(raw(tmp_path), expected)


def test_what_nobody_expected_while_unpacking_fails_the_frame_alone(tmp_path, monkeypatch):
    """Such as no memory; the slot of the frame is given back, which ``run`` checks."""
    unpack, calls = unpacking.unpack, []

    def fail_once(image, out):
        calls.append(image)
        if len(calls) == 2:
            raise MemoryError("none left")
        unpack(image, out)

    monkeypatch.setattr(unpacking, "unpack", fail_once)
    fates = run(tmp_path, [packed(index, 1, Packing.BSLZ4) for index in range(4)], compression=Compression.NONE)
    assert sorted(fates) == [(FrameStatus.SAVED, "")] * 3 + [
        (FrameStatus.FAILED, "its pixels can't be unpacked: none left")
    ]
