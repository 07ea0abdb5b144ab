"""Frames in HDF5: which dataset it is, what the frames look like, and what is said where there is no telling."""

import h5py
import hdf5plugin
import msgspec
import numpy as np
import pytest

from lima2_processing.layouts import jungfrau
from lima2_receivers.detectors.reader.h5_stack import H5Stack
from lima2_receivers.errors import ConfigError, DetectorError

SHAPE = (7, 20, 30)


def pixels(shape=SHAPE, dtype="<u2", seed=0):
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


def write(path, datasets, **options):
    """Write datasets by their paths, a frame a chunk."""
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            chunks = (1, *data.shape[1:])
            file.create_dataset(name, data=data, chunks=chunks, **options)
    return path


def frames_of(stack):
    found = np.array([stack.read(index) for index in range(len(stack))])
    stack.close()
    return found


def write_linked(folder, *parts):
    """A DECTRIS-like master, and a file with each part of its frames."""
    master = folder / "run_master.h5"
    with h5py.File(master, "w") as file:
        for number, data in enumerate(parts, 1):
            name = f"run_data_{number:06}.h5"
            write(folder / name, {"entry/data/data": data}, **hdf5plugin.Bitshuffle())
            file[f"entry/data/data_{number:06}"] = h5py.ExternalLink(name, "/entry/data/data")
        file["entry/instrument/detector/detectorSpecific/flatfield"] = np.ones(SHAPE[1:], "f4")
    return master


def write_virtual(folder, data, name="entry_0000/measurement/data"):
    """A LImA2-like master whose frames are in two files in turn."""
    layout = h5py.VirtualLayout(data.shape, data.dtype)
    for rank in range(2):
        part = write(folder / f"run_data_{rank}.h5", {"entry_0000/data": data[rank::2]}, **hdf5plugin.Bitshuffle())
        layout[rank::2] = h5py.VirtualSource(part.name, "entry_0000/data", shape=data[rank::2].shape, dtype=data.dtype)
    master = folder / "run_master.h5"
    with h5py.File(master, "w") as file:
        file.create_virtual_dataset(name, layout, fillvalue=0)
    return master


@pytest.mark.parametrize("dtype", ["|u1", "|i1", "<u2", ">u2", "<i4", "<u4", "<f4", "<f8"])
def test_the_only_stack_is_found_whatever_its_type(tmp_path, dtype):
    data = pixels(dtype=dtype)
    stack = H5Stack(write(tmp_path / "a.h5", {"some/where": data, "flat": data[0]}, **hdf5plugin.Bitshuffle()))
    assert (len(stack), stack.spec.shape, stack.spec.layout) == (7, (20, 30), None)
    assert stack.spec.dtype == dtype.replace(">", "<")
    np.testing.assert_array_equal(frames_of(stack), data)


def test_four_dimensions_are_channels(tmp_path):
    data = pixels((5, 2, 20, 30))
    stack = H5Stack(write(tmp_path / "a.h5", {"data": data}))
    assert stack.spec.shape == (2, 20, 30)
    np.testing.assert_array_equal(frames_of(stack), data)


def test_a_chunk_may_hold_several_frames(tmp_path):
    data = pixels()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=data, chunks=(3, 7, 30), **hdf5plugin.Bitshuffle(cname="zstd"))
    np.testing.assert_array_equal(frames_of(H5Stack(tmp_path / "a.h5")), data)


def test_a_lima2_master_is_found_before_other_datasets(tmp_path):
    data = pixels()
    master = write_virtual(tmp_path, data)
    with h5py.File(master, "a") as file:
        file["entry_0000/measurement/raw"] = pixels(seed=1)
    np.testing.assert_array_equal(frames_of(H5Stack(master)), data)


def test_a_master_of_ours_says_how_modules_lie(tmp_path):
    spec = jungfrau(2)
    master = write_virtual(tmp_path, np.zeros((3, *spec.shape), spec.dtype))
    with h5py.File(master, "a") as file:
        file["entry_0000/inst/det/detector_information/frame_spec"] = msgspec.json.encode(spec).decode()
        file["entry_0000/measurement/dense"] = np.zeros((3, 20, 30), "f4")
    assert H5Stack(master).spec == spec
    assert H5Stack(master, "/entry_0000/measurement/dense").spec.layout is None


def test_a_missing_file_of_a_master_is_named(tmp_path):
    master = write_virtual(tmp_path, pixels())
    (tmp_path / "run_data_1.h5").unlink()
    with pytest.raises(ConfigError, match=r"measurement/data: its file run_data_1\.h5 is not there"):
        H5Stack(master)


def test_linked_files_are_played_in_turn(tmp_path):
    data = [pixels((n, 20, 30), seed=n) for n in (4, 4, 1)]
    stack = H5Stack(write_linked(tmp_path, *data))
    assert len(stack) == 9
    np.testing.assert_array_equal(frames_of(stack), np.concatenate(data))


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    master = write_linked(tmp_path, pixels(), pixels())
    (tmp_path / "run_data_000002.h5").unlink()
    with pytest.raises(ConfigError, match=r"data_000002 leads to run_data_000002\.h5:/entry/data/data, which is not"):
        H5Stack(master)


def test_linked_files_of_another_shape_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"got frames of .* expected all alike"):
        H5Stack(write_linked(tmp_path, pixels(), pixels((2, 20, 31))))


def test_nxmx_with_one_dataset(tmp_path):
    data = pixels()
    master = write(tmp_path / "a.h5", {"entry/data/data": data, "entry/other": data})
    np.testing.assert_array_equal(frames_of(H5Stack(master)), data)


def test_the_dataset_can_be_named(tmp_path):
    one, other = pixels(), pixels(seed=1)
    path = write(tmp_path / "a.h5", {"a/one": one, "a/other": other, "b/data_2": one[:2], "b/data_10": other[:1]})
    np.testing.assert_array_equal(frames_of(H5Stack(path, "/a/other")), other)
    np.testing.assert_array_equal(frames_of(H5Stack(path, "b")), [*one[:2], *other[:1]])


def test_an_image_that_is_named_is_one_frame(tmp_path):
    image = pixels()[0]
    np.testing.assert_array_equal(frames_of(H5Stack(write(tmp_path / "a.h5", {"image": image}), "image")), [image])


@pytest.mark.parametrize(
    ("datasets", "dataset", "words"),
    [
        ({"a": (2, 3, 4), "b/c": (2, 3, 4, 5)}, "", r"got 2 datasets of 3 or 4.*/a \(2, 3, 4\), /b/c \(2, 3, 4, 5\)"),
        ({"a": (3, 4)}, "", r"got 0 datasets of 3 or 4 dimensions \(none\), expected 1"),
        ({"a": (2, 3, 4)}, "b", r"detector\.settings\.dataset: .*there is no b; .* are: /a \(2, 3, 4\)"),
        ({"a/b": (2, 3, 4)}, "a", "a is no dataset, and no group of data_1"),
        ({"a": (5,)}, "a", r"/a: got shape \(5,\), expected \(frames, rows, cols\)"),
    ],
)
def test_what_cannot_be_chosen_lists_what_there_is(tmp_path, datasets, dataset, words):
    path = write(tmp_path / "a.h5", {name: pixels(shape) for name, shape in datasets.items()})
    with pytest.raises(ConfigError, match=words):
        H5Stack(path, dataset)


def test_no_frames_no_numbers_and_no_hdf5_are_refused(tmp_path):
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_dataset("a", (0, 3, 4), "u2")
    with pytest.raises(ConfigError, match="/a holds no frame"):
        H5Stack(tmp_path / "empty.h5")
    with h5py.File(tmp_path / "complex.h5", "w") as file:
        file["a"] = np.zeros((2, 3, 4), "c8")
    with pytest.raises(ConfigError, match="got type complex64, expected integers or floats"):
        H5Stack(tmp_path / "complex.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(ConfigError, match=r"text\.h5: it can't be opened as HDF5"):
        H5Stack(tmp_path / "text.h5")


def test_a_chunk_that_is_damaged_is_named(tmp_path):
    path = write(tmp_path / "a.h5", {"data": pixels()}, **hdf5plugin.Bitshuffle())
    with h5py.File(path) as file:
        chunk = file["data"].id.get_chunk_info(3)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)
    stack = H5Stack(path)
    stack.read(2)
    with pytest.raises(DetectorError, match=r"a\.h5: frame 3 of /data: "):
        stack.read(3)
    stack.close()


@pytest.mark.parametrize(
    "link",
    [h5py.ExternalLink("gone.h5", "/x"), h5py.SoftLink("/nowhere"), h5py.SoftLink("/entry_0000/measurement/data")],
    ids=["file", "path", "itself"],
)
def test_a_master_whose_data_is_not_there_is_refused(tmp_path, link):
    path = tmp_path / "master.h5"
    with h5py.File(path, "w") as file:
        file["entry_0000/measurement/data"] = link
    with pytest.raises(ConfigError, match=f"recording {path}"):
        H5Stack(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"shape":' + b"[" * 100_000, h5py.Empty("S3"), np.zeros(3)])
def test_a_frame_spec_of_another_program_is_passed_over(tmp_path, content):
    path = write(tmp_path / "run.h5", {"x": pixels()})
    with h5py.File(path, "a") as file:
        file["detector_information/frame_spec"] = content
    stack = H5Stack(path)
    assert stack.spec.shape == SHAPE[1:]
    stack.close()


def test_frames_that_no_memory_holds_are_an_error(tmp_path):
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (1, 2**31, 2**31), "u4", chunks=(1, 16, 16))
    stack = H5Stack(path)
    with pytest.raises(DetectorError, match="frame 0"):
        stack.read(0)
    stack.close()


def test_a_damaged_file_gives_frames_or_an_error(tmp_path):
    whole = write(tmp_path / "run.h5", {"entry/data/data": pixels()}).read_bytes()
    chance = np.random.default_rng(0)
    refused = 0
    for number in range(200):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[chance.integers(0, 4000, 4)] = chance.integers(0, 256, 4)
        path = tmp_path / f"{number}.h5"
        path.write_bytes(damaged.tobytes()[: chance.integers(1, 2 * len(damaged))])
        try:
            frames_of(H5Stack(path))
        except (ConfigError, DetectorError):
            refused += 1
    assert refused > 100
