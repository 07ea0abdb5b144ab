"""Calibration files: every format, and files that are missing, broken, or not the ones that are meant."""

import hashlib
import os
from pathlib import Path

import h5py
import msgspec
import numpy as np
import pytest
from fabio.edfimage import EdfImage

from lima2_processing.calibration import CalibrationFile
from lima2_receivers.errors import PlanError
from lima2_receivers.receiver import calibration
from lima2_receivers.receiver.calibration import calibration_files, load_calibration, with_hashes

PLANE = np.arange(12, dtype="<f4").reshape(3, 4)
PONI = "poni_version: 2.1\nDistance: 0.1\n"

ANYWHERE = ("/",)


class Params(msgspec.Struct, frozen=True):
    gain: tuple[CalibrationFile, ...] = ()
    mask: CalibrationFile | None = None
    cutoff: float = 4.0
    beam_center: tuple[float, float] | None = (1.0, 2.0)


def write_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["maps/mask"] = PLANE


WRITERS = {
    "mask.npy": lambda path: np.save(path, PLANE),
    "mask.bin": PLANE.tofile,
    "mask.h5": write_h5,
    "mask.edf": lambda path: EdfImage(PLANE).write(path),
    "mask.poni": lambda path: path.write_text(PONI),
}


@pytest.fixture
def made(tmp_path):
    """Write a file of a format and return how a plan names it."""

    def make(name: str, **fields: str) -> CalibrationFile:
        path = tmp_path / name
        WRITERS[name](path)
        return CalibrationFile(str(path), **fields)

    return make


def load(file: CalibrationFile):
    return load_calibration(Params(mask=file), ANYWHERE)["mask"]


@pytest.mark.parametrize(
    ("name", "fields"), [("mask.npy", {}), ("mask.h5", {"dataset": "/maps/mask"}), ("mask.edf", {})]
)
def test_an_image_is_read_with_its_shape_and_type(made, name, fields):
    found = load(made(name, **fields))
    assert found.dtype == PLANE.dtype
    assert np.array_equal(found, PLANE)


def test_raw_values_have_the_type_that_the_plan_says(made):
    assert np.array_equal(load(made("mask.bin")), PLANE.ravel())
    assert np.array_equal(load(made("mask.bin", dtype="<u4")), PLANE.ravel().view("<u4"))


def test_a_geometry_is_its_text(made):
    assert load(made("mask.poni")) == PONI


def test_the_end_of_the_name_may_be_in_capitals(tmp_path):
    (tmp_path / "MASK.PONI").write_text(PONI)
    assert load(CalibrationFile(str(tmp_path / "MASK.PONI"))) == PONI


def test_files_go_by_field_and_position(made):
    params = Params(gain=(made("mask.npy"), made("mask.bin")), mask=made("mask.poni"))
    assert [name for name, _ in calibration_files(params)] == ["gain.0", "gain.1", "mask"]
    assert list(load_calibration(params, ANYWHERE)) == ["gain.0", "gain.1", "mask"]
    assert load_calibration(Params(), ANYWHERE) == {}


def test_hashes_are_filled_in_and_the_rest_is_kept(made):
    params = Params(gain=(made("mask.npy"), made("mask.bin")), mask=made("mask.poni"))
    hashed = with_hashes(params, ANYWHERE)
    for (_, before), (_, after) in zip(calibration_files(params), calibration_files(hashed), strict=True):
        assert after.sha256 == hashlib.sha256(Path(before.path).read_bytes()).hexdigest()
        assert msgspec.structs.replace(after, sha256="") == before
    assert (hashed.cutoff, hashed.beam_center) == (params.cutoff, params.beam_center)
    assert with_hashes(hashed, ANYWHERE) == hashed
    assert load_calibration(hashed, ANYWHERE).keys() == load_calibration(params, ANYWHERE).keys()


def test_another_file_than_the_one_that_is_meant_is_refused(made):
    params = with_hashes(Params(gain=(made("mask.npy"), made("mask.bin"))), ANYWHERE)
    path = Path(params.gain[1].path)
    (PLANE + 1).tofile(path)
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    said = rf"^pipeline\.params\.gain\.1: {path} has sha256 {got}, expected {params.gain[1].sha256}$"
    for check in (load_calibration, with_hashes):
        with pytest.raises(PlanError, match=said):
            check(params, ANYWHERE)


@pytest.mark.parametrize("check", [load_calibration, with_hashes])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/nowhere/mask.npy", r"/nowhere/mask\.npy: No such file or directory"),
        ("mask.npy", r"got path 'mask\.npy', expected an absolute one"),
        ("", r"got path '', expected an absolute one"),
        ("/tmp", r"/tmp is not a file"),
        ("/tmp/\0.npy", r"null"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_field_and_path(check, path, said):
    with pytest.raises(PlanError, match=rf"^pipeline\.params\.mask: .*{said}"):
        check(Params(mask=CalibrationFile(path)), ANYWHERE)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [("", "needs `dataset`"), ("/maps", "is not a dataset"), ("/none", "none"), ("/maps/mask/x", "")],
)
def test_a_dataset_that_is_not_there_is_refused(made, dataset, said):
    with pytest.raises(PlanError, match=rf"^pipeline\.params\.mask: .*mask\.h5: .*{said}"):
        load(made("mask.h5", dataset=dataset))


@pytest.mark.parametrize("dtype", ["float", "<zz", "", "O", "<f4,<f4,,("])
def test_a_type_of_values_that_is_none_is_refused_or_numeric(made, dtype):
    try:
        found = load(made("mask.bin", dtype=dtype))
    except PlanError as error:
        assert str(error).startswith("pipeline.params.mask: ")  # noqa: PT017
    else:
        assert np.issubdtype(found.dtype, np.number)


@pytest.mark.parametrize("name", ["mask.npy", "mask.h5", "mask.edf", "mask.tif", "mask.cbf", "mask.txt", "mask"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe noise" * 50], ids=["empty", "noise"])
def test_a_broken_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PlanError, match=r"^pipeline\.params\.mask: .*"):
        load(CalibrationFile(str(tmp_path / name), dataset="/mask"))


def test_a_geometry_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "mask.poni").write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError, match=r"^pipeline\.params\.mask: "):
        load(CalibrationFile(str(tmp_path / "mask.poni")))


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "mask.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(PlanError, match="allow_pickle"):
        load(CalibrationFile(str(tmp_path / "mask.npy")))


def test_an_archive_is_not_an_array(tmp_path):
    np.savez(tmp_path / "mask.npz", PLANE)
    (tmp_path / "mask.npz").rename(tmp_path / "mask.npy")
    with pytest.raises(PlanError, match=r"^pipeline\.params\.mask: "):
        load(CalibrationFile(str(tmp_path / "mask.npy")))


@pytest.mark.parametrize("check", [load_calibration, with_hashes])
def test_a_file_outside_the_roots_is_refused_also_by_a_symbolic_link_and_whether_it_is_there_or_not(
    check, made, tmp_path
):
    mask = made("mask.npy")
    inside, other = tmp_path / "inside", tmp_path / "other"
    inside.mkdir()
    other.mkdir()
    (inside / "link.npy").symlink_to(mask.path)
    (inside / "folder").symlink_to(tmp_path)
    (inside / "loop.npy").symlink_to(inside / "loop.npy")
    roots = (str(other), str(inside))
    outside = [mask.path, f"{tmp_path}/none.npy", f"{inside}/../mask.npy", f"{inside}/link.npy"]
    for path in [*outside, f"{inside}/folder/mask.npy", f"{inside}/folder/none.npy"]:
        with pytest.raises(PlanError, match=rf"^pipeline\.params\.mask: .*expected a file below {other}, {inside} "):
            check(Params(mask=CalibrationFile(path)), roots)
    with pytest.raises(PlanError, match=r"^pipeline\.params\.mask: .*loop\.npy"):
        check(Params(mask=CalibrationFile(f"{inside}/loop.npy")), roots)
    check(Params(mask=mask), (*roots, str(tmp_path)))
    (other / "link").symlink_to(tmp_path)
    check(Params(mask=mask), (str(other / "link"),))


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "mask.npy")  # reading it would wait for ever
    with pytest.raises(PlanError, match=r"mask\.npy is not a file"):
        load(CalibrationFile(str(tmp_path / "mask.npy")))


def test_a_dataset_that_leads_into_another_file_is_refused(made, tmp_path):
    made("mask.h5")
    PLANE.tofile(tmp_path / "plane.bin")
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["external"] = h5py.ExternalLink("mask.h5", "/maps/mask")
        layout = h5py.VirtualLayout(PLANE.shape, PLANE.dtype)
        layout[:] = h5py.VirtualSource(tmp_path / "mask.h5", "/maps/mask", PLANE.shape)
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", PLANE.shape, PLANE.dtype, external=[(str(tmp_path / "plane.bin"), 0, PLANE.nbytes)])
        file["own"] = PLANE
        file["soft"] = h5py.SoftLink("/own")
    for name in ("external", "virtual", "raw"):
        with pytest.raises(PlanError, match=rf"links\.h5: {name} leads into another file"):
            load(CalibrationFile(str(tmp_path / "links.h5"), dataset=name))
    assert np.array_equal(load(CalibrationFile(str(tmp_path / "links.h5"), dataset="soft")), PLANE)


def test_a_file_is_hashed_anew_only_when_it_changed(made, monkeypatch):
    file = made("mask.npy")
    path = Path(file.path)
    os.utime(path, (1, 1))
    monkeypatch.setattr(calibration, "_SETTLED", -1e9)  # as if it had changed long ago
    opened = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: opened.append(1) or real(*args))
    first = with_hashes(Params(mask=file), ANYWHERE)
    assert with_hashes(Params(mask=file), ANYWHERE) == first
    assert len(opened) == 1
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    os.utime(path, (1, 1))  # the same size and time as before
    assert with_hashes(Params(mask=file), ANYWHERE) != first
    assert len(opened) == 2


def test_a_file_that_changed_just_now_is_always_hashed(made):
    file = made("mask.npy")
    path = Path(file.path)
    seen = set()
    for number in range(5):  # faster than the file system's clock ticks
        path.write_bytes(path.read_bytes()[:-1] + bytes([number]))
        seen.add(with_hashes(Params(mask=file), ANYWHERE).mask.sha256)
    assert len(seen) == 5
