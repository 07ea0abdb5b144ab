from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lima2_processing.frame import Output, OutputKind, SparseFrame
from lima2_receivers.errors import SavingError
from lima2_receivers.plan import Compression, FileExistsPolicy
from lima2_receivers.saving import part
from lima2_receivers.saving.part import EncodedRow, PartFiles, chunk_rows, dataset_path


def read_part(folder, output, rank=0):
    with h5py.File(folder / f"run_{output.stream}_{rank}.h5", "r", swmr=True, libver="latest", locking=False) as file:
        return file[dataset_path(output)][()]


def check_rows(model, folder, saved: set[int], rows: int) -> None:
    """Every output has ``rows`` rows; those that were saved are right, the others are fill."""
    for output in model.OUTPUTS:
        if output.kind is OutputKind.SPARSE:
            continue
        found = read_part(folder, output)
        assert found.shape == (rows, *output.shape)
        for row in range(rows):
            expected = model.values(row)[output.name] if row in saved else np.full(output.shape, output.fill)
            assert np.array_equal(found[row], expected.astype(output.dtype), equal_nan=found.dtype.kind == "f")


def check_sparse(model, folder, saved: set[int], rows: int) -> None:
    with h5py.File(folder / "run_sparse_0.h5", "r", swmr=True, libver="latest", locking=False) as file:
        data = file["entry_0000/sparse_frames"]
        ends, index, intensity = data["frame_ptr"][()], data["index"][()], data["intensity"][()]
    assert (len(ends), ends[0], ends[-1]) == (rows + 1, 0, len(index))
    for row in range(rows):
        expected = model.values(row)["sparse"] if row in saved else SparseFrame(np.zeros(0, "<u4"), np.zeros(0, "<f4"))
        assert np.array_equal(index[ends[row] : ends[row + 1]], expected.index)
        assert np.array_equal(intensity[ends[row] : ends[row + 1]], expected.intensity)


@pytest.mark.parametrize("compression", list(Compression))
def test_frames_read_back_and_missing_ones_read_as_fill(compression, tmp_path, model):
    files = model.part_files(tmp_path, params=model.saving(tmp_path, compression))
    saved = {0, 1, 3, 6}
    for row in range(7):
        files.write((model.encoded(files, row, row),)) if row in saved else files.skip(row)
    files.flush()
    check_rows(model, tmp_path, saved, 7)
    files.close(9)
    check_rows(model, tmp_path, saved, 9)
    check_sparse(model, tmp_path, saved, 9)


@pytest.mark.parametrize("compression", list(Compression))
def test_memory_of_encoded_frames_is_used_again_only_when_they_are_written(compression, tmp_path, model):
    saving = model.saving(tmp_path, compression)
    files = PartFiles(tmp_path, 0, saving, model.OUTPUTS, model.CONSTANTS, model.METADATA, ahead=2)
    waiting = [model.encoded(files, row, row) for row in range(6)]
    for row in waiting[:3]:
        files.write((row,))
    del row, waiting[:3]
    waiting += [model.encoded(files, row, row) for row in range(6, 12)]
    for row in waiting:
        files.write((row,))
    files.close(12)
    check_rows(model, tmp_path, set(range(12)), 12)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_order_of_rows_gives_the_same_files(tmp_path_factory, model, data):
    folder = tmp_path_factory.mktemp("order")
    rows = data.draw(st.integers(1, 12))
    saved = data.draw(st.sets(st.integers(0, rows - 1)))
    order = data.draw(st.permutations(range(rows)))
    flush_after = data.draw(st.sets(st.integers(0, rows - 1)))
    files = model.part_files(folder)
    for at, row in enumerate(order):
        if row in saved:
            files.write((model.encoded(files, row, row),))
        else:
            files.skip(row)
        if at in flush_after:
            files.flush()
    tail = data.draw(st.integers(0, 3))
    files.close(rows + tail)
    check_rows(model, folder, saved, rows + tail)
    check_sparse(model, folder, saved, rows + tail)


def test_rows_that_were_never_mentioned_are_filled_at_close(tmp_path, model):
    files = model.part_files(tmp_path)
    files.write((model.encoded(files, 2, 2),))
    files.close(5)
    check_rows(model, tmp_path, {2}, 5)
    check_sparse(model, tmp_path, {2}, 5)


def test_many_rows_cross_chunks(tmp_path, model):
    outputs = (model.COUNT, model.PEAKS)
    files = PartFiles(tmp_path, 0, model.saving(tmp_path), outputs, (), model.METADATA)
    rows = 2 * chunk_rows(model.COUNT) + 3
    for row in range(rows):
        peaks = np.full(model.PEAKS.shape, row, "<f4")
        files.write((EncodedRow(row, {"n_peaks": np.array(row, "<i4"), "peaks": peaks}),))
        if row % 700 == 0:
            files.flush()
    files.close(rows)
    assert np.array_equal(read_part(tmp_path, model.COUNT), np.arange(rows))
    assert np.array_equal(read_part(tmp_path, model.PEAKS)[:, 0, 0], np.arange(rows))


def test_a_sparse_pointer_waits_for_the_rows_before_it(tmp_path, model):
    files = model.part_files(tmp_path)
    files.write((model.encoded(files, 0, 0), model.encoded(files, 4, 4)))
    files.flush()
    with h5py.File(tmp_path / "run_sparse_0.h5", "r", swmr=True, libver="latest", locking=False) as file:
        assert file["entry_0000/sparse_frames/frame_ptr"].shape == (2,)
    for row in (1, 2, 3):
        files.skip(row)
    files.close(5)
    check_sparse(model, tmp_path, {0, 4}, 5)


def test_the_pixels_of_a_sparse_frame_reach_the_file_before_its_pointer(tmp_path, model, monkeypatch):
    written = []
    setitem = h5py.Dataset.__setitem__

    def note(self, where, value):
        written.append(self.name.rpartition("/")[2])
        setitem(self, where, value)

    def note_flush(self):
        written.append(f"flush {self.name.rpartition('/')[2]}")

    files = model.part_files(tmp_path)
    files.write((model.encoded(files, 0, 4),))
    monkeypatch.setattr(h5py.Dataset, "__setitem__", note)
    monkeypatch.setattr(h5py.Dataset, "flush", note_flush)
    files.flush()
    sparse = [name for name in written if name.endswith(("index", "intensity", "frame_ptr"))]
    assert sparse == ["index", "flush index", "intensity", "flush intensity", "frame_ptr"]
    files.close(1)


def test_a_row_that_is_not_what_was_declared_is_refused_by_name(tmp_path, model):
    files = model.part_files(tmp_path)
    good = model.values(1)
    pixels = good["sparse"]
    bad = {
        "raw": good["raw"].astype("<u4"),
        "dense": good["dense"][:-1],
        "n_peaks": np.array(1.0),
        "sparse": SparseFrame(pixels.index.astype("<i8"), pixels.intensity),
        "background_avg": pixels,
    }
    for name, value in bad.items():
        with pytest.raises(SavingError, match=rf"output {name}: got .*, expected"):
            files.encode({**good, name: value})
    with pytest.raises(SavingError, match="output sparse"):
        files.encode({**good, "sparse": SparseFrame(pixels.index, pixels.intensity[:-1])})
    with pytest.raises(SavingError, match="output sparse"):
        files.encode({**good, "sparse": good["background_avg"]})
    with pytest.raises(SavingError, match="output peaks: got nothing"):
        files.encode({name: value for name, value in good.items() if name != "peaks"})
    files.discard()


def test_what_was_encoded_does_not_change_with_the_frame(tmp_path, model):
    """A frame's memory is lent: the ring reuses it while the encoded row waits for the writer."""
    files = model.part_files(tmp_path, params=model.saving(tmp_path, Compression.NONE))
    lent = model.values(3)
    expected = lent["raw"].copy()
    row = EncodedRow(0, files.encode(lent))
    lent["raw"][:] = 0
    files.write((row,))
    files.close(1)
    assert np.array_equal(read_part(tmp_path, model.RAW)[0], expected)


def test_streams_that_are_not_enabled_have_no_file(tmp_path, model):
    files = model.part_files(tmp_path, params=model.saving(tmp_path, disabled=("raw", "sparse")))
    assert files.names == {"dense": "run_dense_0.h5", "results": "run_results_0.h5"}
    row = files.encode({name: model.values(0)[name] for name in ("dense", "n_peaks", "is_hit", "peaks")})
    files.write((EncodedRow(0, row),))
    files.close(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files.names.values())


def test_no_stream_at_all_is_fine(tmp_path, model):
    files = model.part_files(tmp_path, params=model.saving(tmp_path, disabled=("raw", "dense", "sparse", "results")))
    files.write((model.encoded(files, 0, 0),))
    files.flush()
    files.close(1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_made(tmp_path, model):
    folder = tmp_path / "visit" / "sample"
    model.part_files(folder).close(0)
    assert (folder / "run_raw_0.h5").is_file()


def test_files_that_exist_are_kept_and_those_that_were_made_are_removed(tmp_path, model):
    (tmp_path / "run_results_0.h5").write_bytes(b"precious")
    with pytest.raises(SavingError, match=r"making .*run_results_0\.h5: File exists"):
        model.part_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run_results_0.h5"]
    assert (tmp_path / "run_results_0.h5").read_bytes() == b"precious"


def test_overwrite_replaces_files_and_never_follows_a_link(tmp_path, model):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "run_raw_0.h5").write_bytes(b"old")
    (tmp_path / "run_dense_0.h5").symlink_to(tmp_path / "precious")
    files = model.part_files(tmp_path, params=model.saving(tmp_path, policy=FileExistsPolicy.OVERWRITE))
    files.write((model.encoded(files, 0, 0),))
    files.close(1)
    check_rows(model, tmp_path, {0}, 1)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_file_that_is_being_read_can_be_overwritten(tmp_path, model):
    first = model.part_files(tmp_path)
    first.write((model.encoded(first, 0, 5),))
    first.close(1)
    with h5py.File(tmp_path / "run_raw_0.h5", "r", swmr=True, libver="latest", locking=False) as reader:
        again = model.part_files(tmp_path, params=model.saving(tmp_path, policy=FileExistsPolicy.OVERWRITE))
        assert np.array_equal(reader[dataset_path(model.RAW)][0], model.values(5)["raw"])
    again.close(3)
    check_rows(model, tmp_path, set(), 3)


def test_a_failure_while_making_a_file_leaves_nothing(tmp_path, model):
    twice = (*model.CONSTANTS, model.CONSTANTS[0])
    with pytest.raises(SavingError, match=r"making .*run_sparse_0\.h5.*exists"):
        PartFiles(tmp_path, 0, model.saving(tmp_path), model.OUTPUTS, twice, model.METADATA)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_of_the_system_while_making_a_file_leaves_nothing(tmp_path, model, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(part, "growing", fail)
    with pytest.raises(SavingError, match="No space left on device"):
        model.part_files(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_discard_removes_the_files_also_after_close(tmp_path, model):
    (tmp_path / "other.h5").touch()
    files = model.part_files(tmp_path)
    files.write((model.encoded(files, 0, 0),))
    files.close(1)
    files.close(1)
    files.discard()
    files.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["other.h5"]


def test_a_row_that_comes_twice_is_refused(tmp_path, model):
    files = model.part_files(tmp_path)
    files.write((model.encoded(files, 0, 0),))
    with pytest.raises(SavingError, match=r"run_sparse_0\.h5.*row 0 came twice"):
        files.write((model.encoded(files, 0, 0),))
    files.close(1)


def test_a_file_says_what_and_whose_it_is(tmp_path, model):
    model.part_files(tmp_path, rank=3).close(0)
    with h5py.File(tmp_path / "run_dense_3.h5", "r") as file:
        assert file.attrs["creator"].startswith("LIMA")
        assert file.attrs["NX_class"] == "NXroot"
        assert file[file.attrs["default"]].attrs["NX_class"] == "NXentry"
        dataset = file[dataset_path(model.DENSE)]
        assert (dataset.attrs["units"], dataset.attrs["long_name"]) == ("photons", "corrected image")
        assert (dataset.chunks, dataset.maxshape) == ((1, *model.SHAPE), (None, *model.SHAPE))
        assert np.isnan(dataset.fillvalue)
        assert file["entry_0000/acquisition"].asstr()[()] == model.METADATA["acquisition"]


@pytest.mark.parametrize(
    ("kind", "shape", "rows"),
    [
        (OutputKind.IMAGE, (8, 512, 1024), 1),
        (OutputKind.SCALAR, (), 1024),
        (OutputKind.PROFILE, (1000,), 65),
        (OutputKind.TABLE, (100_000, 4), 1),
    ],
)
def test_chunks_hold_one_image_or_many_small_values(kind, shape, rows):
    assert chunk_rows(Output("x", kind, "<f4", shape, "results")) == rows
