"""The benchmarks run and say what they measured. How fast they were is for people to judge."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIMA2 = Path(sys.executable).with_name("lima2")


def run(*arguments, **options):
    return subprocess.run([LIMA2, "bench", *arguments], capture_output=True, text=True, timeout=300, **options)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "n_figures"),
    [
        ("smx", 8),
        ("receiver", 12),
        ("ideas", 3),
        ("udp", 3),
        ("eiger2", 3),
        ("scaling", 5),
        ("handover", 2),
        ("faults", 7),
    ],
)
def test_figures_are_printed_and_drawn(tmp_path, name, n_figures):
    done = run(name, "--json", "--rounds", "1", "--png", str(tmp_path / "figures.png"))
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert len(figures) == n_figures
    for figure in figures:
        assert figure.keys() == {"name", "value", "unit", "baseline", "ratio", "target", "ok", "device"}
        assert isinstance(figure["value"], float)
        assert isinstance(figure["ok"], bool) == bool(figure["target"])
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")


def test_a_benchmark_that_is_not_there_is_named_with_those_that_are():
    done = run("smxx")
    assert done.returncode == 2
    assert "got benchmark 'smxx', there is" in done.stderr
    assert "smx" in done.stderr
