import math

import msgspec
import numpy as np
import pytest

from lima2_processing.calibration import CalibrationFile
from lima2_processing.errors import DeviceError, ParameterError, ProcessingError
from lima2_processing.frame import Frame, FrameSpec, PixelKind, fill_value
from lima2_processing.layouts import grid, jungfrau
from lima2_processing.parts import crop, parts_of
from lima2_processing.pipelines.smx import Smx
from lima2_processing.pipelines.smx_params import PLUGIN, ErrorModel, GainUnit, SmxParams, Veto
from lima2_processing.testing import PipelineContract, check_result, check_same

FILE = CalibrationFile("/calibration")
TINY = grid((2, 2), (48, 64), (24, 32), gap_pixels=True, module_gap=(6, 2))
GAINS = (500.0, -18.0, -1.4)


def calibration(spec, seed=0):
    n = math.prod(spec.shape)
    rng = np.random.default_rng(seed)
    pedestal = np.stack([rng.normal(middle, 30, n) for middle in (2500, 14000, 14500)]).astype(np.float32)
    gain = np.stack([middle * rng.normal(1, 0.02, n) for middle in GAINS]).astype(np.float32)
    return {"pedestal.0": pedestal, "gain.0": gain}


def raw_frames(spec, files, n=3, n_spots=12):
    """Frames in raw words of photons (background 1, spots of a few hundred in 3x3 pixels)."""
    frames = []
    for index in range(n):
        rng = np.random.default_rng(index)
        photons = rng.poisson(1.0, spec.shape).astype(np.float64)
        modules, rows, cols = spec.shape
        for _ in range(n_spots):
            m, r, c = rng.integers(modules), rng.integers(4, rows - 4), rng.integers(4, cols - 4)
            photons[m, r - 1 : r + 2, c - 1 : c + 2] += rng.poisson([[20, 40, 20], [40, 90, 40], [20, 40, 20]])
        flat = photons.ravel()
        stage = np.digitize(flat, [20, 400])
        at = np.arange(flat.size)
        adc = np.clip(files["pedestal.0"][stage, at] + flat * files["gain.0"][stage, at], 0, 16383).astype(np.uint16)
        words = np.array([0, 1, 3], np.uint16)[stage] << 14 | adc
        frames.append(Frame(index, words.reshape(spec.shape), spec.all_modules, 0.0))
    return tuple(frames)


RAW_PARAMS = SmxParams(pedestal=(FILE,), gain=(FILE,), n_bins=30, connected=3, min_nb_peaks=5, max_peaks=40)


class TestRawFrames(PipelineContract):
    plugin = PLUGIN

    def spec(self):
        return TINY

    def files(self):
        return calibration(TINY)

    def frames(self):
        return raw_frames(TINY, self.files())

    def parameters(self):
        return RAW_PARAMS


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<f4"])
class TestPlainImages(PipelineContract):
    plugin = PLUGIN

    @pytest.fixture(autouse=True)
    def _dtype(self, dtype):
        self.dtype = dtype

    def spec(self):
        return FrameSpec((70, 50), self.dtype)

    def frames(self):
        rng = np.random.default_rng(0)
        return tuple(Frame(at, rng.poisson(3, (70, 50)).astype(self.dtype), 1, 0.0) for at in range(5, 9))

    def parameters(self):
        return SmxParams(n_bins=20, beam_center=(-10.5, 200), error_model=ErrorModel.POISSON, max_peaks=3)


def values_of(spec):
    """Return the spec of a detector that sends values, not ADC words."""
    return msgspec.structs.replace(spec, pixels=PixelKind.VALUE)


@pytest.fixture
def make(device):
    """Makes pipelines and closes them."""
    made = []

    def run(params=RAW_PARAMS, spec=TINY, files=None, **changes):
        files = calibration(spec) if files is None and params.pedestal else files or {}
        made.append(Smx(msgspec.structs.replace(params, **changes), spec, device, files))
        return made[-1]

    yield run
    for pipeline in made:
        pipeline.close()


def test_whole_chain_as_the_reference(make, reference):
    files = calibration(TINY)
    files["pedestal.0"][1, 700] = 0
    pipeline = make(files=files)
    frame = raw_frames(TINY, files)[0]
    values = pipeline.process((frame,)).frames[0].values
    modules = reference.correct(frame.data.ravel(), files["pedestal.0"], files["gain.0"]).reshape(TINY.shape)
    dense = reference.assemble(modules, TINY.layout)
    np.testing.assert_allclose(values["dense"], dense, rtol=1e-5, atol=1e-4)
    constants = {constant.name: constant.data for constant in pipeline.constants()}
    assert (np.isnan(constants["mask"]) == np.isnan(dense)).all()
    assert np.isnan(dense).sum() > 6 * TINY.layout.image_shape[1]
    assert constants["radius"].shape == values["background_avg"].shape == (30,)
    assert 8 <= values["n_peaks"] <= 12
    assert values["is_hit"] == 1
    assert values["peaks_overflow"] == 0
    found = values["peaks"][: values["n_peaks"]]
    assert np.isfinite(found).all()
    assert np.isnan(values["peaks"][values["n_peaks"] :]).all()
    pixels = np.rint(found[:, 0]) * dense.shape[1] + np.rint(found[:, 1])
    assert np.isin(pixels, values["sparse"].index).all()


def test_too_many_peaks_are_told_and_the_strongest_kept(make):
    frame = raw_frames(TINY, calibration(TINY))[:1]
    everything = make().process(frame).frames[0].values
    few = make(max_peaks=4).process(frame).frames[0].values
    assert few["n_peaks"] == everything["n_peaks"] > 4
    assert (everything["peaks_overflow"], few["peaks_overflow"]) == (0, 1)
    table = everything["peaks"][: everything["n_peaks"]]
    strongest = table[np.sort(np.argsort(table[:, 2])[-4:])]
    np.testing.assert_array_equal(few["peaks"], strongest)


def test_a_frame_with_few_peaks_is_no_hit(make):
    frame = raw_frames(TINY, calibration(TINY), 1)
    n_peaks = int(make().process(frame).frames[0].values["n_peaks"])
    for least, hit in ((n_peaks, 1), (n_peaks + 1, 0)):
        assert make(min_nb_peaks=least).process(frame).frames[0].values["is_hit"] == hit


def test_peaks_beyond_the_largest_radius_do_not_count(make):
    frame = raw_frames(TINY, calibration(TINY), 1)
    table = make().process(frame).frames[0].values["peaks"]
    middle = (np.array(TINY.layout.image_shape) - 1) / 2
    near = np.hypot(*(np.rint(table[:, :2]) - middle).T) * 0.075 <= 2.0
    inside = make(radius_max=2.0).process(frame).frames[0].values
    assert 0 < near.sum() < np.isfinite(table[:, 0]).sum()
    np.testing.assert_array_equal(inside["peaks"][: inside["n_peaks"]], table[near])


def test_missing_modules_are_masked(make):
    pipeline = make()
    frame = raw_frames(TINY, calibration(TINY), 1)[0]
    values = pipeline.process((Frame(frame.index, frame.data, 0b1101, 0.0),)).frames[0].values
    whole = pipeline.process((frame,)).frames[0].values
    rows, cols = 50, 66
    module = np.s_[:rows, cols + 2 :]
    assert np.isnan(values["dense"][module]).all()
    others = np.ones(TINY.layout.image_shape, bool)
    others[module] = False
    np.testing.assert_array_equal(values["dense"][others], whole["dense"][others])


def test_gains_in_adu_per_kev(make):
    files = calibration(TINY)
    in_kev = {**files, "gain.0": files["gain.0"] / 12.4}
    frame = raw_frames(TINY, files, 1)
    photons = make(files=files).process(frame).frames[0].values["dense"]
    same = make(files=in_kev, gain_unit=GainUnit.ADU_PER_KEV, photon_energy=12400.0).process(frame)
    np.testing.assert_allclose(same.frames[0].values["dense"], photons, rtol=1e-5)


def test_one_file_or_three(make):
    files = calibration(TINY)
    three = {f"{name}.{at}": files[f"{name}.0"][at] for name in ("pedestal", "gain") for at in range(3)}
    frame = raw_frames(TINY, files, 1)
    one = make(files=files).process(frame).frames[0].values["dense"]
    other = make(files=three, pedestal=(FILE,) * 3, gain=(FILE,) * 3).process(frame).frames[0].values["dense"]
    np.testing.assert_array_equal(one, other)


def test_double_pixels_that_are_not_shared_are_saved_but_give_no_peaks(make):
    spec = values_of(grid((1, 1), (64, 64), (32, 32), gap_pixels=False, module_gap=(0, 0)))
    data = np.random.default_rng(0).poisson(2, spec.shape).astype(np.uint16)
    data[0, 30:34, 9:14] += 300
    data[0, 49:52, 49:52] += 300
    values = make(SmxParams(n_bins=10, connected=3), spec).process((Frame(0, data, 1, 0.0),)).frames[0].values
    np.testing.assert_array_equal(values["dense"], data[0])
    double = np.zeros((64, 64), bool)
    double[31:33] = double[:, 31:33] = True
    assert not double.flat[values["sparse"].index].any()
    rows = np.rint(values["peaks"][: values["n_peaks"], 0])
    assert 50 in rows
    assert not np.isin(rows, [31, 32]).any()


def test_user_mask_of_raw_values(make):
    masked = np.zeros(70 * 50, np.uint8)
    masked[100:200] = 1
    data = np.random.default_rng(0).poisson(3, (70, 50)).astype(np.float32)
    pipeline = make(SmxParams(mask=FILE, n_bins=10), FrameSpec((70, 50), "<f4"), {"mask": masked})
    values = pipeline.process((Frame(0, data, 1, 0.0),)).frames[0].values
    np.testing.assert_array_equal(np.isnan(values["dense"].ravel()), masked == 1)


def test_pixels_that_are_not_used_are_counted(make, device):
    files = calibration(TINY)
    files["pedestal.0"][1, 700] = np.nan
    files["gain.0"][0, 701] = 0
    files["gain.0"][2, 701:704] = np.inf
    mask = np.zeros(TINY.layout.image_shape, np.uint8)
    mask[:2] = 1
    before = device.allocated
    pipeline = make(files={**files, "mask": mask}, mask=CalibrationFile("mask.npy"))
    facts = pipeline.facts()
    dense = pipeline.process(raw_frames(TINY, files)[:1]).frames[0].values["dense"]
    gaps = np.isnan(make().process(raw_frames(TINY, calibration(TINY))[:1]).frames[0].values["dense"]).sum()
    assert facts.pixels == {
        "gaps": gaps,
        "without pedestal or gain": 4,
        "masked": mask.sum(),
        "unused": np.isnan(dense).sum(),
    }
    assert facts.device == device.name
    assert facts.device_bytes > 4 * TINY.nbytes
    assert device.allocated >= before + facts.device_bytes
    pipeline.close()
    assert device.allocated < before + facts.device_bytes


def test_memory_on_the_device_has_a_bound(make, device):
    pipeline = make(SmxParams(n_bins=10), FrameSpec((70, 50), "<f4"))
    rng = np.random.default_rng(0)
    bound = pipeline.facts().device_bytes + 70 * 50 * (2 * 4 + 2 * 5 * 4)  # every pixel picked, and a peak
    before = device.allocated
    for at in range(50):
        data = rng.normal(0, 1, (70, 50)) + (rng.random((70, 50)) < at / 100) * 1000
        pipeline.process((Frame(at, data.astype(np.float32), 1, 0.0),))
        assert device.allocated - before <= bound


def test_adc_values_are_never_taken_for_photons(make):
    """Frames of ADC values need a correction; what is a value already can have none."""
    with pytest.raises(ParameterError, match=r"pedestal: got 'none', expected pedestals and gains"):
        make(SmxParams(n_bins=10), TINY)
    with pytest.raises(ParameterError, match=r"pedestal: .*expected none: the detector sends values"):
        make(spec=values_of(TINY))


def test_only_what_was_corrected_is_in_photons(make):
    def units(pipeline):
        return {output.name: output.unit for output in pipeline.outputs()}

    assert units(make())["dense"] == units(make())["sparse"] == "photons"
    assert units(make(SmxParams(n_bins=10), values_of(TINY)))["dense"] == ""


@pytest.mark.parametrize("fill", [0, np.nan, 65535])
def test_empty_frames(make, fill):
    kind = "<f4" if np.isnan(fill) else "<u2"
    data = np.full((70, 50), fill, kind)
    values = make(SmxParams(n_bins=10), FrameSpec((70, 50), kind)).process((Frame(0, data, 1, 0.0),)).frames[0].values
    assert values["n_peaks"] == 0
    assert not len(values["sparse"].index)
    assert (np.isnan(values["background_avg"]) | (values["background_avg"] == 0)).all()


def test_closed_pipelines_refuse_frames(make):
    pipeline = make()
    pipeline.close()
    with pytest.raises(ProcessingError, match="closed"):
        pipeline.process(raw_frames(TINY, calibration(TINY)))


def test_a_batch_larger_than_its_room(make):
    frames = raw_frames(TINY, calibration(TINY), 3) * 3
    assert [result.index for result in make().process(frames).frames] == [0, 1, 2] * 3


def test_a_whole_4m(make):
    spec = jungfrau(8)
    files = calibration(spec)
    values = make(spec=spec, files=files, n_bins=500).process(raw_frames(spec, files, 1, 60)).frames[0].values
    assert values["dense"].shape == (2164, 2068)
    assert 45 <= values["n_peaks"] <= 60


WRONG = [
    ({"gain": ()}, {}, r"params\.gain.*neither"),
    ({"pedestal": (FILE,) * 2}, {}, r"params\.pedestal: got '2 files', expected 1 or 3"),
    ({"cutoff_peak": 1.0}, {}, r"params\.cutoff_peak: got 1\.0, expected at least cutoff_pick, 4"),
    ({"patch_size": 4}, {}, r"params\.patch_size: got 4, expected an odd"),
    ({"connected": 26}, {}, r"params\.connected: got 26, expected at most the patch's 25"),
    ({"gain_unit": GainUnit.ADU_PER_KEV}, {}, r"params\.photon_energy"),
    ({"unit": "2th_deg"}, {}, r"params\.distance"),
    ({"beam_center": (math.nan, 1.0)}, {}, r"params\.beam_center.*finite"),
    ({"noise": math.inf}, {}, r"params\.noise.*finite"),
    ({}, {"gain.0": np.ones(5)}, r"params\.gain: got '5 values'"),
    ({}, {"pedestal.0": np.zeros((3, 4 * 48 * 64))}, "every pixel masked"),
    ({"mask": FILE}, {"mask": np.ones((3, 4))}, r"params\.mask: got \(3, 4\)"),
    ({"mask": FILE}, {"mask": "no array"}, r"params\.mask.*an array"),
    ({"poni": FILE}, {"poni": np.ones(3)}, r"params\.poni.*a \.poni file"),
    ({"poni": FILE}, {"poni": "nonsense"}, r"params\.poni.*PONI file that pyFAI reads"),
]


@pytest.mark.parametrize(("changes", "files", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_what_does_not_fit_is_refused(make, changes, files, message):
    with pytest.raises(ParameterError, match=message):
        make(files={**calibration(TINY), **files}, **changes)


def test_a_device_that_has_no_memory_for_one_frame_goes_on_with_the_next(make, device, monkeypatch):
    """Buffers that could not grow are not taken for grown."""
    data = np.random.default_rng(0).poisson(2, (512, 512)).astype(np.float32)
    data[::5, ::5] += 1000
    crowded = (Frame(0, data, 1, 0.0),)
    pipeline = make(SmxParams(n_bins=10, cutoff_pick=3.0), FrameSpec(data.shape, "<f4"))

    def refuse(nbytes):
        raise DeviceError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(device, "allocate", refuse)
        for _ in range(2):
            with pytest.raises(DeviceError, match="out of memory"):
                pipeline.process(crowded)
    after = pipeline.process(crowded).frames[0]
    assert len(after.values["sparse"].index) > 8192
    check_same(
        after, make(SmxParams(n_bins=10, cutoff_pick=3.0), FrameSpec(data.shape, "<f4")).process(crowded).frames[0]
    )


def hits_and_others(n_frames=40):
    """Frames of which every fourth has spots."""
    rng = np.random.default_rng(1)
    frames = []
    for at in range(n_frames):
        data = rng.poisson(3, (70, 50)).astype(np.uint16)
        if at % 4 == 0:
            for row, col in ((10, 10), (30, 20), (50, 40)):
                data[row : row + 2, col : col + 2] += 300
        frames.append(Frame(at, data, 1, 0.0))
    return tuple(frames)


VETO_PARAMS = SmxParams(n_bins=10, min_nb_peaks=3)


@pytest.mark.parametrize(
    ("veto", "vetoed", "dense_of_hits", "dense_of_others"),
    [
        (Veto.OFF, False, True, True),
        (Veto.MARK, True, True, True),
        (Veto.SKIP_DENSE, True, True, False),
        (Veto.SPARSE_ONLY, False, False, False),
    ],
)
def test_what_veto_leaves_out(make, veto, vetoed, dense_of_hits, dense_of_others):
    pipeline = make(VETO_PARAMS, FrameSpec((70, 50), "<u2"), veto=veto)
    plain = make(VETO_PARAMS, FrameSpec((70, 50), "<u2")).process(hits_and_others()).frames
    for result, whole in zip(pipeline.process(hits_and_others()).frames, plain, strict=True):
        check_result(result, pipeline.outputs())
        hit = result.index % 4 == 0
        assert result.values["is_hit"] == hit
        assert result.vetoed == (vetoed and not hit)
        assert ("dense" in result.values) == (dense_of_hits if hit else dense_of_others)
        for name, value in result.values.items():
            if name == "sparse":
                np.testing.assert_array_equal(value.index, whole.values[name].index)
            else:
                np.testing.assert_array_equal(value, whole.values[name])


def accumulated(pipeline, frames, step):
    """Process frames a few at a time, and return what was accumulated."""
    done = []
    for start in range(0, len(frames), step):
        done += pipeline.process(frames[start : start + step]).accumulated
    done += pipeline.finish()
    assert pipeline.finish() == ()
    return done


@pytest.mark.parametrize("step", [1, 3, 40])
@pytest.mark.parametrize("dtype", ["<u2", "<f4"])
def test_frames_are_accumulated_by_windows_of_the_acquisition(make, step, dtype):
    frames = tuple(
        Frame(frame.index, frame.data.astype(dtype), 1, 0.0)
        for frame in hits_and_others()
        if frame.index not in (5, 17)
    )
    mask = np.zeros((70, 50), np.uint8)
    mask[3, 4] = 1
    pipeline = make(
        VETO_PARAMS, FrameSpec((70, 50), dtype), {"mask": mask}, mask=CalibrationFile("m.npy"), acc_nb_frames_xfer=16
    )
    done = accumulated(pipeline, frames, step)
    assert [one.window for one in done] == [0, 1, 2]
    declared = {output.name: output for output in pipeline.outputs() if output.window == 16}
    for one in done:
        inside = [frame for frame in frames if frame.index // 16 == one.window]
        chosen = {
            "corrected": inside,
            "hit": [frame for frame in inside if frame.index % 4 == 0],
            "non_hit": [frame for frame in inside if frame.index % 4],
        }
        assert one.values.keys() == declared.keys()
        for name, expected in chosen.items():
            image = one.values[f"acc_{name}"]
            total = sum(frame.data.astype(float) for frame in expected)
            total[3, 4] = fill_value(image.dtype.str)
            np.testing.assert_array_equal(image, total)
            assert image.dtype.str == declared[f"acc_{name}"].dtype
            assert one.values[f"acc_n_{name}"] == len(expected)


def test_frames_that_were_held_up_are_accumulated_all_the_same(make):
    """Up to the window before the newest; those of windows that were returned are in none, and not counted."""
    frames = {frame.index: frame for frame in hits_and_others()}
    early = [index for index in frames if index not in (3, 4, 20, 21)]
    order = [*[index for index in early if index < 20], 3, *[index for index in early if index >= 20], 20, 21, 4]
    pipeline = make(VETO_PARAMS, FrameSpec((70, 50), "<u2"), acc_nb_frames_xfer=16)
    done = accumulated(pipeline, tuple(frames[index] for index in order), 1)
    assert [one.window for one in done] == [0, 1, 2]
    for one in done:
        inside = [frame for frame in frames.values() if frame.index // 16 == one.window and frame.index != 4]
        assert one.values["acc_n_corrected"] == len(inside)
        assert one.values["acc_n_hit"] + one.values["acc_n_non_hit"] == len(inside)
        np.testing.assert_array_equal(one.values["acc_corrected"], sum(frame.data.astype("u4") for frame in inside))


def test_accumulated_frames_are_corrected(make):
    pipeline = make(acc_nb_frames_xfer=100)
    frames = raw_frames(TINY, calibration(TINY))
    results = pipeline.process(frames)
    assert results.accumulated == ()
    (done,) = pipeline.finish()
    np.testing.assert_allclose(
        done.values["acc_corrected"], sum(result.values["dense"] for result in results.frames), rtol=1e-6, atol=1e-4
    )


def test_a_share_of_the_frames_that_are_no_hits_is_kept(make):
    """The same ones whatever batch or receiver they are in, spread evenly."""
    sampling = {"veto": Veto.SKIP_DENSE, "sample_rate": 0.3}
    pipeline = make(VETO_PARAMS, FrameSpec((70, 50), "<u2"), **sampling)
    blank = np.zeros((70, 50), np.uint16)
    together = [one.vetoed for one in pipeline.process(tuple(Frame(at, blank, 1, 0.0) for at in range(500))).frames]
    alone = [pipeline.process((Frame(at, blank, 1, 0.0),)).frames[0].vetoed for at in range(0, 500, 7)]
    assert together[::7] == alone
    kept = np.logical_not(together)
    assert abs(kept.mean() - 0.3) < 0.02
    assert all(kept[start : start + 50].any() for start in range(0, 500, 50))


@pytest.mark.parametrize("dense_type", ["int32", "int16", "uint16", "float16", "float32"])
@pytest.mark.parametrize(("factor", "offset"), [(1.0, 0.0), (10.0, -20.5), (-1e6, 0.0), (1e12, 1.0)])
@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<f4"])
def test_dense_frames_of_every_type_saturate_and_never_wrap(make, dense_type, factor, offset, dtype):
    data = np.random.default_rng(0).poisson(200, (70, 50)).astype(dtype)
    data[0, :4] = [0, 1, 60000, 65534]
    masked = np.zeros((70, 50), np.uint8)
    masked[5] = 1
    if dtype == "<f4":
        data[1, :2] = [np.nan, np.inf]
    else:
        data[1, 0] = np.iinfo(dtype).max
    params = SmxParams(
        mask=FILE, n_bins=10, dense_type=dense_type, dense_factor=factor, dense_offset=offset, cutoff_peak=1e9
    )
    found = make(params, FrameSpec((70, 50), dtype), {"mask": masked}).process((Frame(0, data, 1, 0.0),))
    dense = found.frames[0].values["dense"]
    assert dense.dtype == np.dtype(dense_type)

    values = data.astype(np.float32)
    values[1, 0] = np.nan
    values[masked != 0] = np.nan
    with np.errstate(over="ignore"):
        scaled = values * np.float32(factor) + np.float32(offset)
    none = np.isnan(values)
    if np.dtype(dense_type).kind == "f":
        largest = np.finfo(dense_type).max
        fitting = np.where(np.isinf(values), scaled, np.clip(scaled, -largest, largest)).astype(dense_type)
        assert np.isnan(dense[none]).all()
        np.testing.assert_array_equal(dense[~none], fitting[~none])
        return
    limits = np.iinfo(dense_type)
    signed = limits.min < 0
    low, high = limits.min + signed, limits.max - (not signed)
    assert (dense[none] == (limits.min if signed else limits.max)).all()
    expected = np.clip(np.rint(scaled[~none].astype(np.float64)), low, high).astype(dense_type)
    np.testing.assert_array_equal(dense[~none], expected)


def test_only_plain_dense_frames_keep_the_unit(make):
    def unit(**changes):
        return next(output.unit for output in make(**changes).outputs() if output.name == "dense")

    assert unit() == "photons"
    assert unit(dense_factor=2.0) == ""


def test_dummy_and_saturated_values_are_not_used(make):
    data = np.random.default_rng(0).poisson(5, (70, 50)).astype(np.int32)
    data[20:24] = -1
    data[40, 10:20] = 1000
    pipeline = make(SmxParams(n_bins=10, dummy=-1.0, saturation=1000.0), FrameSpec((70, 50), "<i4"))
    values = pipeline.process((Frame(0, data, 1, 0.0),)).frames[0].values
    assert np.isnan(values["dense"]).sum() == 4 * 50 + 10
    assert np.nanmax(values["dense"]) < 1000
    assert np.nanmin(values["background_avg"]) > 3
    assert not np.isin(values["sparse"].index, np.flatnonzero((data < 0) | (data >= 1000))).any()
    unsigned = make(SmxParams(n_bins=10, saturation=1000.0), FrameSpec((70, 50), "<u2"))
    values = unsigned.process((Frame(0, np.where(data < 0, 1000, data).astype(np.uint16), 1, 0.0),)).frames[0].values
    assert np.isnan(values["dense"]).sum() == 4 * 50 + 10


@pytest.mark.parametrize("dtype", ["<u2", "<f4"])
def test_solid_angle_and_polarization(make, dtype):
    """Frames are divided by what geometry says: cos^3 of the angle of incidence, and 1 - sin^2 in the plane."""
    shape, pixel, distance, center = (70, 50), 75e-6, 0.004, (20.0, 30.0)
    data = np.random.default_rng(0).poisson(1000, shape).astype(dtype)
    params = SmxParams(n_bins=10, beam_center=center, distance=distance, solid_angle=True, polarization=1.0)
    values = make(params, FrameSpec(shape, dtype)).process((Frame(0, data, 1, 0.0),)).frames[0].values
    y, x = ((at - middle) * pixel for at, middle in zip(np.indices(shape), center, strict=True))
    length = np.sqrt(x**2 + y**2 + distance**2)
    solid_angle = (distance / length) ** 3
    polarization = 1 - (x / length) ** 2  # a beam that is polarized horizontally scatters least to the sides
    np.testing.assert_allclose(values["dense"], data / solid_angle / polarization, rtol=1e-5)
    assert values["background_avg"].max() > 1.1 * 1000


def test_normalization_needs_a_distance(make):
    with pytest.raises(ParameterError, match=r"params\.distance: got 0\.0, expected more than 0 m for solid angle"):
        make(SmxParams(n_bins=10, solid_angle=True), FrameSpec((70, 50), "<u2"))


def test_normalization_as_a_poni_file_says(make):
    shape = (70, 50)
    poni = 'poni_version: 2.1\nDetector: Detector\nDetector_config: {"pixel1": 7.5e-05, "pixel2": 7.5e-05}\n'
    poni += "Distance: 0.004\nPoni1: 0.0015375\nPoni2: 0.0022875\nRot1: 0\nRot2: 0\nRot3: 0\nWavelength: 1e-10\n"
    data = np.random.default_rng(0).poisson(1000, shape).astype(np.uint16)
    frame = (Frame(0, data, 1, 0.0),)
    normalized = {"n_bins": 10, "solid_angle": True, "polarization": 0.9}
    by_poni = make(SmxParams(poni=FILE, **normalized), FrameSpec(shape, "<u2"), {"poni": poni}).process(frame)
    by_hand = make(SmxParams(beam_center=(20.0, 30.0), distance=0.004, **normalized), FrameSpec(shape, "<u2"))
    expected = by_hand.process(frame).frames[0].values["dense"]
    np.testing.assert_allclose(by_poni.frames[0].values["dense"], expected, rtol=1e-5)


# --- parts of frames ---


class TestPartsOfFrames(PipelineContract):
    plugin = PLUGIN

    def spec(self):
        return parts_of(TINY, 3)[1]

    def files(self):
        return calibration(TINY)

    def frames(self):
        return tuple(own_frame(frame, self.spec()) for frame in raw_frames(TINY, self.files()))

    def parameters(self):
        return RAW_PARAMS


def own_frame(frame, spec):
    """Return what a receiver gets of a frame."""
    own = frame.data[spec.part.first : spec.part.first + spec.n_modules]
    return Frame(frame.index, own, spec.all_modules, frame.timestamp)


@pytest.mark.parametrize("n_receivers", [2, 3, 4])
def test_parts_together_are_the_whole(make, n_receivers):
    files = calibration(TINY)
    mask = np.zeros(TINY.layout.image_shape, np.uint8)
    mask[10:20, 30:90] = 1
    params = {
        "files": {**files, "mask": mask},
        "mask": FILE,
        "solid_angle": True,
        "distance": 0.1,
        "beam_center": (40.0, 70.0),
    }
    whole = make(**params)
    frame = raw_frames(TINY, files)[0]
    expected = whole.process((frame,)).frames[0].values
    radius = {constant.name: constant.data for constant in whole.constants()}["mask"]
    found = np.full_like(expected["dense"], np.nan)
    found_radius, n_picked = np.full_like(radius, np.nan), 0
    for rank in range(n_receivers):
        part = parts_of(TINY, n_receivers)[rank]
        pipeline = make(spec=part, **params)
        outputs = {output.name: output for output in pipeline.outputs()}
        assert outputs["sparse"].shape == TINY.layout.image_shape
        assert "is_hit" not in outputs
        result = pipeline.process((own_frame(frame, part),)).frames[0]
        check_result(result, pipeline.outputs())
        values = result.values
        place = crop(found, part)
        np.copyto(place, values["dense"], where=np.isfinite(values["dense"]))
        own = {constant.name: constant.data for constant in pipeline.constants()}["mask"]
        np.copyto(found_radius, own, where=np.isfinite(own))
        sparse = values["sparse"]
        n_picked += len(sparse.index)
        np.testing.assert_array_equal(expected["dense"].ravel()[sparse.index], sparse.intensity)
        for row, col in values["peaks"][: values["n_peaks"], :2]:
            assert np.isfinite(expected["dense"][round(float(row)), round(float(col))])
    np.testing.assert_array_equal(found, expected["dense"])
    np.testing.assert_array_equal(found_radius, radius)
    assert n_picked > 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"veto": Veto.MARK}, "pipeline.params.veto: got mark"),
        ({"veto": Veto.SKIP_DENSE}, "pipeline.params.veto: got skip_dense"),
        ({"acc_nb_frames_xfer": 5}, "pipeline.params.acc_nb_frames_xfer: expected 0"),
    ],
)
def test_what_needs_whole_frames_says_so(make, changes, message):
    assert message in PLUGIN.whole_frames(msgspec.structs.replace(RAW_PARAMS, **changes))
    with pytest.raises(ProcessingError, match=message):
        make(spec=parts_of(TINY, 2)[0], files=calibration(TINY), **changes)


def test_parts_will_do_for_the_rest():
    assert PLUGIN.whole_frames(RAW_PARAMS) == ""
    assert PLUGIN.whole_frames(msgspec.structs.replace(RAW_PARAMS, veto=Veto.SPARSE_ONLY)) == ""
