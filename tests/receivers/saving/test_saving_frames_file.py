"""Frames of any receiver: read by the table while they grow and afterwards, and by plain h5py when all is settled."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from lima2_processing.frame import OutputKind
from lima2_receivers.acquisition import Outcome
from lima2_receivers.errors import SavingError
from lima2_receivers.ledger import Counts, FrameStatus, has_data
from lima2_receivers.plan import FileExistsPolicy
from lima2_receivers.saving.cxi import write_cxi
from lima2_receivers.saving.frames_file import FramesFile
from lima2_receivers.saving.h5 import claim
from lima2_receivers.saving.ledger_file import LedgerFile, LedgerSummary
from lima2_receivers.saving.mapping import BLOCK
from lima2_receivers.saving.merge import merge_sparse
from lima2_receivers.saving.read import open_file, read_frame, read_rows, read_sparse_frame
from lima2_receivers.topology import NO_RECEIVER, NO_ROW, Places

MEASUREMENT = "/entry_0000/measurement"
SUMMARY = LedgerSummary("0" * 32, 0, "triggers", Counts(), {}, Outcome.COMPLETE, "")


class Dealt:
    """Frames dealt to receivers, in some order of arrival; some are lost."""

    def __init__(self, n_receivers, n_frames, seed=0):
        random = np.random.default_rng(seed)
        self.receivers = random.integers(0, n_receivers, n_frames).astype("u2")
        self.receivers[random.random(n_frames) < 0.1] = NO_RECEIVER
        self.rows = np.full(n_frames, NO_ROW, "u8")
        self.orders = []
        for rank in range(n_receivers):
            mine = np.flatnonzero(self.receivers == rank)
            late = random.permutation(len(mine)) // 3  # frames overtake each other a little
            self.orders.append(mine[np.argsort(np.arange(len(mine)) + late % 3, kind="stable")].tolist())
            self.rows[self.orders[rank]] = np.arange(len(mine))

    def places(self, first, last):
        return Places(self.receivers[first:last], self.rows[first:last])


def check(model, read, n_frames, dealt, name):
    output = next(output for output in model.OUTPUTS if output.name == name)
    values = read(name)
    assert values.shape == (n_frames, *output.shape)
    for frame in range(n_frames):
        if dealt.receivers[frame] == NO_RECEIVER:
            np.testing.assert_array_equal(values[frame], np.full(output.shape, output.fill, output.dtype))
        else:
            np.testing.assert_array_equal(values[frame], model.values(frame)[name])


@pytest.mark.parametrize("n_receivers", [2, 3])
def test_frames_are_found_while_files_grow_and_when_they_are_closed(model, make_master, tmp_path, n_receivers):
    n_frames = 60
    dealt = Dealt(n_receivers, n_frames, n_receivers)
    parts = [model.part_files(tmp_path, rank) for rank in range(n_receivers)]
    ledger = LedgerFile(tmp_path / "run_ledger.h5", dealt)
    master, _ = make_master(n_receivers, frames="run_frames.h5")
    images = [output.name for output in model.OUTPUTS if output.kind is not OutputKind.SPARSE]

    def ours(name):
        return read_rows(master, f"{MEASUREMENT}/{'data' if name == 'dense' else name}")

    written = 0
    for until in (25, n_frames):
        for rank, part in enumerate(parts):
            for row, frame in enumerate(dealt.orders[rank]):
                if written <= frame < until:
                    part.write((model.encoded(part, row, frame),))
            part.flush()
        statuses = np.where(dealt.receivers[written:until] == NO_RECEIVER, 3, 1)
        ledger.append(statuses, np.zeros(until - written), (statuses == 1).astype("u8"))
        ledger.flush()
        written = until
        if until < n_frames:
            for name in images:
                check(model, ours, until, dealt, name)
    for rank, part in enumerate(parts):
        part.close(len(dealt.orders[rank]))
    ledger.close(SUMMARY)
    with open_file(master) as file:
        assert file[MEASUREMENT].get("n_peaks") is None  # its file is still to be made
    saved = [output for output in model.OUTPUTS if output.name in images]
    outputs = [("data" if output.name == "dense" else output.name, output) for output in saved]
    files = [part.names for part in parts]
    FramesFile(claim(tmp_path / "run_frames.h5", FileExistsPolicy.ABORT), outputs, files).write(
        dealt.places(0, n_frames), [len(order) for order in dealt.orders]
    )
    for name in images:
        check(model, ours, n_frames, dealt, name)

    def plain(name):
        with h5py.File(master) as file:
            return file[f"{MEASUREMENT}/{name}"][()]

    for name in images:
        check(model, plain, n_frames, dealt, name)
    np.testing.assert_array_equal(plain("data"), plain("dense"))
    with h5py.File(master) as file:
        assert file[file["entry_0000"].attrs["default"].join(("entry_0000/", "/data"))].shape[0] == n_frames

    for frame in range(n_frames):
        sparse = read_sparse_frame(master, frame)
        lost = dealt.receivers[frame] == NO_RECEIVER
        expected = np.empty(0) if lost else model.values(frame)["sparse"].index
        np.testing.assert_array_equal(sparse.index, expected)
    assert merge_sparse(master, tmp_path / "merged.h5") == n_frames
    with pytest.raises(SavingError, match=f"has no frame {n_frames}"):
        read_frame(master, f"{MEASUREMENT}/data", n_frames)


def test_many_frames_take_several_mappings(model, tmp_path):
    n_frames, n_receivers = 2 * BLOCK + 100, 3
    dealt = Dealt(n_receivers, n_frames)
    output = next(output for output in model.OUTPUTS if output.name == "n_peaks")
    for rank, order in enumerate(dealt.orders):
        with h5py.File(tmp_path / f"run_{rank}.h5", "w") as part:
            part["entry_0000/results/n_peaks"] = np.array(order, "<i4")
    frames = FramesFile(
        claim(tmp_path / "run_frames.h5", FileExistsPolicy.ABORT),
        [("n_peaks", output)],
        [{"results": f"run_{rank}.h5"} for rank in range(n_receivers)],
    )
    frames.write(dealt.places(0, n_frames), [len(order) for order in dealt.orders])
    with h5py.File(tmp_path / "run_frames.h5") as file:
        made = file[f"{MEASUREMENT}/n_peaks"]
        expected = np.where(dealt.receivers == NO_RECEIVER, output.fill, np.arange(n_frames))
        np.testing.assert_array_equal(made[()], expected)
        assert len(made.virtual_sources()) >= 3 * n_receivers


def test_a_run_of_no_frames_has_a_file_of_none(model, tmp_path):
    output = model.OUTPUTS[0]
    frames = FramesFile(claim(tmp_path / "run_frames.h5", FileExistsPolicy.ABORT), [("raw", output)], [{"raw": "a.h5"}])
    frames.write(Places(np.empty(0, "u2"), np.empty(0, "u8")), [0])
    with h5py.File(tmp_path / "run_frames.h5") as file:
        assert file[f"{MEASUREMENT}/raw"].shape == (0, *output.shape)


def write_dealt(model, make_master, folder, n_receivers, n_frames):
    """Write what a run has before it is closed: part files, ledger and master, and no file of all frames."""
    dealt = Dealt(n_receivers, n_frames)
    master, _ = make_master(n_receivers, frames="run_frames.h5")
    (folder / "run_frames.h5").touch()
    for rank, order in enumerate(dealt.orders):
        part = model.part_files(folder, rank)
        part.write([model.encoded(part, row, frame) for row, frame in enumerate(order)])
        part.flush()
        part.close(len(order))
    ledger = LedgerFile(folder / "run_ledger.h5", dealt)
    statuses = np.where(dealt.receivers == NO_RECEIVER, 3, 1)
    ledger.append(statuses, np.zeros(n_frames), (statuses == 1).astype("u8"))
    ledger.close(SUMMARY)
    assert any(sorted(order) != order for order in dealt.orders), "some frames have overtaken others"
    return master, dealt


@pytest.mark.parametrize("hits_only", [False, True])
@pytest.mark.parametrize("block", [7, 1024])
def test_exports_find_frames_by_the_table(model, make_master, tmp_path, monkeypatch, hits_only, block):
    monkeypatch.setattr("lima2_receivers.saving.mapping.BLOCK", block)
    monkeypatch.setattr("lima2_receivers.saving.merge.BLOCK", block)
    n_frames = 50
    master, dealt = write_dealt(model, make_master, tmp_path, 3, n_frames)
    lost = dealt.receivers == NO_RECEIVER
    frames = [frame for frame in range(n_frames) if not hits_only or (frame % 2 and not lost[frame])]
    assert write_cxi(master, tmp_path / "peaks.cxi", hits_only=hits_only) == len(frames)
    with h5py.File(tmp_path / "peaks.cxi") as file:
        images = file["entry_1/data_1/data"][()]
        n_peaks = file["entry_1/result_1/nPeaks"][()]
    for at, frame in enumerate(frames):
        dense = np.full(model.SHAPE, np.nan) if lost[frame] else model.values(frame)["dense"]
        np.testing.assert_array_equal(images[at], dense)
        assert n_peaks[at] == (0 if lost[frame] else min(frame, 6))
    assert merge_sparse(master, tmp_path / "merged.h5", hits_only=hits_only) == len(frames)
    with h5py.File(tmp_path / "merged.h5") as file:
        columns = {name: file[f"entry_0000/sparse_frames/{name}"][()] for name in ("frame_ptr", "index", "intensity")}
    for at, frame in enumerate(frames):
        pixels = slice(*columns["frame_ptr"][at : at + 2])
        sparse = model.values(frame)["sparse"]
        assert columns["index"][pixels].tolist() == ([] if lost[frame] else sparse.index.tolist())
        assert columns["intensity"][pixels].tolist() == ([] if lost[frame] else sparse.intensity.tolist())


def test_rows_that_a_killed_receiver_did_not_write_are_left_out(model, tmp_path):
    """HDF5 reads nothing at all of a virtual dataset where a source is shorter than it says."""
    statuses = np.array([FrameStatus.SAVED, FrameStatus.LOST, FrameStatus.SAVED, FrameStatus.FAILED], "u1")
    places = Places(np.zeros(4, "u2"), np.arange(4, dtype="u8"))
    output = next(output for output in model.OUTPUTS if output.name == "n_peaks")
    with h5py.File(tmp_path / "run_0.h5", "w") as part:
        part["entry_0000/results/n_peaks"] = np.array([5, output.fill, 7], "<i4")
    claimed = claim(tmp_path / "run_frames.h5", FileExistsPolicy.ABORT)
    frames = FramesFile(claimed, [("n_peaks", output)], [{"results": "run_0.h5"}])
    frames.write(places.only(has_data(statuses)), [4])
    with h5py.File(tmp_path / "run_frames.h5") as file:
        assert file[f"{MEASUREMENT}/n_peaks"][()].tolist() == [5, output.fill, 7, output.fill]
