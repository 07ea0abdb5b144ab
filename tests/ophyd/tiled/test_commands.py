"""``lima2 serve`` and ``lima2 tiled-writer`` as processes that end cleanly when they are told to."""

import contextlib
import signal
import socket
import subprocess
import sys

import pytest

CODE = "import sys, typer; from lima2_ophyd.tiled import commands; typer.run(getattr(commands, sys.argv.pop(1)))"


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def ended(command, **pipes):
    """A process that has ended behind this, whatever happened."""
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.slow
def test_serve_and_writer_run_until_they_are_told_to_end(tmp_path, port):
    data = tmp_path / "data"
    data.mkdir()
    serve = [sys.executable, "-c", CODE, "serve", str(data), "--folder", str(tmp_path / "tiled"), "--port", "0"]
    with ended(serve, stdout=subprocess.PIPE) as server:
        line = server.stdout.readline()
        assert line.startswith("Tiled at http://127.0.0.1:")
        uri = line.split()[2].rstrip(",")
        key = tmp_path / "tiled" / "api_key"
        write = [sys.executable, "-c", CODE, "tiled_writer", uri, "--key-file", str(key)]
        write += ["--endpoint", f"tcp://127.0.0.1:{port}", "--backup-directory", str(tmp_path / "backup")]
        with ended(write, stderr=subprocess.PIPE) as writer:
            assert any("documents from" in line for line in writer.stderr)
            writer.send_signal(signal.SIGTERM)
            assert writer.wait(20) == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
