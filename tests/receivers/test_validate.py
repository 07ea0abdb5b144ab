"""Plans against what the detector can do and which plugins there are."""

import math

import msgspec
import pytest

from lima2_processing.frame import FrameSpec
from lima2_receivers.conductor.validate import check_plan, check_trigger
from lima2_receivers.config import ConductorConfig, Config, DetectorConfig, ReceiverConfig, SavingConfig
from lima2_receivers.control import Capabilities, Range
from lima2_receivers.errors import ConfigError, PlanError, StateError
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, PipelineChoice, SavingParams, TriggerMode
from lima2_receivers.rollover import SavingMode

CAPABILITIES = Capabilities(
    "Jungfrau 4M",
    (TriggerMode.INTERNAL, TriggerMode.SOFTWARE),
    Range(1e-5, 10.0),
    Range(0.001, 1.0),
    FrameSpec((1, 64, 128), "<u2"),
)
WITH_SIGNAL = msgspec.structs.replace(CAPABILITIES, trigger_modes=tuple(TriggerMode))
CONFIG = Config(
    DetectorConfig("simulator"),
    ConductorConfig("ipc:///c", "ipc:///s"),
    (ReceiverConfig("ipc:///r", "ipc:///d"),),
    SavingConfig(("/data",)),
)
GOOD = {"latency_time": 0.001}


def raw(**params) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(params))


def check(acquisition=None, config=CONFIG, **parts):
    parts = {"saving": SavingParams("/data"), "pipeline": None} | parts
    check_plan(
        AcquisitionPlan(acquisition=AcquisitionParams(**GOOD | (acquisition or {})), **parts), CAPABILITIES, config
    )


@pytest.mark.parametrize(
    "acquisition",
    [
        {},
        {"expo_time": 1e-5},
        {"expo_time": 10.0, "latency_time": 1.0},
        {"nb_frames": 0},
        {"trigger_mode": TriggerMode.SOFTWARE, "nb_frames": 10, "nb_frames_per_trigger": 10},
        {"trigger_mode": TriggerMode.SOFTWARE, "nb_frames": 0, "nb_frames_per_trigger": 99},
    ],
)
def test_what_the_detector_can_do_passes(acquisition):
    check(acquisition)


@pytest.mark.parametrize(
    ("acquisition", "said"),
    [
        ({"trigger_mode": TriggerMode.GATE}, r"trigger_mode: got gate, Jungfrau 4M has internal, software"),
        ({"expo_time": 9e-6}, r"expo_time: got 9e-06 s, Jungfrau 4M takes 1e-05 to 10 s"),
        ({"expo_time": 11.0}, r"expo_time: got 11 s, Jungfrau 4M takes 1e-05 to 10 s"),
        ({"latency_time": 0.0}, r"latency_time: got 0 s, Jungfrau 4M takes 0\.001 to 1 s"),
        (
            {"trigger_mode": TriggerMode.SOFTWARE, "nb_frames": 2, "nb_frames_per_trigger": 3},
            r"nb_frames_per_trigger: got 3, expected at most nb_frames, 2",
        ),
        ({"nb_frames": 9, "nb_frames_per_trigger": 3}, r"nb_frames_per_trigger: internal mode has no triggers"),
    ],
)
def test_what_it_cannot_do_is_refused_with_path_and_limits(acquisition, said):
    with pytest.raises(PlanError, match=rf"^acquisition\.{said}"):
        check(acquisition)


def test_a_gate_exposes_one_frame():
    acquisition = AcquisitionParams(9, latency_time=0.001, trigger_mode=TriggerMode.GATE, nb_frames_per_trigger=3)
    plan = AcquisitionPlan(acquisition=acquisition, saving=SavingParams("/data"), pipeline=None)
    with pytest.raises(PlanError, match="nb_frames_per_trigger: a gate exposes one frame, expected 1"):
        check_plan(plan, WITH_SIGNAL, CONFIG)
    edges = msgspec.structs.replace(acquisition, trigger_mode=TriggerMode.EXTERNAL)
    check_plan(msgspec.structs.replace(plan, acquisition=edges), WITH_SIGNAL, CONFIG)


def test_parameters_of_the_detector_are_decoded_strictly():
    check(detector=raw(loss=0.5, lose=[3, 4]))
    with pytest.raises(PlanError, match=r"^detector: .*unknown field `los`"):
        check(detector=raw(los=0.5))
    with pytest.raises(PlanError, match=r"^detector: .*<= 1\.0 - at `\$\.loss`"):
        check(detector=raw(loss=1.5))
    with pytest.raises(PlanError, match=r"^detector: .*>= 0 - at `\$\.lose\[1\]`"):
        check(detector=raw(lose=[3, -1]))


def test_parameters_of_the_pipeline_are_decoded_strictly():
    check(pipeline=PipelineChoice("smx", raw(noise=1.0)))
    with pytest.raises(PlanError, match=r"^pipeline\.params: .*unknown field `noize`"):
        check(pipeline=PipelineChoice("smx", raw(noize=1.0)))
    with pytest.raises(PlanError, match=r"^pipeline\.params: .*- at `\$\.mask`|unknown field `pth` - at `\$\.mask`"):
        check(pipeline=PipelineChoice("smx", raw(mask={"path": "/m.npy", "pth": "/m"})))


def test_a_pipeline_that_is_not_installed_is_refused_with_those_that_are():
    with pytest.raises(PlanError, match=r"^pipeline\.name: got 'smxx', expected one of .*\bsmx\b"):
        check(pipeline=PipelineChoice("smxx"))


def test_a_detector_that_is_not_installed_is_refused_with_those_that_are():
    config = msgspec.structs.replace(CONFIG, detector=DetectorConfig("jungfrow"))
    with pytest.raises(ConfigError, match=r"no lima2\.detectors plugin 'jungfrow': installed are .*simulator"):
        check(config=config)


@pytest.mark.parametrize(
    ("n_frames", "expo_time", "latency_time", "room", "error", "message"),
    [
        (0, 0.01, 0.01, -1, PlanError, r"trigger\.n_frames: got 0, expected at least 1"),
        (-3, 0.01, 0.01, 5, PlanError, r"trigger\.n_frames: got -3, expected at least 1"),
        (6, 0.01, 0.01, 5, StateError, r"trigger\.n_frames: got 6, expected at most 5"),
        (1, 1e6, 0.01, -1, PlanError, r"trigger\.expo_time: got 1e\+06 s, Jungfrau 4M takes 1e-05 to 10 s"),
        (1, math.nan, 0.01, -1, PlanError, r"trigger\.expo_time: got nan s"),
        (1, 0.01, math.nan, -1, PlanError, r"trigger\.latency_time: got nan s"),
        (1, 0.01, 1e9, -1, PlanError, r"trigger\.latency_time: got 1e\+09 s"),
    ],
)
def test_a_wrong_trigger_is_refused(n_frames, expo_time, latency_time, room, error, message):
    with pytest.raises(error, match=message):
        check_trigger(n_frames, expo_time, latency_time, room, CAPABILITIES)


def test_a_right_trigger_is_accepted():
    check_trigger(5, 0.01, 0.01, 5, CAPABILITIES)
    check_trigger(5, 0.01, 0.01, -1, CAPABILITIES)
    check_trigger(5, 1e6, 0.01, -1, None)  # the detector is away, and refuses it itself


def test_frames_a_file_are_for_files_that_are_closed_one_after_the_other():
    saving = SavingParams("/data", nb_frames_per_file=10)
    with pytest.raises(PlanError, match=r"saving.nb_frames_per_file: got 10, expected 0: saving.mode .* is swmr"):
        check(saving=saving)
    closed = msgspec.structs.replace(CONFIG, saving=SavingConfig(("/data",), mode=SavingMode.CLOSE_PER_FILE))
    check(saving=saving, config=closed)
