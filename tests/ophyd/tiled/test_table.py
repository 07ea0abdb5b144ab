"""Arrays of dynamic dispatch, as a Tiled server reads them: by the table of the ledger, from the part files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from lima2_ophyd.tiled.sparse import SparseStack
from lima2_ophyd.tiled.table import TableStack, is_table
from lima2_receivers.topology import NO_RECEIVER

MEASUREMENT = "/entry_0000/measurement"
DATA = f"{MEASUREMENT}/data"
RECEIVERS = np.array([1, 0, NO_RECEIVER, 1, 1, 0, 1], "u2")
ROWS = np.array([1, 0, 2**64 - 1, 0, 2, 1, 9], "u8")  # frame 3 came before frame 0; frame 6 is not in its file yet
FILL = 65535


def image(frame):
    return np.arange(12, dtype="u2").reshape(3, 4) + 100 * frame


@pytest.fixture
def master(tmp_path):
    for rank in (0, 1):
        frames = [frame for frame in np.argsort(ROWS, kind="stable") if RECEIVERS[frame] == rank and ROWS[frame] < 9]
        with h5py.File(tmp_path / f"run_raw_{rank}.h5", "w", libver="latest") as part:
            part["entry_0000/raw/raw"] = np.stack([image(frame) for frame in frames])
    path = tmp_path / "run_master.h5"
    with h5py.File(path, "w", libver="latest") as file:
        place = file.create_group("/entry_0000/parts/data")
        place.attrs["shape"], place.attrs["fill"] = np.array([3, 4]), np.uint16(FILL)
        for rank in (0, 1):
            place[str(rank)] = h5py.ExternalLink(f"run_raw_{rank}.h5", "/entry_0000/raw/raw")
        file[f"{MEASUREMENT}/receiver"], file[f"{MEASUREMENT}/row"] = RECEIVERS, ROWS
        file[f"{MEASUREMENT}/frame_status"] = np.ones(len(ROWS), "u1")
        file[f"{MEASUREMENT}/sparse_0"] = h5py.ExternalLink("run_sparse_0.h5", "/entry_0000/sparse_frames")
        file[DATA] = h5py.ExternalLink("run_frames.h5", DATA)  # which is made at the end
    return path


@pytest.fixture
def expected():
    whole = np.full((len(ROWS), 3, 4), FILL, "u2")
    for frame in (0, 1, 3, 4, 5):
        whole[frame] = image(frame)
    return whole


@pytest.mark.parametrize(
    "index", [np.s_[:], np.s_[2:5], np.s_[::2], np.s_[1:2, 1:3, ::2], np.s_[5:99], np.s_[7:9]], ids=str
)
def test_frames_are_where_the_table_says(master, expected, index):
    with TableStack(str(master), DATA) as stack:
        assert (stack.shape, stack.fillvalue) == ((7, 3, 4), FILL)
        np.testing.assert_array_equal(stack[index], expected[index])
        assert stack[index].dtype == expected.dtype


def test_only_datasets_of_a_table_are_read_by_it(master):
    assert is_table(str(master), DATA)
    assert not is_table(str(master), f"{MEASUREMENT}/receiver")
    assert not is_table(str(master), "/entry_0000/other/data")


def test_a_dataset_that_is_in_no_table_is_an_error(master):
    with pytest.raises(OSError, match="does not say where /entry_0000/measurement/other is"):
        TableStack(str(master), f"{MEASUREMENT}/other").__enter__()


def test_a_sparse_frame_that_no_receiver_has_is_empty(master):
    with SparseStack(str(master), (3, 4)) as stack:
        np.testing.assert_array_equal(stack[2:3], np.zeros((1, 3, 4)))
