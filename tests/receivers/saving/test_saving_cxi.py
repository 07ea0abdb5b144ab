"""Peak lists in CXI."""

import h5py
import numpy as np
import pytest

from lima2_receivers.errors import SavingError
from lima2_receivers.saving.cxi import write_cxi


@pytest.mark.parametrize("hits_only", [False, True])
@pytest.mark.parametrize("n_receivers", [1, 2])
def test_peaks_and_images_of_the_same_frames(tmp_path, model, make_master, n_receivers, hits_only):
    master, _ = make_master(n_receivers)
    model.write_run(tmp_path, n_receivers, 12)
    frames = [f for f in range(12) if not hits_only or (f % 2 and not model.is_lost(f))]
    output = tmp_path / "peaks.cxi"
    assert write_cxi(master, output, hits_only=hits_only) == len(frames)
    with h5py.File(output) as file:
        assert file["entry_1/frame_number"][()].tolist() == frames
        result, images = file["entry_1/result_1"], file["entry_1/data_1/data"]
        assert len(images) == len(frames)
        columns = {name: result[name][()] for name in result}
        for at, frame in enumerate(frames):
            values = model.values(frame)
            count = 0 if model.is_lost(frame) else min(frame, 6)
            assert columns["nPeaks"][at] == count
            for name, column in (("YPosRaw", 0), ("XPosRaw", 1), ("TotalIntensity", 2), ("SNR", 4)):
                found = columns[f"peak{name}"][at]
                assert found[:count].tolist() == values["peaks"][:count, column].tolist()
                assert not found[count:].any()
            expected = np.full(model.SHAPE, np.nan) if model.is_lost(frame) else values["dense"]
            np.testing.assert_array_equal(images[at], expected)
    assert columns["nPeaks"].dtype == np.int32
    assert columns["peakSNR"].dtype == np.float32


def test_a_list_without_any_frame_has_the_shape_that_readers_want(tmp_path, model, make_master):
    master, _ = make_master(1)
    model.write_run(tmp_path, 1, 1)  # frame 0 is no hit
    assert write_cxi(master, tmp_path / "peaks.cxi", hits_only=True) == 0
    with h5py.File(tmp_path / "peaks.cxi") as file:
        assert file["entry_1/result_1/peakSNR"].shape == (0, 1)


def test_an_acquisition_without_peaks(tmp_path, model, make_master):
    master, _ = make_master(1, (model.RAW,))
    model.write_run(tmp_path, 1, 1)
    with pytest.raises(SavingError, match="there are no peaks"):
        write_cxi(master, tmp_path / "peaks.cxi")
    assert not (tmp_path / "peaks.cxi").exists()
