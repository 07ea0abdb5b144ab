"""What a simulated Smartpix writes into its receivers' rings."""

import threading
import uuid

import msgspec
import numpy as np
import pytest

from lima2_receivers.detectors.faults import NO_FAULTS, Faults
from lima2_receivers.detectors.outlet import Shot
from lima2_receivers.detectors.protocol import Arm
from lima2_receivers.detectors.simulator.supply import Look
from lima2_receivers.detectors.smartpix.descriptors import Descriptor
from lima2_receivers.detectors.smartpix.outlet import SmartpixOutlet
from lima2_receivers.detectors.smartpix.params import SmartpixParams, SmartpixSettings, descriptors
from lima2_receivers.detectors.smartpix.supply import SmartpixSupply
from lima2_receivers.errors import ConfigError, DetectorError
from lima2_receivers.transport.shared_ring import SharedTarget, ring_path

SETTINGS = SmartpixSettings("ipc:///c", "/f", modules=2, chips=(1, 2))
SLOT_BYTES = 2 * 256 * 256 * 2
SERIES = 9


@pytest.fixture(scope="module")
def supply():
    return SmartpixSupply(SETTINGS, Look(n_distinct=3, spots=5, hit_fraction=1.0))


@pytest.fixture(scope="module")
def whole(supply):
    return supply.make(threading.Event())


@pytest.fixture
def rig(supply, whole):
    """Makes rings and an outlet: ``rig(n_receivers, faults)``."""
    made, endpoints = [], []

    def make(n_receivers=1, faults=NO_FAULTS, present=True):
        endpoints.extend(f"rashpa:///test-{uuid.uuid4().hex}" for _ in range(n_receivers))
        targets = [SharedTarget(each, "data", 64, SLOT_BYTES) for each in endpoints] if present else []
        outlet = SmartpixOutlet(supply, whole, tuple(endpoints), faults)
        made.extend([outlet, *targets])
        return outlet, targets

    make.endpoints = endpoints
    make.made = made
    yield make
    for each in made:
        each.close()
    assert not any(ring_path(each, "data").exists() for each in endpoints)


def begin(outlet, params):
    return outlet.begin(Arm(SERIES, 0, parameters=msgspec.Raw(msgspec.msgpack.encode(params))))


def play(outlet, supply, whole, params, n_frames):
    assert begin(outlet, params) == SERIES
    frames = supply.send_as(whole, descriptors(params)[0], params.depth).frames
    shots = [Shot(SERIES, index, frames[index % len(frames)], 2.5 + index) for index in range(n_frames)]
    deliveries = [outlet.send(shot, shot.index % outlet.n_receivers, bool) for shot in shots]
    outlet.end(SERIES, n_frames, bool)
    return deliveries


def read_all(target):
    found = []
    while (completion := target.poll()) is not None:
        into = np.empty(completion.nbytes, np.uint8)
        assert target.read(completion, into)
        found.append((completion, into))
    return found


def test_all_streams_are_sent_at_once(rig, supply, whole):
    """Against a model: every frame of the detector, every stream that has it."""
    streams = (Descriptor("b", 1, (5, 250, 20, 12), 1, (1,)), Descriptor("c", 0, None, 4, (), 2))
    params = SmartpixParams(12, 0, (), 3, streams)
    outlet, targets = rig(2)
    deliveries = play(outlet, supply, whole, params, 8)
    assert all(delivery.taken and not delivery.missing for delivery in deliveries)
    found = {}
    for rank, target in enumerate(targets):
        for completion, data in read_all(target):
            assert completion.series == SERIES
            found[completion.channel, completion.frame] = rank, data
    expected = {}
    for number in range(3 * 7 + 1):
        if number % 3 == 0:
            expected[0, number] = number // 3 % 2, whole.frames[number % 3].astype("<u2")
        image = whole.frames[(number + 1) % 3].astype("<u2").swapaxes(0, 1).reshape(256, 512)
        expected[1, number] = 1, image[5:25, 250:262]
        if number % 4 == 0:
            expected[2, number] = number // 4 // 2 % 2, whole.frames[number % 3].astype("<u2")
    assert found.keys() == expected.keys()
    for key, (rank, pixels) in expected.items():
        assert found[key][0] == rank
        assert found[key][1].tobytes() == pixels.tobytes()


def test_lost_completions_are_in_the_journal(rig, supply, whole):
    outlet, (target,) = rig(faults=Faults(loss=0.4))
    missing = [delivery.missing for delivery in play(outlet, supply, whole, SmartpixParams(), 40)]
    assert 0 < sum(missing) < 40
    found = [completion.frame for completion, _ in read_all(target)]
    assert found == [index for index, lost in enumerate(missing) if not lost]


def test_completions_come_twice_and_late_but_all_of_them_do(rig, supply, whole):
    outlet, (target,) = rig(faults=Faults(reordering=0.3, duplication=0.3, reach=4))
    play(outlet, supply, whole, SmartpixParams(), 40)
    found = [completion.frame for completion, _ in read_all(target)]
    assert sorted(set(found)) == list(range(40))
    assert len(found) > 40
    firsts = list(dict.fromkeys(found))
    assert firsts != sorted(firsts)
    assert all(abs(at - frame) <= 8 for at, frame in enumerate(firsts))


def test_frames_for_a_receiver_that_is_away_are_dropped_until_it_comes(rig, supply, whole):
    outlet, _ = rig(present=False)
    assert [delivery.taken for delivery in play(outlet, supply, whole, SmartpixParams(), 3)] == [False] * 3
    target = SharedTarget(rig.endpoints[0], "data", 4, SLOT_BYTES)
    rig.made.append(target)
    assert all(delivery.taken for delivery in play(outlet, supply, whole, SmartpixParams(), 2))
    assert len(read_all(target)) == 2
    target.close()
    again = SharedTarget(rig.endpoints[0], "data", 4, SLOT_BYTES)
    rig.made.append(again)
    assert all(delivery.taken for delivery in play(outlet, supply, whole, SmartpixParams(), 2))
    assert len(read_all(again)) == 2


def test_endpoints_of_another_kind_are_refused(supply, whole):
    with pytest.raises(ConfigError, match=r"receivers\[0\]\.data: got 'udp://127.0.0.1:1', expected rashpa:///NAME"):
        SmartpixOutlet(supply, whole, ("udp://127.0.0.1:1",))


def test_frames_are_simulated_and_their_spots_known(supply, whole):
    assert whole.model == "Simulated Smartpix of 2 chips"
    assert all(scene.spots for scene in whole.scenes)
    spot = max(whole.scenes[0].spots, key=lambda each: each.photons)
    row, col = round(spot.row), round(spot.col)
    roi = (row - 3, col - 4, 7, 9)
    part = supply.send_as(whole, Descriptor("a", roi=roi), 24)
    assert any(abs(s.row - 3) <= 0.5 and abs(s.col - 4) <= 0.5 for s in part.scenes[0].spots)
    image = part.frames[0]
    assert image.shape == part.spec.shape == (7, 9)
    peak = np.unravel_index(image.argmax(), image.shape)
    assert np.hypot(peak[0] - 3, peak[1] - 4) <= 1.5
    half = supply.send_as(whole, Descriptor("a", every=2, module=1), 24)
    for frame, at in zip(half.frames, (1, 0, 2), strict=True):
        assert (frame == whole.frames[at]).all()


def test_frames_that_are_not_wanted_are_not_made(supply):
    unwanted = threading.Event()
    unwanted.set()
    with pytest.raises(DetectorError, match="got 0 of 3 frames"):
        supply.make(unwanted)
