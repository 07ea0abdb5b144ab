"""Sparse frames of several receivers, shown as one array of images."""

import h5py
import numpy as np
import pytest

from lima2_ophyd.tiled.sparse import DATASET, MEASUREMENT, SparseStack

SHAPE = (6, 8)
N_FRAMES = 7
LOST = 4


def pixels_of(frame):
    rng = np.random.default_rng(frame)
    index = np.sort(rng.choice(48, 0 if frame == LOST else frame % 4, replace=False)).astype("<u4")
    return index, (index + 100.0 * frame).astype("<f4")


def image_of(frame):
    index, intensity = pixels_of(frame)
    image = np.zeros(SHAPE, np.float32)
    image.flat[index] = intensity
    return image


@pytest.fixture
def master(tmp_path):
    """Two receivers' part files; the second has not written its last row yet."""
    for rank in range(2):
        mine = [pixels_of(frame) for frame in range(rank, N_FRAMES - rank, 2)]
        with h5py.File(tmp_path / f"part_{rank}.h5", "w", libver="latest") as file:
            group = file.create_group("entry_0000/sparse_frames")
            group["frame_ptr"] = np.concatenate([[0], np.cumsum([len(index) for index, _ in mine])]).astype("<u8")
            group["index"] = np.concatenate([index for index, _ in mine])
            group["intensity"] = np.concatenate([intensity for _, intensity in mine])
    path = tmp_path / "master.h5"
    with h5py.File(path, "w", libver="latest") as file:
        group = file.create_group(MEASUREMENT)
        group["frame_status"] = np.ones(N_FRAMES, "u1")
        group["receiver"] = np.arange(N_FRAMES, dtype="<u2") % 2
        group["row"] = np.arange(N_FRAMES, dtype="<u8") // 2
        for rank in range(2):
            group[f"sparse_{rank}"] = h5py.ExternalLink(f"part_{rank}.h5", "/entry_0000/sparse_frames")
    return path


def test_frames_come_from_whoever_has_them(master):
    with SparseStack(str(master), SHAPE) as stack:
        assert stack.shape == (N_FRAMES, *SHAPE)
        assert stack.name == DATASET
        for frame in range(N_FRAMES):
            np.testing.assert_array_equal(stack[frame : frame + 1], [image_of(frame)])
        expected = np.stack([image_of(frame) for frame in range(N_FRAMES)])
        np.testing.assert_array_equal(stack[1:6:2, 2:4, :5], expected[1:6:2, 2:4, :5])
        np.testing.assert_array_equal(stack[5:20], expected[5:])
        assert stack[3:3].shape == (0, *SHAPE)


def test_a_row_that_is_not_written_yet_has_no_pixels(master):
    with h5py.File(master, "a") as file:
        file[f"{MEASUREMENT}/row"][5] = 40
    with SparseStack(str(master), SHAPE) as stack:
        assert not stack[5:6].any()


def test_files_that_are_not_there_yet_are_asked_for_again_later(tmp_path, master):
    with pytest.raises(OSError, match="nothing"), SparseStack(str(tmp_path / "nothing.h5"), SHAPE):
        pass
    with h5py.File(master, "a") as file:
        del file[f"{MEASUREMENT}/sparse_0"]
    with SparseStack(str(master), SHAPE) as stack, pytest.raises(OSError, match="no sparse frames"):
        stack[0:1]
