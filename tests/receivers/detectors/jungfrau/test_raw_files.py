"""Files in the layout of slsReceiver, read back by PSI's own library."""

from io import FileIO

import aare
import numpy as np
import pytest

from lima2_processing.frame import FrameIdx
from lima2_receivers.detectors.jungfrau.packets import HEADER, packets_of
from lima2_receivers.detectors.jungfrau.params import JungfrauSettings, frame_spec
from lima2_receivers.detectors.jungfrau.raw_files import RECORD_HEADER, RawFiles
from lima2_receivers.errors import SavingError
from lima2_receivers.plan import FileExistsPolicy
from lima2_receivers.source import FramePackets


def make(folder, modules=(1, 1), read_rows=512, policy=FileExistsPolicy.ABORT):
    settings = JungfrauSettings(control="ipc:///c", folder="/f", modules=modules)
    spec = frame_spec(settings, read_rows)
    return RawFiles(folder, "run", 0, spec, modules, policy), spec


def frame_packets(spec, index, missing=(), across=1):
    data = np.random.default_rng(index).integers(0, 2**16, spec.shape, np.uint16)
    headers = np.zeros((spec.n_modules, HEADER.itemsize), np.uint8)
    for port, header, _ in packets_of(data, 1000 + index, across):
        if not headers[port].any():
            headers[port] = np.frombuffer(header, np.uint8)
    came = np.ones(spec.n_modules * spec.shape[1] // 4, bool)
    came[list(missing)] = False
    return FramePackets(FrameIdx(index), data, came, headers)


@pytest.mark.parametrize(("modules", "read_rows"), [((1, 1), 512), ((2, 1), 512), ((2, 2), 512), ((1, 1), 256)])
def test_aare_reads_what_was_written(tmp_path, modules, read_rows):
    files, spec = make(tmp_path, modules, read_rows)
    frames = [frame_packets(spec, index, across=modules[1]) for index in range(3)]
    for each in frames:
        files.write(each)
    files.close()
    files.keep()
    with aare.RawFile(tmp_path / "run_0_master_0.json") as found:
        assert found.total_frames == 3
        for each in frames:
            header, image = found.read_frame()
            tiles = each.data.reshape(*modules, *spec.shape[1:])
            assert (image == np.block([list(row) for row in tiles])).all()
            assert set(np.atleast_1d(header["frameNumber"])) == {1000 + each.index}


def test_a_record_says_which_packets_came(tmp_path):
    files, spec = make(tmp_path, read_rows=256)
    files.write(frame_packets(spec, 0, missing=(0, 5)))
    files.close()
    record = np.fromfile(tmp_path / "run_0_d0_f0_0.raw", RECORD_HEADER, 1)[0]
    mask = np.unpackbits(record["mask"], bitorder="little")
    assert record["header"]["packet"] == 62
    assert np.flatnonzero(mask).tolist() == [n for n in range(32, 96) if n not in (32, 37)]
    assert (tmp_path / "run_0_d0_f0_0.raw").stat().st_size == 48 + 64 + 256 * 1024 * 2


def test_discarded_files_are_gone_and_the_old_ones_back(tmp_path):
    old, spec = make(tmp_path)
    old.write(frame_packets(spec, 0))
    old.close()
    old.keep()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    new, _ = make(tmp_path, policy=FileExistsPolicy.OVERWRITE)
    new.write(frame_packets(spec, 1))
    new.discard()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_files_that_are_there_are_not_overwritten_unasked(tmp_path):
    make(tmp_path)[0].close()
    (tmp_path / "run_0_d0_f0_0.raw").rename(tmp_path / "other")
    with pytest.raises(SavingError, match=r"run_0_master_0\.json: File exists"):
        make(tmp_path)
    assert not (tmp_path / "run_0_d0_f0_0.raw").exists()


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    files, spec = make(tmp_path)
    files._files[0].close()
    files._files[0] = FileIO("/dev/full", "wb")
    with pytest.raises(SavingError, match="/dev/full: No space left on device"):
        files.write(frame_packets(spec, 0))
    files.discard()
