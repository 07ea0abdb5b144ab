"""All sparse frames in one file: what FabIO and densify_Bragg make of it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from lima2_receivers.errors import SavingError
from lima2_receivers.saving.merge import merge_sparse
from lima2_receivers.saving.read import find_dataset, open_file, read_sparse_frame

DATA = "/entry_0000/sparse_frames"
FABIO = """
import sys, json
import fabio, numpy as np
with fabio.open(sys.argv[1]) as image:
    frames = [np.nan_to_num(image.get_frame(n).data, nan=-1).tolist() for n in range(image.nframes)]
    print(json.dumps({"kind": type(image).__name__, "frames": frames}))
"""


def run(*command):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("hits_only", [False, True])
@pytest.mark.parametrize("n_receivers", [1, 3])
def test_every_frame_is_there_in_order(tmp_path, model, make_master, n_receivers, hits_only, monkeypatch):
    monkeypatch.setattr("lima2_receivers.saving.merge.BLOCK", 4)
    master, _ = make_master(n_receivers)
    model.write_run(tmp_path, n_receivers, 23)
    frames = [f for f in range(23) if not hits_only or (f % 2 and not model.is_lost(f))]
    output = tmp_path / "merged.h5"
    assert merge_sparse(master, output, hits_only=hits_only) == len(frames)
    with open_file(output) as file:
        columns = {name: find_dataset(file, f"{DATA}/{name}")[()] for name in file[DATA]}
    assert columns["frame_number"].tolist() == frames
    assert columns["frame_ptr"].tolist()[0] == 0
    for at, frame in enumerate(frames):
        part = slice(*columns["frame_ptr"][at : at + 2])
        values = model.values(frame)
        if model.is_lost(frame):
            assert part.start == part.stop
            assert np.isnan(columns["background_avg"][at]).all()
            continue
        assert columns["index"][part].tolist() == values["sparse"].index.tolist()
        assert columns["intensity"][part].tolist() == values["sparse"].intensity.tolist()
        assert columns["background_avg"][at].tolist() == values["background_avg"].tolist()
        assert columns["background_std"][at].tolist() == values["background_std"].tolist()
    for constant in model.CONSTANTS:
        np.testing.assert_array_equal(columns[constant.name], constant.data)


def test_fabio_makes_its_frames_dense(tmp_path, model, make_master):
    master, _ = make_master(2)
    model.write_run(tmp_path, 2, 6)
    merge_sparse(master, tmp_path / "merged.h5")
    found = json.loads(run("-c", FABIO, str(tmp_path / "merged.h5")))
    assert found["kind"] == "SparseImage"
    assert len(found["frames"]) == 6
    for frame in set(range(6)) - {4}:
        expected = np.full(model.SHAPE, frame, "<f4")
        pixels = model.values(frame)["sparse"]
        expected.ravel()[pixels.index] = pixels.intensity
        expected[np.isnan(model.CONSTANTS[1].data)] = -1
        assert np.allclose(found["frames"][frame], expected)


def test_densify_bragg_gives_the_picked_pixels_back_exactly(tmp_path, model, make_master):
    master, _ = make_master(2)
    model.write_run(tmp_path, 2, 4)
    merge_sparse(master, tmp_path / "merged.h5")
    run("-m", "fabio.app.densify", str(tmp_path / "merged.h5"))
    with open_file(tmp_path / "merged_dense.h5") as file:
        found = []
        file.visititems(lambda _, item: found.append(item[()]) if getattr(item, "ndim", 0) == 3 else None)
    for frame, dense in enumerate(found[0]):
        pixels = model.values(frame)["sparse"]
        assert dense.ravel()[pixels.index].tolist() == pixels.intensity.tolist()


def test_one_sparse_frame_whoever_has_it(tmp_path, model, make_master):
    master, _ = make_master(3)
    model.write_run(tmp_path, 3, 8)
    for frame in range(8):
        found = read_sparse_frame(master, frame)
        expected = [] if model.is_lost(frame) else model.values(frame)["sparse"].index.tolist()
        assert found.index.tolist() == expected
    for frame in (-1, 8):
        with pytest.raises(SavingError, match=rf"frame {frame} is not there, 8 are"):
            read_sparse_frame(master, frame)


def test_a_file_that_is_there_stays_unless_told_otherwise(tmp_path, model, make_master):
    master, _ = make_master(1)
    model.write_run(tmp_path, 1, 3)
    output = tmp_path / "merged.h5"
    output.write_text("precious")
    with pytest.raises(SavingError, match=r"making .*merged\.h5: File exists"):
        merge_sparse(master, output)
    (tmp_path / "run_sparse_0.h5").rename(tmp_path / "elsewhere.h5")
    with pytest.raises(SavingError, match=r"reading .*run_sparse_0\.h5"):
        merge_sparse(master, output, overwrite=True)
    assert output.read_text() == "precious"
    (tmp_path / "elsewhere.h5").rename(tmp_path / "run_sparse_0.h5")
    assert merge_sparse(master, output, overwrite=True) == 3
    assert sorted(path.name for path in tmp_path.glob("merged*")) == ["merged.h5"]


def test_an_acquisition_without_sparse_frames(tmp_path, model, make_master):
    outputs = (model.RAW,)
    master, _ = make_master(1, outputs)
    model.write_run(tmp_path, 1, 3)
    with pytest.raises(SavingError, match="there are no sparse frames"):
        merge_sparse(master, tmp_path / "merged.h5")
    assert not (tmp_path / "merged.h5").exists()
