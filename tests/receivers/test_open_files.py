"""What a receiver notes of its open files, and what the next one makes of it."""

from __future__ import annotations

import logging

import h5py
import msgspec
import pytest

from lima2_receivers.config import ConductorConfig, Config, DetectorConfig, ReceiverConfig, SavingConfig
from lima2_receivers.receiver.open_files import OpenFiles, diary_path
from lima2_receivers.saving.h5 import CREATOR
from lima2_receivers.saving.hold import Hold


@pytest.fixture
def diary(tmp_path):
    return tmp_path / ".diary.json"


def left_by_a_killed_writer(path):
    """Make a file as a kill leaves it."""
    live = path.with_suffix(".live")
    with h5py.File(live, "w", libver="latest", locking=False) as file:
        file.attrs["creator"] = CREATOR
        file["entry_0000/acquisition"] = "a"
        file["entry_0000"].attrs["default"] = "raw"
        file.swmr_mode = True
        file.flush()
        path.write_bytes(live.read_bytes())
    live.unlink()
    return path


def closed(path):
    try:
        h5py.File(path, "r").close()
    except OSError:
        return False
    return True


def test_the_diary_is_there_while_files_are_open(tmp_path, diary):
    found = OpenFiles(diary, [str(tmp_path)])
    found.add("a", [tmp_path / "run_raw_0.h5"])
    found.add("b", [tmp_path / "next_raw_0.h5"])
    assert msgspec.json.decode(diary.read_bytes()) == {
        "a": [str(tmp_path / "run_raw_0.h5")],
        "b": [str(tmp_path / "next_raw_0.h5")],
    }
    found.remove("a")
    found.remove("a")
    assert list(msgspec.json.decode(diary.read_bytes())) == ["b"]
    found.remove("b")
    assert list(tmp_path.iterdir()) == []


def test_what_a_predecessor_left_is_repaired_once(tmp_path, diary, caplog):
    caplog.set_level(logging.INFO)
    path = left_by_a_killed_writer(tmp_path / "run_raw_0.h5")
    assert not closed(path)
    OpenFiles(diary, [str(tmp_path)]).add("a", [path, tmp_path / "run_never_made_0.h5"])
    found = OpenFiles(diary, [str(tmp_path)])
    found.add("b", [tmp_path / "other_raw_0.h5"])
    assert not closed(path)
    found.repair_left()
    assert closed(path)
    assert f"{path}: repaired" in caplog.text
    assert list(msgspec.json.decode(diary.read_bytes())) == ["b"]


def test_a_file_that_somebody_still_writes_is_tried_by_the_next_one(tmp_path, diary, caplog):
    held = Hold(tmp_path / "run_raw_0.h5")
    left_by_a_killed_writer(tmp_path / "copy.h5")
    (tmp_path / "run_raw_0.h5").write_bytes((tmp_path / "copy.h5").read_bytes())
    OpenFiles(diary, [str(tmp_path)]).add("a", [tmp_path / "run_raw_0.h5"])
    OpenFiles(diary, [str(tmp_path)]).repair_left()
    assert "is being written" in caplog.text
    assert diary.exists()
    held.release()
    OpenFiles(diary, [str(tmp_path)]).repair_left()
    assert closed(tmp_path / "run_raw_0.h5")
    assert not diary.exists()


def test_files_outside_the_folders_to_save_in_are_left_alone(tmp_path, diary):
    (tmp_path / "data").mkdir()
    outside = left_by_a_killed_writer(tmp_path / "outside_raw_0.h5")
    (tmp_path / "data" / "link_raw_0.h5").symlink_to(outside)
    OpenFiles(diary, [str(tmp_path)]).add("a", [outside, tmp_path / "data" / "link_raw_0.h5"])
    OpenFiles(diary, [str(tmp_path / "data")]).repair_left()
    assert not closed(outside)
    assert not diary.exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}'])
def test_a_broken_diary_is_told_and_fails_nothing(tmp_path, diary, caplog, text):
    diary.write_text(text)
    found = OpenFiles(diary, [str(tmp_path)])
    found.repair_left()
    assert f"{diary} can't be read" in caplog.text
    found.add("a", [tmp_path / "run_raw_0.h5"])
    found.remove("a")
    assert not diary.exists()


def test_a_folder_that_is_not_there_is_told_and_fails_nothing(tmp_path, caplog):
    found = OpenFiles(tmp_path / "missing" / ".diary.json", [str(tmp_path)])
    found.add("a", [tmp_path / "run_raw_0.h5"])
    found.remove("a")
    assert "can't be written" in caplog.text


def test_receivers_that_share_a_folder_have_diaries_of_their_own(tmp_path):
    def config(name, socket):
        receivers = tuple(ReceiverConfig(f"ipc:///{socket}{rank}", f"ipc:///d{rank}") for rank in range(2))
        saving = SavingConfig((str(tmp_path), "/other"))
        return Config(DetectorConfig("simulator", name), ConductorConfig("ipc:///c", "ipc:///s"), receivers, saving)

    paths = {diary_path(config(name, socket), rank) for name in "ab" for socket in "cd" for rank in range(2)}
    assert len(paths) == 8
    assert {path.parent for path in paths} == {tmp_path}
