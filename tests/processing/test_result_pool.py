"""Result arrays are used again, and never while somebody holds them."""

import threading

import numpy as np

from lima2_processing.result_pool import ResultPool, ResultPools


def address(array):
    return array.ctypes.data


def test_an_array_comes_back_when_nobody_holds_it():
    pool = ResultPool((3, 4), "<f4", 1)
    array = pool.take()
    assert array.shape == (3, 4)
    assert array.dtype == np.float32
    array[:] = 7
    place = address(array)
    part = array[1]
    del array
    assert address(pool.take()) != place  # the view still has it
    assert (part == 7).all()
    del part
    others = [pool.take() for _ in range(2)]
    assert place in map(address, others)


def test_arrays_that_are_held_together_do_not_overlap():
    pool = ResultPool((100,), "<u2", 2)
    arrays = [pool.take() for _ in range(6)]
    for number, array in enumerate(arrays):
        array[:] = number
    assert [set(array.tolist()) for array in arrays] == [{number} for number in range(6)]


def test_many_threads(monkeypatch):
    pool = ResultPool((1000,), "<i4", 2)
    failures = []

    def work(number):
        for _ in range(300):
            array = pool.take()
            array[:] = number
            if not (array == number).all():
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_pools_are_kept_for_the_next_and_let_go_when_others_are_wanted():
    pools = ResultPools()
    pool = pools.get(100, 2)
    assert pools.get(100, 2) is pool
    held = pool.take()
    held[:] = 5
    assert pools.get(50, 2) is not pool
    pools.keep_only([(50, 2)])
    assert pools.get(100, 2) is not pool
    assert (held == 5).all()
