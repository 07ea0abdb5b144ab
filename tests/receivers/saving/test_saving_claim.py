"""Old files wait aside until the new ones are there to stay."""

import pytest

from lima2_receivers.plan import FileExistsPolicy
from lima2_receivers.saving.claim import Claim

OVERWRITE, ABORT = FileExistsPolicy.OVERWRITE, FileExistsPolicy.ABORT


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run_master.h5"


def contents(folder):
    return {found.name: found.read_text() for found in folder.iterdir()}


def test_the_old_file_comes_back_when_the_new_one_is_dropped(path):
    path.write_text("old")
    claimed = Claim(path, OVERWRITE)
    assert path.read_text() == ""
    claimed.drop()
    claimed.drop()
    assert contents(path.parent) == {path.name: "old"}


def test_the_old_file_is_gone_when_the_new_one_is_kept(path):
    path.write_text("old")
    claimed = Claim(path, OVERWRITE)
    path.write_text("new")
    claimed.keep()
    claimed.keep()
    assert contents(path.parent) == {path.name: "new"}


def test_what_was_kept_can_still_be_dropped(path):
    path.write_text("old")
    claimed = Claim(path, OVERWRITE)
    claimed.keep()
    claimed.drop()
    assert contents(path.parent) == {}


def test_where_there_was_nothing_nothing_comes_back(path):
    claimed = Claim(path, OVERWRITE)
    claimed.drop()
    assert contents(path.parent) == {}


def test_a_file_that_is_not_to_be_replaced_is_untouched(path):
    path.write_text("old")
    with pytest.raises(FileExistsError):
        Claim(path, ABORT)
    assert contents(path.parent) == {path.name: "old"}


def test_a_folder_in_the_way_comes_back(path):
    """Also what can't be replaced by a file is where it was after a drop."""
    path.mkdir()
    Claim(path, OVERWRITE).drop()
    assert path.is_dir()


def test_a_symbolic_link_is_moved_and_not_followed(path, tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    path.symlink_to(target)
    claimed = Claim(path, OVERWRITE)
    path.write_text("new")
    assert target.read_text() == "precious"
    claimed.drop()
    assert path.is_symlink()
    assert path.read_text() == "precious"


def test_missing_folders_are_made(tmp_path):
    Claim(tmp_path / "a/b/run.h5", ABORT)
    assert (tmp_path / "a/b/run.h5").exists()
