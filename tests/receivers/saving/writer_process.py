"""A receiver's writer in a process of its own, driven by lines on its standard input.

``N``: write the rows up to N (those of lost frames are skipped), flush, answer N. ``free``: do that row by row,
without end. ``close N``: close with N rows, answer ``closed``.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

import saving_model as model

from lima2_receivers.plan import Compression


def main() -> None:
    folder, rank, n_receivers, compression = sys.argv[1:]
    first, step = int(rank), int(n_receivers)
    files = model.part_files(Path(folder), first, model.saving(Path(folder), Compression(compression)))
    written = 0

    def answer(text: object) -> None:
        os.write(1, f"{text}\n".encode())

    def write_to(rows: int) -> None:
        nonlocal written
        for row in range(written, rows):
            frame = row * step + first
            if model.is_lost(frame):
                files.skip(row)
            else:
                files.write((model.encoded(files, row, frame),))
        written = max(written, rows)
        files.flush()
        answer(written)

    answer("ready")
    for line in sys.stdin:
        match line.split():
            case ["close", rows]:
                files.close(int(rows))
                answer("closed")
            case ["free"]:
                for rows in count(written + 1):
                    write_to(rows)
            case [rows]:
                write_to(int(rows))


main()
