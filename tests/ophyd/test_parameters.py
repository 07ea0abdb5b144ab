"""Soft signals made from structs, and structs made from signals."""

import math
from enum import StrEnum
from typing import Annotated, Literal

import msgspec
import numpy as np
import pytest
from msgspec import Meta, Struct

from lima2_ophyd._parameters import Parameters
from lima2_ophyd._plan_signals import Place, PlanSignals, decode_plan, encode_plan, require_same
from lima2_processing.calibration import CalibrationFile
from lima2_receivers.errors import PlanError
from lima2_receivers.plan import TriggerMode


class Veto(StrEnum):
    OFF = "off"
    SKIP_DENSE = "skip_dense"


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    noise: Annotated[float, Meta(gt=0)] = 1.0
    connected: Annotated[int, Meta(ge=1, le=9)] = 3
    centre: tuple[float, float] | None = None
    window: tuple[int, int] = (0, 2)
    mode: Literal["off", "mark"] = "off"
    veto: Veto = Veto.OFF
    poni: CalibrationFile | None = None
    maps: tuple[CalibrationFile, ...] = ()
    wavelength: float | None = None
    stop: bool = True
    label: str = "a"
    dark: CalibrationFile = CalibrationFile("/dark.npy", dtype="<i2")


PLACE = Place("/data", "run")


async def test_defaults_come_back():
    assert await Parameters(Params).gather(Params, "pipeline.params") == Params()


async def test_signals_have_types_names_and_groups():
    group = Parameters(Params, name="det-pipeline")
    names = {signal.name: signal.datatype for signal in group.signals()}
    assert names["det-pipeline-noise"] is float
    assert names["det-pipeline-connected"] is int
    assert names["det-pipeline-stop_"] is bool
    assert names["det-pipeline-poni-path"] is str
    assert [choice.value for choice in names["det-pipeline-veto"]] == ["off", "skip_dense"]


async def test_values_that_were_set_come_back():
    group = Parameters(Params)
    await group.noise.set(2.0)
    await group.centre.set([1.5, 2.5])
    await group.window.set(np.array([3, 4]))
    await group.mode.set("mark")
    await group.veto.set("skip_dense")
    await group.poni.path.set("/a.poni")
    await group.maps.set('[{"path": "/m.h5", "dataset": "x"}]')
    await group.wavelength.set(1e-10)
    await group.stop_.set(False)
    assert await group.gather(Params, "pipeline.params") == Params(
        noise=2.0,
        centre=(1.5, 2.5),
        window=(3, 4),
        mode="mark",
        veto=Veto.SKIP_DENSE,
        poni=CalibrationFile("/a.poni"),
        maps=(CalibrationFile("/m.h5", dataset="x"),),
        wavelength=1e-10,
        stop=False,
    )


async def test_an_optional_number_that_is_none_reads_nan():
    assert math.isnan(await Parameters(Params).wavelength.get_value())


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("noise", -1.0, r"pipeline\.params: Expected `float` > 0\.0 - at `\$\.noise`"),
        ("connected", 10, r"`int` <= 9 - at `\$\.connected`"),
        ("maps", "[{", "maps: expected JSON"),
        ("maps", '[{"pth": "/m.h5"}]', r"at `\$\.maps\[0\]`|unknown field"),
        ("centre", [1.0], r"at `\$\.centre`"),
    ],
)
async def test_what_does_not_fit_is_refused_with_its_path(field, value, words):
    group = Parameters(Params, name="det-pipeline")
    await getattr(group, field).set(value)
    with pytest.raises(PlanError, match=words):
        await group.gather(Params, "pipeline.params")


async def test_a_choice_takes_only_its_values():
    with pytest.raises(ValueError, match="nonsense"):
        await Parameters(Params).mode.set("nonsense")


async def test_a_plan_survives_the_command_and_names_what_differs():
    signals = PlanSignals("smx", Params, CalibrationFile, ("raw", "dense"))
    await signals.detector.path.set("/x")
    before = await signals.gather(PLACE, TriggerMode.SOFTWARE)
    assert decode_plan(encode_plan(before)) == before
    assert before.saving.streams == {}
    require_same(before, before)

    await signals.saving.raw.enabled.set(False)
    await signals.pipeline.noise.set(3.0)
    await signals.detector.path.set("/y")
    after = await signals.gather(PLACE, TriggerMode.SOFTWARE)
    with pytest.raises(PlanError) as failure:
        require_same(before, after)
    for words in ("detector.path: prepared with '/x', now '/y'", "pipeline.smx.noise", "saving.streams.raw.enabled"):
        assert words in str(failure.value)


async def test_a_field_without_a_default_starts_empty():
    class Needs(Struct, frozen=True):
        path: str
        gain: float

    assert await Parameters(Needs).gather(Needs, "x") == Needs("", 0.0)


def test_only_structs_have_parameters():
    with pytest.raises(TypeError, match="Struct"):
        Parameters(msgspec.Raw)
