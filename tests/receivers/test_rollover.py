"""Which file of a receiver holds a row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.rollover import SavingMode, first_name, nth_name, rows_per_file, split_rows


@given(st.lists(st.integers(0, 10**9), max_size=50), st.integers(1, 10**6))
def test_each_row_is_in_one_file_and_found_again(rows, per_file):
    files, within = split_rows(np.array(rows, np.int64), per_file)
    assert (files * per_file + within).tolist() == rows
    assert all(0 <= row < per_file for row in within)


@given(st.integers(1, 500), st.integers(1, 50))
def test_files_are_filled_one_after_the_other(n_rows, per_file):
    files, within = split_rows(np.arange(n_rows), per_file)
    assert np.bincount(files).tolist() == [per_file] * (n_rows // per_file) + [n_rows % per_file] * bool(
        n_rows % per_file
    )
    assert (within[np.diff(files, prepend=-1) > 0] == 0).all()


@given(st.lists(st.integers(0, 10**9), max_size=50))
def test_where_one_file_holds_all_rows_stay_as_they_are(rows):
    files, within = split_rows(np.array(rows, np.int64), 0)
    assert not files.any()
    assert within.tolist() == rows


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_names_are_as_different_as_numbers(one, other):
    first = first_name("run_raw_0.h5")
    assert (nth_name(first, one) == nth_name(first, other)) == (one == other)


@pytest.mark.parametrize(
    ("number", "name"), [(0, "run_raw_1_0000.h5"), (7, "run_raw_1_0007.h5"), (12345, "run_raw_1_12345.h5")]
)
def test_names_have_four_digits_at_least(number, name):
    assert nth_name(first_name("run_raw_1.h5"), number) == name
    assert nth_name(f"/data_0000.h5/{first_name('run_raw_1.h5')}", number) == f"/data_0000.h5/{name}"


def test_a_plan_may_leave_the_number_open():
    assert rows_per_file(SavingMode.SWMR, 7) == rows_per_file(SavingMode.SWMR, 0) == 0
    assert (rows_per_file(SavingMode.CLOSE_PER_FILE, 7), rows_per_file(SavingMode.CLOSE_PER_FILE, 0)) == (7, 100)
