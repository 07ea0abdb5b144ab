"""The frame ring: slots are lent once, do not overlap, and come back."""

import threading

import numpy as np
import pytest

from lima2_receivers.receiver.ring import PAGE, FrameRing


@pytest.mark.parametrize("slot_bytes", [1, 100, PAGE, PAGE + 1, 3 * PAGE])
def test_slots_have_the_size_and_begin_at_pages(slot_bytes):
    ring = FrameRing(4, slot_bytes)
    slots = [ring.take(0) for _ in range(4)]
    assert [slot.memory.nbytes for slot in slots] == [slot_bytes] * 4
    assert all(slot.memory.ctypes.data % PAGE == 0 for slot in slots)
    assert sorted(slot.number for slot in slots) == [0, 1, 2, 3]


def test_slots_do_not_overlap():
    ring = FrameRing(5, PAGE + 7)
    slots = [ring.take(0) for _ in range(5)]
    for slot in slots:
        slot.memory[:] = slot.number + 1
    assert all(np.all(slot.memory == slot.number + 1) for slot in slots)


def test_an_empty_ring_lends_nothing_until_a_slot_comes_back():
    ring = FrameRing(2, 10)
    first, second = ring.take(0), ring.take(0)
    assert ring.free == 0
    assert ring.take(0.001) is None
    ring.give(second)
    assert ring.free == 1
    assert ring.take(0) is second
    ring.give(first)
    ring.give(second)
    assert ring.free == 2


def test_a_slot_that_another_thread_gives_back_is_taken():
    ring = FrameRing(1, 10)
    slot = ring.take(0)
    giver = threading.Thread(target=ring.give, args=(slot,))
    giver.start()
    assert ring.take(20) is slot
    giver.join()
