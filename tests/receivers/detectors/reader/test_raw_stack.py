"""Packet files read back, as our receivers and slsReceiver write them."""

import json

import numpy as np
import pytest

from lima2_processing.frame import FrameIdx
from lima2_receivers.detectors.jungfrau.packets import HEADER, packets_of
from lima2_receivers.detectors.jungfrau.params import JungfrauSettings, frame_spec
from lima2_receivers.detectors.jungfrau.raw_files import RECORD_HEADER, RawFiles
from lima2_receivers.detectors.reader.params import ReaderSettings
from lima2_receivers.detectors.reader.raw_stack import RawStack
from lima2_receivers.detectors.reader.supply import read_supply
from lima2_receivers.errors import ConfigError, DetectorError
from lima2_receivers.plan import FileExistsPolicy
from lima2_receivers.source import FramePackets

MASTER = "run_0_master_0.json"


def save(folder, modules=(1, 1), read_rows=512, n_frames=3, absent=()):
    """Save frames as a receiver does, but for the modules (frame, module) of which no packet came."""
    spec = frame_spec(JungfrauSettings(control="ipc:///c", folder="/f", modules=modules), read_rows)
    files = RawFiles(folder, "run", 0, spec, modules, FileExistsPolicy.ABORT)
    frames = []
    for index in range(n_frames):
        data = np.random.default_rng(index).integers(0, 2**14, spec.shape, np.uint16)
        headers = np.zeros((spec.n_modules, HEADER.itemsize), np.uint8)
        came = np.ones((spec.n_modules, read_rows // 4), bool)
        for port, header, _ in packets_of(data, 1000 + index, modules[1]):
            if (index, port) in absent:
                came[port] = False
                data[port] = 0xFFFF
            else:
                headers[port] = np.frombuffer(header, np.uint8)
        files.write(FramePackets(FrameIdx(index), data, came.ravel(), headers))
        frames.append(data)
    files.close()
    files.keep()
    return spec, np.array(frames)


def frames_of(stack):
    found = np.array([stack.read(index) for index in range(len(stack))])
    stack.close()
    return found


@pytest.mark.parametrize(("modules", "read_rows"), [((1, 1), 512), ((2, 1), 512), ((2, 2), 64), ((4, 2), 16)])
def test_what_was_written_is_read(tmp_path, modules, read_rows):
    spec, frames = save(tmp_path, modules, read_rows)
    stack = RawStack(tmp_path / MASTER, gap_pixels=True)
    assert stack.spec == spec
    np.testing.assert_array_equal(frames_of(stack), frames)


def test_a_module_of_which_nothing_came_reads_as_missing(tmp_path):
    _, frames = save(tmp_path, (2, 1), 64, absent=[(1, 1)])
    np.testing.assert_array_equal(frames_of(RawStack(tmp_path / MASTER, gap_pixels=False)), frames)


def test_files_that_go_on_in_others_are_read_in_turn(tmp_path):
    _, frames = save(tmp_path, (2, 1), 64, n_frames=5)
    for module in range(2):
        path = tmp_path / f"run_0_d{module}_f0_0.raw"
        content = path.read_bytes()
        size = len(content) // 5
        for number, part in enumerate((content[: 2 * size], content[2 * size : 4 * size], content[4 * size :])):
            path.with_name(f"run_0_d{module}_f{number}_0.raw").write_bytes(part)
    np.testing.assert_array_equal(frames_of(RawStack(tmp_path / MASTER, gap_pixels=False)), frames)


def test_two_interfaces_are_two_files_of_a_module(tmp_path):
    """As slsReceiver writes them: a file for each half of a module."""
    frames = np.random.default_rng(0).integers(0, 2**14, (2, 2, 2, 256, 1024), np.uint16)  # frame, module, half
    for port in range(4):
        records = np.zeros(2, [("header", RECORD_HEADER), ("pixels", "<u2", (256, 1024))])
        records["header"]["header"]["frame"], records["header"]["header"]["packet"] = [7, 8], 64
        records["pixels"] = frames[:, port // 2, port % 2]
        records.tofile(tmp_path / f"run_d{port}_f0_3.raw")
    about = {"Geometry": {"x": 1, "y": 4}, "Pixels": {"x": 1024, "y": 256}, "Number of UDP Interfaces": 2}
    (tmp_path / "run_master_3.json").write_text(json.dumps({"Detector Type": "Jungfrau", **about}))
    np.testing.assert_array_equal(
        frames_of(RawStack(tmp_path / "run_master_3.json", gap_pixels=False)), frames.reshape(2, 2, 512, 1024)
    )


def test_modules_of_different_frames_are_refused(tmp_path):
    save(tmp_path, (2, 1), 64)
    path = tmp_path / "run_0_d1_f0_0.raw"
    size = path.stat().st_size // 3
    path.write_bytes(path.read_bytes()[size:] + path.read_bytes()[:size])
    stack = RawStack(tmp_path / MASTER, gap_pixels=False)
    with pytest.raises(DetectorError, match=r"record 0: got frame numbers \{0: 1000, 1: 1001\} by module"):
        stack.read(0)
    stack.close()


def test_a_missing_file_is_named(tmp_path):
    save(tmp_path, (2, 1), 64)
    (tmp_path / "run_0_d1_f0_0.raw").unlink()
    with pytest.raises(ConfigError, match=r"its file run_0_d1_f0_0\.raw is not there"):
        RawStack(tmp_path / MASTER, gap_pixels=False)


def test_a_file_that_is_cut_off_is_named(tmp_path):
    save(tmp_path, (1, 1), 64)
    path = tmp_path / "run_0_d0_f0_0.raw"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"d0_f0_0\.raw: got \d+ bytes, expected a multiple of 131184"):
        RawStack(tmp_path / MASTER, gap_pixels=False)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"got \[0\] frames of its modules"):
        RawStack(tmp_path / MASTER, gap_pixels=False)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Detector Type": "Eiger"}, "got packets of detector type 'Eiger', expected 'Jungfrau'"),
        ({"Geometry": {"x": 9, "y": 1}}, "got geometry 1 x 9 of 64 x 1024 pixels, expected 1 to 8 modules"),
        ({"Geometry": {"x": 0, "y": 1}}, r"\$\.Geometry\.x.*expected slsReceiver's master file"),
        ({"Pixels": {"x": 512, "y": 64}}, "of 64 x 512 pixels, expected"),
        ({"Pixels": {"x": 1024, "y": 1024}}, "of 1024 x 1024 pixels, expected"),
    ],
)
def test_a_master_that_does_not_fit_is_refused(tmp_path, changed, words):
    save(tmp_path, (1, 1), 64)
    master = tmp_path / MASTER
    master.write_text(json.dumps({**json.loads(master.read_text()), **changed}))
    with pytest.raises(ConfigError, match=words):
        RawStack(master, gap_pixels=False)
    master.write_text("{")
    with pytest.raises(ConfigError, match="expected slsReceiver's master file"):
        RawStack(master, gap_pixels=False)


def test_a_part_is_played_from_packet_files(tmp_path):
    _, frames = save(tmp_path, (1, 1), 64, n_frames=6)
    supply = read_supply(ReaderSettings("unused", "/unused", str(tmp_path / MASTER), start=1, count=2, stride=3))
    np.testing.assert_array_equal(supply.frames[:], frames[[1, 4]])
    supply.close()


def test_a_master_that_nests_too_deep_is_refused(tmp_path):
    path = tmp_path / MASTER
    path.write_bytes(b'{"x":' + b"[" * 100_000)
    with pytest.raises(ConfigError, match="expected slsReceiver's master file"):
        RawStack(path, gap_pixels=False)
