"""File systems that can't do what a saving mode needs are told before anything is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.errors import SavingError
from lima2_receivers.rollover import SavingMode
from lima2_receivers.saving import probe as probe_module
from lima2_receivers.saving.file_systems import LOCAL, SHARED, Mount, Promise, mount_of, read_mounts, swmr_promise
from lima2_receivers.saving.probe import probe

MOUNTS = """\
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:30 / /data rw,relatime - nfs4 server:/data rw,vers=4.2
31 30 0:31 / /data/fast rw,relatime master:2 - xfs /dev/nvme0n1 rw
32 27 0:32 / /my\\040data rw - lustre mgs@tcp:/fs rw
33 27 0:33 / /home rw - autofs systemd-1 rw
34 33 0:34 / /home rw - beegfs beegfs_nodev rw
garbage
"""


@pytest.fixture(autouse=True)
def untried(monkeypatch):
    monkeypatch.setattr(probe_module, "_passed", set())


def table(tmp_path: Path, kind: str) -> Path:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"27 1 254:0 / / rw - ext4 /dev/vda rw\n30 27 0:30 / {tmp_path} rw - {kind} some rw\n")
    return mounts


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/database", "ext4"),
        ("/data", "nfs4"),
        ("/data/run/1", "nfs4"),
        ("/data/fast/run", "xfs"),
        ("/my data/run", "lustre"),
        ("/home/me", "beegfs"),  # the last that was mounted there hides the others
    ],
)
def test_a_path_is_in_its_deepest_mount(path, kind):
    assert mount_of(Path(path), read_mounts(MOUNTS)).kind == kind


def test_where_nothing_is_mounted_nothing_is_known():
    assert mount_of(Path("/data"), ()) == Mount(Path("/"), "unknown")


@given(st.text())
def test_any_table_can_be_read(text):
    mount_of(Path("/data"), read_mounts(text))


def test_no_file_system_is_both():
    assert not LOCAL & SHARED
    assert {swmr_promise(kind) for kind in LOCAL} == {Promise.HOLDS}
    assert {swmr_promise(kind) for kind in SHARED} == {Promise.DOUBTFUL}
    assert swmr_promise("fuse.sshfs") is Promise.DOUBTFUL
    assert swmr_promise("newfs") is Promise.UNKNOWN


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "gpfs", "lustre", "beegfs", "cifs", "fuse.glusterfs"])
def test_swmr_is_refused_where_it_is_not_promised(tmp_path, kind):
    mounts = table(tmp_path, kind)
    with pytest.raises(SavingError) as refused:
        probe(tmp_path / "run", SavingMode.SWMR, mounts=mounts)
    for said in (str(tmp_path / "run"), f"on {kind} ", 'saving.mode = "close_per_file"', f'swmr_on = ["{kind}"]'):
        assert said in str(refused.value)
    assert probe(tmp_path, SavingMode.CLOSE_PER_FILE, mounts=mounts).kind == kind
    assert probe(tmp_path, SavingMode.SWMR, [kind], mounts=mounts).kind == kind


@pytest.mark.parametrize("mode", list(SavingMode))
def test_a_file_system_is_tried_once_and_nothing_is_left(tmp_path, monkeypatch, mode):
    tried = []
    attempt = probe_module._try
    monkeypatch.setattr(probe_module, "_try", lambda path, how: (tried.append(path.parent), attempt(path, how)))
    for folder in (tmp_path / "not" / "there", tmp_path, tmp_path):
        probe(folder, mode)
    assert tried == [tmp_path]
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_loses_what_was_flushed_is_refused(tmp_path, monkeypatch):
    """As one does that shows other readers an old state."""

    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: whole(path)[:64])
    for _ in range(2):  # what failed is tried again
        with pytest.raises(SavingError, match=f"saving.mode swmr does not work in {tmp_path}"):
            probe(tmp_path, SavingMode.SWMR)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_can_not_rename_is_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(SavingError, match=r"saving.mode close_per_file does not work .*cross-device"):
        probe(tmp_path, SavingMode.CLOSE_PER_FILE)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_table_of_mounts_is_told(tmp_path):
    with pytest.raises(SavingError, match=r"reading .*nowhere"):
        probe(tmp_path, SavingMode.SWMR, mounts=tmp_path / "nowhere")
