from __future__ import annotations

import json
import subprocess
import sys

import fabio
import numpy as np
import pytest
from silx.io.nxdata import get_default

from lima2_processing.frame import Output, OutputKind, SparseFrame
from lima2_receivers.errors import SavingError
from lima2_receivers.saving.ledger_file import COLUMNS
from lima2_receivers.saving.read import open_file, read_frame, read_rows, read_sparse, read_statuses

MEASUREMENT = "/entry_0000/measurement"


@pytest.mark.parametrize(("n_receivers", "n_frames"), [(1, 6), (2, 9), (3, 7), (3, 2)])
def test_the_master_shows_all_receivers_frames_in_order(tmp_path, model, make_master, n_receivers, n_frames):
    master, datasets = make_master(n_receivers)
    model.write_run(tmp_path, n_receivers, n_frames)
    names = {dataset.name for dataset in datasets}
    assert names == {o.name for o in model.OUTPUTS} | set(COLUMNS)
    datasets = [dataset for dataset in datasets if dataset.kind is not OutputKind.SPARSE]  # not in the file
    for dataset in datasets:
        found = read_rows(master, dataset.path)
        assert found.shape == (n_frames, *dataset.shape)
        assert found.dtype == np.dtype(dataset.dtype)
    for output in model.OUTPUTS:
        path = next((dataset.path for dataset in datasets if dataset.name == output.name), None)
        for frame in range(n_frames if path else 0):
            expected = np.full(output.shape, output.fill) if model.is_lost(frame) else model.values(frame)[output.name]
            found = read_frame(master, path, frame)
            assert np.array_equal(found, expected.astype(output.dtype), equal_nan=found.dtype.kind == "f")
    assert read_rows(master, f"{MEASUREMENT}/frame_number").tolist() == list(range(n_frames))
    assert read_rows(master, f"{MEASUREMENT}/receiver").tolist() == [f % n_receivers for f in range(n_frames)]
    assert read_rows(master, f"{MEASUREMENT}/row").tolist() == [f // n_receivers for f in range(n_frames)]
    statuses = read_rows(master, f"{MEASUREMENT}/frame_status")
    assert statuses.tolist() == [3 if model.is_lost(f) else 1 for f in range(n_frames)]
    assert read_statuses(tmp_path / "run_ledger.h5").tolist() == statuses.tolist()


def test_data_is_dense_and_raw_is_beside_it(tmp_path, model, make_master):
    master, datasets = make_master(2)
    assert {d.name: d.path for d in datasets if d.kind is OutputKind.IMAGE} == {
        "raw": f"{MEASUREMENT}/raw",
        "dense": f"{MEASUREMENT}/data",
    }
    model.write_run(tmp_path, 2, 3)
    for path in ("measurement/data", "measurement/dense", "ID00/jungfrau/data", "ID00/jungfrau/plot/data"):
        assert np.array_equal(read_frame(master, f"/entry_0000/{path}", 1), model.values(1)["dense"])


def test_pixels_that_are_not_used_are_counted_in_the_master(make_master):
    master, _ = make_master(2)
    with open_file(master) as file:
        about = file["entry_0000/ID00/jungfrau/detector_information"]
        assert about["opencl_bytes"][()].tolist() == [4096, 4096]
        assert about["pixels_without_pedestal_or_gain"][()] == 3
        assert about["pixels_unused"][()] == 7


def test_raw_is_data_where_nothing_else_is_saved(tmp_path, model, make_master):
    master, datasets = make_master(1, outputs=(model.RAW,))
    assert [d.path for d in datasets if d.name == "raw"] == [f"{MEASUREMENT}/data"]
    model.write_run(tmp_path, 1, 2)
    assert np.array_equal(read_frame(master, f"{MEASUREMENT}/raw", 1), model.values(1)["raw"])


def test_before_the_first_frame_everything_is_empty(tmp_path, model, make_master):
    master, datasets = make_master(2)
    datasets = [dataset for dataset in datasets if dataset.kind is not OutputKind.SPARSE]
    for dataset in datasets:
        assert len(read_rows(master, dataset.path)) == 0
    model.write_run(tmp_path, 2, 0)
    for dataset in datasets:
        assert len(read_rows(master, dataset.path)) == 0


def test_the_files_can_be_moved_together(tmp_path, model, make_master):
    make_master(2)
    model.write_run(tmp_path, 2, 4)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in list(tmp_path.glob("*.h5")):
        path.rename(moved / path.name)
    assert np.array_equal(read_frame(moved / "run_master.h5", f"{MEASUREMENT}/data", 3), model.values(3)["dense"])


def test_constants_and_sparse_frames_are_linked(tmp_path, model, make_master):
    master, _ = make_master(2)
    model.write_run(tmp_path, 2, 5)
    with open_file(master) as file:
        measurement = file[MEASUREMENT]
        for constant in model.CONSTANTS:
            assert np.array_equal(measurement[constant.name][()], constant.data, equal_nan=True)
            assert measurement[constant.name].attrs["units"] == constant.unit
    for rank in (0, 1):
        with open_file(master) as file:
            assert file[f"{MEASUREMENT}/sparse_{rank}/frame_ptr"].shape == (4 - rank,)
    for frame in (0, 1, 2, 3):
        found = read_sparse(tmp_path / f"run_sparse_{frame % 2}.h5", frame // 2)
        expected: SparseFrame = model.values(frame)["sparse"]
        assert np.array_equal(found.index, expected.index)
        assert np.array_equal(found.intensity, expected.intensity)
    with pytest.raises(SavingError, match="row 3 is not there"):
        read_sparse(tmp_path / "run_sparse_0.h5", 3)


def test_parameters_are_there_as_json(tmp_path, model, make_master):
    master, _ = make_master(1)
    with open_file(master) as file:
        detector = file["/entry_0000/ID00/jungfrau"]
        assert json.loads(detector["params/acquisition"].asstr()[()])["nb_frames"] == 1
        assert json.loads(detector["params/saving"].asstr()[()])["filename_prefix"] == "run"
        assert "jungfrau" not in file["/entry_0000/measurement"]
        assert file.attrs["creator"].startswith("LIMA")
        ledger = file.get("/entry_0000/ledger", getlink=True)
        assert ledger.filename == "run_ledger.h5"


def test_viewers_find_a_plot(tmp_path, model, make_master):
    master, _ = make_master(2)
    model.write_run(tmp_path, 2, 3)
    with open_file(master) as file:
        for group in (file, file["entry_0000"], file[MEASUREMENT], file["entry_0000/ID00/jungfrau"]):
            plot = get_default(group)
            assert plot is not None
            assert plot.is_valid
            assert plot.signal.shape == (3, *model.SHAPE)
            assert plot.is_image or plot.is_stack


def test_fabio_opens_the_master(tmp_path, model, make_master):
    master, _ = make_master(2)
    model.write_run(tmp_path, 2, 3)
    with fabio.open(str(master)) as image:
        assert image.nframes == 3
        assert np.array_equal(image.get_frame(2).data, model.values(2)["dense"])


FABIO = """
import sys, json
import fabio, numpy as np
with fabio.open(sys.argv[1]) as image:
    frames = [np.nan_to_num(image.get_frame(n).data, nan=-1).tolist() for n in range(image.nframes)]
    print(json.dumps({"kind": type(image).__name__, "frames": frames, "dummy": repr(float(image.dummy))}))
"""


def test_fabio_makes_dense_frames_of_a_sparse_part(tmp_path, model):
    model.write_run(tmp_path, 1, 6)
    done = subprocess.run(
        [sys.executable, "-c", FABIO, str(tmp_path / "run_sparse_0.h5")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kind"] == "SparseImage"
    assert len(found["frames"]) == 6
    mask = model.CONSTANTS[1].data
    for frame in range(6):
        if model.is_lost(frame):
            continue
        expected = np.full(model.SHAPE, frame, "<f4")
        pixels: SparseFrame = model.values(frame)["sparse"]
        expected.ravel()[pixels.index] = pixels.intensity
        expected[np.isnan(mask)] = -1
        assert np.allclose(found["frames"][frame], expected)


@pytest.mark.parametrize(
    ("kind", "shape", "dtype", "frames"),
    [
        (OutputKind.IMAGE, (512, 1024), "<u2", 1),
        (OutputKind.IMAGE, (64, 64), "<u2", 512),
        (OutputKind.SCALAR, (), "<f8", 1024),
        (OutputKind.TABLE, (1024, 4), "<f4", 256),
    ],
)
def test_readers_are_told_to_ask_for_a_few_mib(make_master, kind, shape, dtype, frames):
    _, datasets = make_master(2, outputs=(Output("x", kind, dtype, shape, "results"),))
    assert datasets[0].chunk_frames == frames


def test_an_existing_master_is_kept(tmp_path, make_master):
    (tmp_path / "run_master.h5").write_bytes(b"precious")
    with pytest.raises(SavingError, match=r"making .*run_master\.h5: File exists"):
        make_master(1)
    assert (tmp_path / "run_master.h5").read_bytes() == b"precious"


def test_a_master_that_could_not_be_finished_is_removed(tmp_path, model, make_master):
    with pytest.raises(SavingError, match=r"making .*run_master\.h5"):
        make_master(1, outputs=(*model.OUTPUTS, model.COUNT))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "measurement", "ledger"])
def test_an_instrument_name_that_would_hide_something_is_refused(tmp_path, make_master, name):
    with pytest.raises(SavingError, match=rf"instrument: got {name!r}"):
        make_master(1, instrument=name)
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_not_there_says_so(tmp_path, model, make_master):
    master, _ = make_master(1)
    model.write_run(tmp_path, 1, 2)
    with pytest.raises(SavingError, match="no dataset /entry_0000/nothing"):
        read_rows(master, "/entry_0000/nothing")
    for frame in (2, -1):
        with pytest.raises(SavingError, match=rf"{MEASUREMENT}/data has no frame {frame}"):
            read_frame(master, f"{MEASUREMENT}/data", frame)
    with pytest.raises(SavingError, match=r"reading .*gone\.h5: No such file"):
        read_rows(tmp_path / "gone.h5", "x")
