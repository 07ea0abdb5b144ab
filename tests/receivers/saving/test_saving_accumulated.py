"""Accumulated outputs: a row a window in each receiver's file, all receivers beside each other in the master."""

from __future__ import annotations

import numpy as np
import pytest

from lima2_processing.frame import Output, OutputKind
from lima2_receivers.errors import SavingError
from lima2_receivers.saving.part import EncodedRow, PartFiles
from lima2_receivers.saving.read import open_file, read_accumulated, read_rows

SHAPE = (8, 6)
NOTHING = 2**32 - 1


def outputs(dtype):
    return (
        Output("acc_hit", OutputKind.IMAGE, dtype, SHAPE, "accumulated", "photons", "sum of hits", window=100),
        Output("acc_n_hit", OutputKind.SCALAR, "<u4", (), "accumulated", window=100),
    )


def write(model, folder, rank, declared, windows):
    """Write ``{window: (value of all pixels, frames)}``, the last pixel being masked, and one frame."""
    every = (model.RAW, *declared)
    files = PartFiles(folder, rank, model.saving(folder), every, (), {})
    files.write((EncodedRow(0, files.encode({"raw": model.values(0)["raw"]})),))
    for window, (value, n_frames) in windows.items():
        image = np.full(SHAPE, value, declared[0].dtype)
        image[-1, -1] = declared[0].fill
        values = {"acc_hit": image, "acc_n_hit": np.array(n_frames, "<u4")}
        files.write_accumulated(EncodedRow(window, files.encode(values, accumulated=True)))
        files.flush()
    files.close(1)


@pytest.mark.parametrize("dtype", ["<u4", "<f4"])
def test_windows_are_summed_over_the_receivers_that_have_them(tmp_path, model, make_master, dtype):
    declared = outputs(dtype)
    master, datasets = make_master(2, (model.RAW, *declared))
    assert not {dataset.name for dataset in datasets} & {"acc_hit", "acc_n_hit"}, "frames have no such data"
    with pytest.raises(SavingError, match="window 0 is not there, 0 are"):
        read_accumulated(master, "hit", 0)
    write(model, tmp_path, 0, declared, {0: (5, 50), 2: (7, 49)})
    write(model, tmp_path, 1, declared, {0: (3_000_000_000, 48)})
    found = [read_accumulated(master, "hit", window) for window in range(3)]
    assert [n_frames for _, n_frames in found] == [98, 0, 49]
    for (image, _), value in zip(found, (3_000_000_005, 0, 7), strict=True):
        assert image.shape == SHAPE
        assert (image.ravel()[:-1] == value).all()
    if dtype == "<f4":
        assert np.isnan(found[0][0][-1, -1])
    else:
        assert found[0][0].dtype == np.uint64
        assert found[0][0][-1, -1] == 2**64 - 1
    shown = read_rows(master, "/entry_0000/measurement/acc_n_hit")
    assert shown.tolist() == [[50, 48], [NOTHING, NOTHING], [49, NOTHING]]
    assert len(read_rows(master, "/entry_0000/measurement/raw")) == 2
    with open_file(master) as file:
        assert file["/entry_0000/measurement/acc_hit"].attrs["frames_per_window"] == 100


def test_a_stream_has_rows_of_one_kind(tmp_path, model):
    image, count = outputs("<u4")
    wrong = Output("acc_n_hit", OutputKind.SCALAR, "<u4", (), "accumulated", window=50)
    with pytest.raises(SavingError, match="stream accumulated: its outputs have rows of different numbers of frames"):
        PartFiles(tmp_path, 0, model.saving(tmp_path), (image, count, wrong), (), {})
    assert not list(tmp_path.iterdir())


def test_without_accumulated_frames_the_master_says_so(tmp_path, model, make_master):
    master, _ = make_master(1)
    with pytest.raises(SavingError, match=r"there is no dataset .*acc_n_hit"):
        read_accumulated(master, "hit", 0)
