"""Pipelines that are kept for the next acquisition, and those that must not be."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from lima2_processing.calibration import CalibrationFile
from lima2_processing.errors import DeviceError
from lima2_processing.frame import Frame, FrameSpec
from lima2_processing.pipelines.smx_params import SmxParams
from lima2_receivers.config import load_config
from lima2_receivers.errors import PlanError, ReceiverError
from lima2_receivers.plan import PipelineChoice
from lima2_receivers.receiver.calibration import with_hashes
from lima2_receivers.receiver.pipelines import PipelineMaker
from lima2_receivers.receiver.ring import FrameRing

SPEC = FrameSpec((70, 50), "<u2")
CONFIG = """
[detector]
plugin = "simulator"
settings = {{ control = "ipc:///run/lima2/simulator", folder = "{folder}" }}
[conductor]
commands = "ipc:///run/lima2/commands"
state = "ipc:///run/lima2/state"
[[receivers]]
commands = "ipc:///run/lima2/receiver0"
data = "ipc:///run/lima2/data0"
opencl = {{ memory = {memory} }}
[saving]
roots = ["{folder}"]
"""


@pytest.fixture
def make_maker(tmp_path):
    makers = []

    def make(memory=0):
        path = tmp_path / "site.toml"
        path.write_text(CONFIG.format(folder=tmp_path, memory=memory))
        makers.append(PipelineMaker(load_config(path), 0, FrameRing(2, SPEC.nbytes)))
        return makers[-1]

    yield make
    for maker in makers:
        maker.close()


@pytest.fixture
def mask(tmp_path) -> Path:
    path = tmp_path / "mask.npy"
    np.save(path, np.zeros(SPEC.shape, np.uint8))
    return path


def choice(roots="/", **params) -> PipelineChoice:
    params = with_hashes(SmxParams(n_bins=10, **params), (str(roots),))
    return PipelineChoice("smx", msgspec.Raw(msgspec.msgpack.encode(params)))


def frames(n=8, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(Frame(at, rng.poisson(3, SPEC.shape).astype("u2"), 1, 0.0) for at in range(n))


def inner(pipeline):
    """The pipeline that does the work."""
    return pipeline._pipeline


def take(maker, number, wanted, spec=SPEC):
    maker.check(wanted)
    return maker.make(f"{number:032x}", wanted, spec)


def test_the_same_is_used_again_and_remembers_nothing(make_maker):
    maker, wanted = make_maker(), choice(acc_nb_frames_xfer=100)
    first = take(maker, 0, wanted)
    first.process(frames(5))
    used = inner(first)
    first.close()
    first.close()
    assert first.device_bytes == 0
    again = take(maker, 1, wanted)
    assert inner(again) is used
    assert again.device_bytes > 0
    results = again.process(frames(8, seed=1))
    assert not any(result.values["fallback"] for result in results.frames)
    (sums,) = again.finish()
    assert sums.values["acc_n_corrected"] == 8
    total = sum(frame.data.astype("u4") for frame in frames(8, seed=1))
    np.testing.assert_array_equal(sums.values["acc_corrected"], total)
    again.close()


def test_one_that_is_in_use_is_not_shared(make_maker):
    maker, wanted = make_maker(), choice()
    first, second = take(maker, 0, wanted), take(maker, 1, wanted)
    assert inner(first) is not inner(second)
    first.close()
    second.close()
    assert inner(take(maker, 2, wanted)) is inner(second)  # the one that was needed last
    with pytest.raises(Exception, match="closed"):
        inner(first).process(frames(1))


@pytest.mark.parametrize("change", ["parameter", "frames", "calibration"])
def test_what_differs_is_made_anew(make_maker, mask, tmp_path, change):
    maker = make_maker()
    kept = take(maker, 0, choice(tmp_path, mask=CalibrationFile(str(mask))))
    kept.close()
    changes, spec = {}, SPEC
    match change:
        case "parameter":
            changes = {"noise": 0.75}
        case "frames":
            spec = FrameSpec(SPEC.shape, "<u4")
        case "calibration":  # the same file, with other bytes
            np.save(mask, np.eye(*SPEC.shape, dtype=np.uint8))
    made = take(maker, 1, choice(tmp_path, mask=CalibrationFile(str(mask)), **changes), spec)
    assert inner(made) is not inner(kept)
    with pytest.raises(Exception, match="closed"):
        inner(kept).process(frames(1))
    expected = 50 if change == "calibration" else 0
    assert made.facts().pixels["masked"] == expected
    made.close()


def test_a_file_that_is_another_than_was_meant_is_refused_though_a_pipeline_is_kept(make_maker, mask, tmp_path):
    maker = make_maker()
    take(maker, 0, choice(tmp_path, mask=CalibrationFile(str(mask)))).close()
    meant = CalibrationFile(str(mask), sha256="0" * 64)
    wanted = PipelineChoice("smx", msgspec.Raw(msgspec.msgpack.encode(SmxParams(n_bins=10, mask=meant))))
    with pytest.raises(PlanError, match="expected 0000"):
        maker.check(wanted)


def test_one_whose_device_failed_is_not_kept(make_maker, monkeypatch):
    maker, wanted = make_maker(), choice()
    first = take(maker, 0, wanted)
    lost = inner(first)

    def fail(batch):
        raise DeviceError("gone")

    monkeypatch.setattr(lost, "process", fail)
    results = first.process(frames(2))
    assert all(result.values["fallback"] for result in results.frames)
    first.close()
    again = take(maker, 1, wanted)
    assert inner(again) is not lost
    assert not any(result.values["fallback"] for result in again.process(frames(2)).frames)
    again.close()


def test_a_kept_one_makes_room_for_another(make_maker):
    """There is room for one only: the one that nobody uses is let go."""
    probe = make_maker()
    made = take(probe, 0, choice())
    size = made.device_bytes
    made.close()
    maker = make_maker(memory=int(1.5 * size))
    take(maker, 0, choice()).close()
    other = take(maker, 1, choice(noise=0.75))
    with pytest.raises(ReceiverError, match="are free"):
        take(maker, 2, choice())
    other.close()
    take(maker, 3, choice()).close()
