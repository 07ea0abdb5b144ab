from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from lima2_receivers.errors import SavingError
from lima2_receivers.plan import FileExistsPolicy
from lima2_receivers.saving.names import check_files, confine, ledger_name, master_name, part_names

NOBODY = 65534


def test_names_tell_stream_and_rank():
    assert part_names("run", 3, ("raw", "dense")) == {"raw": "run_raw_3.h5", "dense": "run_dense_3.h5"}
    assert (master_name("run"), ledger_name("run")) == ("run_master.h5", "run_ledger.h5")


def test_a_folder_below_a_root_is_allowed_before_it_exists(tmp_path):
    assert confine(str(tmp_path / "a" / "b"), [str(tmp_path)]) == tmp_path.resolve() / "a" / "b"
    assert confine(str(tmp_path), ["/nowhere", str(tmp_path)]) == tmp_path.resolve()


@pytest.mark.parametrize("base_path", ["data", "", "./data", "/tmp/a\0b"])
def test_a_folder_must_be_absolute(base_path, tmp_path):
    with pytest.raises(SavingError, match=r"saving\.base_path: got .*expected an absolute folder"):
        confine(base_path, [str(tmp_path)])


def test_a_folder_outside_the_roots_is_refused_with_the_roots(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for outside in (tmp_path / "other", tmp_path / "root2", tmp_path / "root" / ".." / "other"):
        with pytest.raises(SavingError, match=f"saving.base_path.*{root}"):
            confine(str(outside), [str(root)])


def test_dots_are_refused_even_where_they_stay_inside(tmp_path):
    with pytest.raises(SavingError, match=r"\.\."):
        confine(f"{tmp_path}/a/../b", [str(tmp_path)])


def test_a_symbolic_link_out_of_the_roots_is_refused(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    with pytest.raises(SavingError, match=f"{root}/link.*{outside}"):
        confine(str(root / "link" / "sub"), [str(root)])


def test_a_root_that_is_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert confine(str(tmp_path / "root" / "run"), [str(tmp_path / "root")]) == tmp_path.resolve() / "real" / "run"


def test_a_loop_of_links_is_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(SavingError, match=r"saving\.base_path"):
        check_files(confine(str(tmp_path / "a"), [str(tmp_path)]), ["f.h5"], FileExistsPolicy.ABORT)


def test_a_root_that_is_missing_is_not_made(tmp_path):
    with pytest.raises(SavingError, match=r"gone.*is not there"):
        confine(str(tmp_path / "gone" / "run"), [str(tmp_path / "gone")])


def test_a_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(SavingError, match="too long"):
        check_files(confine(str(tmp_path / ("x" * 300)), [str(tmp_path)]), ["f.h5"], FileExistsPolicy.ABORT)


def test_a_missing_folder_is_fine_and_not_made(tmp_path):
    check_files(tmp_path / "a" / "b", ["f.h5"], FileExistsPolicy.ABORT)
    assert not (tmp_path / "a").exists()


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "sub"):
        with pytest.raises(SavingError, match="file is not a folder"):
            check_files(folder, ["f.h5"], FileExistsPolicy.ABORT)


def test_an_existing_file_is_named_unless_it_is_to_be_overwritten(tmp_path):
    (tmp_path / "run_raw_0.h5").touch()
    names = ["run_dense_0.h5", "run_raw_0.h5"]
    with pytest.raises(SavingError, match=r"saving\.filename_prefix: .*run_raw_0\.h5 is there already"):
        check_files(tmp_path, names, FileExistsPolicy.ABORT)
    check_files(tmp_path, names, FileExistsPolicy.OVERWRITE)


def test_a_link_that_leads_nowhere_counts_as_a_file(tmp_path):
    (tmp_path / "f.h5").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SavingError, match="is there already"):
        check_files(tmp_path, ["f.h5"], FileExistsPolicy.ABORT)


@pytest.mark.parametrize("name", ["../f.h5", "a/b.h5", "/f.h5", "a\n.h5"])
def test_a_file_name_that_leads_elsewhere_is_refused(name, tmp_path):
    with pytest.raises(SavingError, match=r"saving\.filename_prefix: got"):
        check_files(tmp_path, [name], FileExistsPolicy.OVERWRITE)


@pytest.fixture
def open_folder():
    """A folder that every user can reach; pytest's own is the user's alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture
def ordinary_user():
    """Root may write everywhere: be somebody else for a while."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_folder_without_permission_is_named(open_folder, request):
    (open_folder / "closed").mkdir(mode=0o500)
    request.getfixturevalue("ordinary_user")
    for folder in (open_folder / "closed", open_folder / "closed" / "sub" / "sub"):
        with pytest.raises(SavingError, match=r"saving\.base_path: .*closed"):
            check_files(folder, ["f.h5"], FileExistsPolicy.ABORT)


@pytest.fixture
def read_only(tmp_path):
    folder = tmp_path / "read_only"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_read_only_file_system_is_named(read_only):
    with pytest.raises(SavingError, match=r"read_only.*(read-only|can't be written)"):
        check_files(read_only / "run", ["f.h5"], FileExistsPolicy.ABORT)
