"""One plan, unchanged, over every way that frames spread over receivers: the results are those of one receiver.

Outputs of a frame are the same bit for bit where receivers get whole frames, sums of whole numbers exact, others to
1e-6.
Where receivers get parts of frames, what is made of each pixel alone is the same bit for bit.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import h5py
import msgspec
import numpy as np
import pytest

from lima2_processing.frame import OutputKind
from lima2_receivers.plan import PipelineChoice
from lima2_receivers.saving.read import read_accumulated, read_rows, read_sparse_frame, read_statuses

pytestmark = pytest.mark.slow

MEASUREMENT = "/entry_0000/measurement"
N_FRAMES, WINDOW = 24, 8
TILES, COUNTS = "tiles", "counts"  # raw frames of modules; images of counts
WHOLE = ("round_robin", "dynamic", "ingest")
RING = f"ring = {{ slots = 32, slot_bytes = {64 * 128 * 2} }}"  # of an ingest
PIPELINES = {  # detector, parameters beside the calibration; None: no pipeline
    "raw": (TILES, None),
    "smx": (TILES, {"min_nb_peaks": 3}),
    "smx-sparse": (TILES, {"veto": "sparse_only", "error_model": "poisson", "distance": 0.1, "solid_angle": True}),
    "smx-int16": (TILES, {"dense_type": "int16", "dense_factor": 10.0}),
    "smx-veto": (TILES, {"min_nb_peaks": 5, "veto": "skip_dense"}),
    "smx-sums": (TILES, {"min_nb_peaks": 3, "acc_nb_frames_xfer": WINDOW}),
    "counts-sums": (COUNTS, {"acc_nb_frames_xfer": WINDOW, "n_bins": 50}),
}
NEED_WHOLE = {"smx-veto", "smx-sums", "counts-sums"}
CASES = [
    pytest.param((dispatch, n, PIPELINES[pipeline][0]), pipeline, id=f"{dispatch}-{n}-{pipeline}")
    for dispatch in (*WHOLE, "partial_frame")
    for n in (1, 2, 4)
    for pipeline in PIPELINES
    if not (dispatch == "partial_frame" and (n == 1 or pipeline in NEED_WHOLE))
]


class Bench:
    """A site whose processes run, for all pipelines of a topology."""

    def __init__(self, site, dispatch, detector) -> None:
        self.site, self.dispatch, self.detector = site, dispatch, detector
        text = site.config.read_text()
        if detector == TILES:
            text = text.replace('size = "tiny"', 'size = "tiles"')
        else:
            text = text.replace('size = "tiny"', 'scene = "gauss"\ndtype = "uint16"\nshape = [96, 128]')
        site.config.write_text(text.replace(f"slot_bytes = {64 * 128 * 2}", f"slot_bytes = {4 * 64 * 128 * 2}"))

    def plan(self, name):
        """The plan, which does not know how frames spread."""
        params = PIPELINES[name][1]
        plan = self.site.plan(name, N_FRAMES)
        if params is None:
            return plan
        files = (
            {}
            if self.detector == COUNTS
            else {key: [{"path": str(self.site.detector / f"{key}.npy")}] for key in ("pedestal", "gain")}
        )
        choice = PipelineChoice("smx", msgspec.Raw(msgspec.msgpack.encode({**files, **params})))
        return msgspec.structs.replace(plan, pipeline=choice)

    async def take(self, helpers, name):
        """Take the frames, and return the path of the master file."""
        client = self.site.client()
        await self.site.connect(client)
        try:
            acquisition = helpers.new_id()
            prepared = await client.prepare(acquisition, self.plan(name))
            await client.start(acquisition)
            final = await helpers.until(client, acquisition, lambda state: state.state == "closed", 60)
        finally:
            await client.close()
        assert (final.outcome, final.counts.settled) == ("complete", N_FRAMES), final.reason
        return Path(prepared.master_file), prepared


@pytest.fixture(scope="module")
def bench(request, sites):
    """The site of a case, whose processes run; each is started once."""
    return sites(*request.param)


@pytest.fixture(scope="module")
def sites(request, site_type):
    """Makes sites, ends the former one, but that of one receiver, which all are compared with."""
    made = {}
    with tempfile.TemporaryDirectory(prefix="l2") as folder:

        def make(dispatch, n_receivers, detector):
            key = dispatch, n_receivers, detector
            if key not in made:
                root = Path(folder) / str(len(made))
                (root / "s").mkdir(0o700, parents=True)
                spread = {"ingest": RING} if dispatch == "ingest" else {"dispatch": dispatch}
                made[key] = Bench(site_type(root, root / "s", n_receivers, **spread), dispatch, detector)
                made[key].site.start()
            return made[key]

        yield make
        for each in made.values():
            each.site.close()


@pytest.fixture(scope="module")
def references():
    """What one receiver makes, by pipeline."""
    return {}


@pytest.mark.parametrize(("bench", "pipeline"), CASES, indirect=["bench"])
async def test_the_same_plan_gives_the_same(bench, sites, references, helpers, pipeline):
    if pipeline not in references:
        one = sites("round_robin", 1, bench.detector)
        references[pipeline] = await one.take(helpers, pipeline)
    if (bench.dispatch, bench.site.n_receivers) == ("round_robin", 1):
        return
    reference, expected = references[pipeline]
    master, prepared = await bench.take(helpers, pipeline)
    whole = bench.dispatch in WHOLE
    await asyncio.to_thread(compare, master, reference, prepared if whole else None, expected)
    if bench.detector == COUNTS or pipeline == "smx-sums":
        compare_sums(master, reference, exact=bench.detector == COUNTS)


def compare(master, reference, whole, expected):
    """Compare everything that a frame gave: in parts, only what is made of pixels alone."""
    names = {dataset.name: dataset for dataset in expected.datasets}
    if whole is not None:
        assert names.keys() == {dataset.name for dataset in whole.datasets}
    for name, dataset in names.items():
        if name in ("receiver", "row", "timestamp") or dataset.kind is OutputKind.SPARSE:
            continue
        if whole is None and dataset.kind is not OutputKind.IMAGE and name not in ("frame_status", "frame_number"):
            continue
        found, right = (read_rows(path, dataset.path) for path in (master, reference))
        np.testing.assert_array_equal(found, right, err_msg=name)
    if "sparse" in names:
        n_both = n_right = 0
        for frame in range(N_FRAMES):
            found, right = (read_sparse_frame(path, frame) for path in (master, reference))
            if whole is not None:
                np.testing.assert_array_equal(found.index, right.index)
                np.testing.assert_array_equal(found.intensity, right.intensity)
            else:  # of the pixels that both picked, each above its own background
                _, here, there = np.intersect1d(found.index, right.index, return_indices=True)
                n_both, n_right = n_both + len(here), n_right + len(right.index)
                np.testing.assert_array_equal(found.intensity[here], right.intensity[there])
        assert whole is not None or n_both > 0.3 * n_right > 0
    ledgers = [read_statuses(path.with_name(path.name.replace("master", "ledger"))) for path in (master, reference)]
    np.testing.assert_array_equal(*ledgers)


def compare_sums(master, reference, exact):
    with h5py.File(reference) as file:
        n_windows = len(file[f"{MEASUREMENT}/acc_n_corrected"])
    assert n_windows == N_FRAMES // WINDOW
    for name in ("corrected", "hit", "non_hit"):
        for window in range(n_windows):
            (found, n_found), (right, n_right) = (read_accumulated(path, name, window) for path in (master, reference))
            assert n_found == n_right
            if exact:
                assert found.dtype.kind == "u"
                np.testing.assert_array_equal(found, right)
            elif n_right:
                np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-3)
