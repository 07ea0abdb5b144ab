"""Reading single frames of growing virtual datasets, the way a server's threads do."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from tiled.adapters.hdf5 import h5open
from tiled.adapters.utils import DataNotReadyError
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.array import ArrayStructure, BuiltinDtype

from lima2_ophyd.tiled import adapter as module
from lima2_ophyd.tiled.adapter import Lima2ArrayAdapter

N, ROWS, COLUMNS = 23, 6, 8


@pytest.fixture(scope="module")
def data():
    return np.arange(N * ROWS * COLUMNS, dtype="<f4").reshape(N, ROWS, COLUMNS)


@pytest.fixture(scope="module")
def master(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("files")
    layout = h5py.VirtualLayout((2, ROWS, COLUMNS), "<f4", maxshape=(None, ROWS, COLUMNS))
    for rank in range(2):
        part = data[rank::2]
        with h5py.File(folder / f"part_{rank}.h5", "w", libver="latest") as file:
            made = file.create_dataset(
                "data", part.shape, "<f4", maxshape=(None, ROWS, COLUMNS), chunks=(1, ROWS, COLUMNS)
            )
            made[:] = part
        source = h5py.VirtualSource(
            f"part_{rank}.h5", "data", (1, ROWS, COLUMNS), "<f4", maxshape=(None, ROWS, COLUMNS)
        )
        layout[rank : h5py.h5s.UNLIMITED : 2] = source[0 : h5py.h5s.UNLIMITED]
    path = folder / "master.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_virtual_dataset("data", layout, fillvalue=np.nan)
    return path


def make_adapter(path, shape=(N, ROWS, COLUMNS), chunk=4, dtype="<f4", dataset="data"):
    first = tuple([chunk] * (shape[0] // chunk) + ([shape[0] % chunk] if shape[0] % chunk else []))
    structure = ArrayStructure(
        data_type=BuiltinDtype.from_numpy_dtype(np.dtype(dtype)),
        shape=shape,
        chunks=(first, *((length,) for length in shape[1:])),
    )
    return Lima2ArrayAdapter(
        lambda: h5open(path, dataset, swmr=True, libver="latest", locking=False), structure, metadata={}, specs=[]
    )


INDICES = [
    (),
    (0,),
    (-1,),
    (slice(3, 7),),
    (slice(None, None, 3),),
    (slice(20, 2, -3),),
    (slice(5, 5),),
    (..., 2),
    (slice(2, 9, 2), 1),
    (4, slice(1, 3), slice(None, None, -1)),
    (slice(0, 3), ..., slice(-2, None)),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_any_part_is_what_numpy_says(master, data, index, piece, monkeypatch):
    monkeypatch.setattr(module, "PIECE_BYTES", piece)
    found = make_adapter(master).read(NDSlice(*index))
    np.testing.assert_array_equal(found, data[index])
    assert found.dtype == data.dtype


@pytest.mark.parametrize("index", [(), (1,), (slice(1, 3), 2), (..., slice(0, 2)), (slice(None, None, -1),)], ids=str)
@pytest.mark.parametrize("block", [0, 2, 5])
def test_any_part_of_a_block_is_what_numpy_says(master, data, block, index):
    found = make_adapter(master).read_block(NDBlock(block, 0, 0), NDSlice(*index))
    np.testing.assert_array_equal(found, data[block * 4 : block * 4 + 4][index])


def test_one_frame_of_a_block_reads_one_frame(master, data, monkeypatch):
    read = []
    rows_of = Lima2ArrayAdapter._read_rows

    def spy(self, rows, rest, shape):
        read.append(len(rows))
        return rows_of(self, rows, rest, shape)

    monkeypatch.setattr(Lima2ArrayAdapter, "_read_rows", spy)
    make_adapter(master).read_block(NDBlock(1, 0, 0), NDSlice(2))
    make_adapter(master).read(NDSlice(7))
    assert read == [1, 1]


def test_long_reads_let_go_of_the_lock(master, data, monkeypatch):
    monkeypatch.setattr(module, "PIECE_BYTES", 1)
    taken = []

    class Lock:
        def __init__(self):
            self._lock = threading.Lock()

        def __enter__(self):
            taken.append(1)
            return self._lock.__enter__()

        def __exit__(self, *error):
            return self._lock.__exit__(*error)

    monkeypatch.setattr(module, "_lock", Lock())
    make_adapter(master).read()
    assert len(taken) == N


@pytest.mark.parametrize("index", [(), (1,), (slice(0, 4, 2), 1), (slice(None, None, -1), ..., 3)], ids=str)
def test_several_frames_an_event(master, data, index):
    found = make_adapter(master, (7, 3, ROWS, COLUMNS)).read(NDSlice(*index))
    np.testing.assert_array_equal(found, data[:21].reshape(7, 3, ROWS, COLUMNS)[index])


def test_a_tail_that_is_not_in_the_file_reads_fill(master, data):
    found = make_adapter(master, (N + 5, ROWS, COLUMNS)).read(NDSlice(slice(N - 1, N + 5)))
    np.testing.assert_array_equal(found[0], data[-1])
    assert np.isnan(found[1:]).all()


def test_another_shape_or_type_is_an_error(master):
    with pytest.raises(ValueError, match="the catalog has"):
        make_adapter(master, (N, ROWS, COLUMNS + 1)).read(NDSlice(0))
    with pytest.raises(ValueError, match="float32 in the file"):
        make_adapter(master, dtype="<f8").read(NDSlice(0))


def test_a_file_that_is_away_is_not_ready(tmp_path):
    with pytest.raises(DataNotReadyError):
        make_adapter(tmp_path / "none.h5").read(NDSlice(0))


def test_scalars(master, tmp_path):
    with h5py.File(tmp_path / "s.h5", "w", libver="latest") as file:
        file.create_dataset("n", data=np.arange(1000, dtype="<u4"), maxshape=(None,), chunks=(64,))
    found = make_adapter(tmp_path / "s.h5", (1000,), 64, "<u4", "n").read(NDSlice(slice(10, 900, 7)))
    np.testing.assert_array_equal(found, np.arange(10, 900, 7))


WRITER = """
import sys, h5py, numpy as np
with h5py.File(sys.argv[1], "w", libver="latest") as file:
    made = file.create_dataset("n", (0,), "<u4", maxshape=(None,), chunks=(16,), fillvalue=2**32 - 1)
    file.swmr_mode = True
    for line in sys.stdin:
        n = int(line)
        made.resize((n,))
        made[n - 10 :] = np.arange(n - 10, n)
        file.flush()
        print(n, flush=True)
"""


def test_many_threads_see_a_file_grow(tmp_path):
    path = tmp_path / "live.h5"
    command = [sys.executable, "-c", WRITER, str(path)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer,
        ThreadPoolExecutor(4) as threads,
    ):
        for n in range(10, 210, 10):
            writer.stdin.write(f"{n}\n")
            writer.stdin.flush()
            assert int(writer.stdout.readline()) == n
            for found in threads.map(lambda n: make_adapter(path, (n,), 16, "<u4", "n").read(), [n] * 8):
                np.testing.assert_array_equal(found, np.arange(n))
        writer.stdin.close()
