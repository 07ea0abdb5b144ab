"""The process that plays a detector, driven by its control half and read by receivers' sockets."""

import asyncio
import re
import signal
import subprocess
import sys
import zlib

import pytest

from lima2_receivers.errors import DetectorError, PlanError, StateError
from lima2_receivers.source import SeriesEnd
from lima2_receivers.topology import Dispatch

FAST = 1e-4  # seconds of an exposure


async def receive_all(running, pulls, spec, series):
    """Frames and end of a series, by receiver."""
    return await asyncio.gather(*(pull.until_end(running.source(spec, series)) for pull in pulls))


async def until(running, holds):
    """The first status of which something holds."""
    async with asyncio.timeout(30):
        while not holds(status := await running.control.status()):  # noqa: ASYNC110 - a process is only to be asked
            await asyncio.sleep(0.01)
    return status


async def idle(running):
    """The status once nothing is exposed any more."""
    return await until(running, lambda status: not status.busy)


async def test_frames_go_round_robin_in_order_and_are_in_the_journal(start, bind_pull, plan):
    running = await (await start(receivers=3)).ready()
    pulls = [bind_pull(endpoint) for endpoint in running.endpoints]
    spec = (await running.control.prepare(7, plan(20))).frame_spec
    await running.control.trigger(20, FAST, 0.0)
    received = await receive_all(running, pulls, spec, 7)
    status = await idle(running)
    journal = running.journal(7)
    assert [[frame.index for frame in frames] for frames, _ in received] == [list(range(r, 20, 3)) for r in range(3)]
    assert all(end == SeriesEnd(20) for _, end in received)
    for frame in (frame for frames, _ in received for frame in frames):
        assert zlib.crc32(frame.data) == journal.scene_of(frame.index).crc32
        assert frame.timestamp == journal.sent[frame.index].timestamp
    assert [sent.index for sent in journal.sent] == list(range(20))
    assert {sent.fate for sent in journal.sent} == {"sent"}
    assert len({scene.crc32 for scene in journal.scenes}) == 4
    assert (status.series, status.triggered, status.sent, status.fault) == (7, 20, 20, "")


async def test_frame_numbers_go_on_over_triggers(start, bind_pull, plan):
    running = await (await start()).ready()
    pulls = [bind_pull(endpoint) for endpoint in running.endpoints]
    spec = (await running.control.prepare(1, plan(9))).frame_spec
    for _ in range(3):
        await running.control.trigger(3, FAST, 0.0)
        assert (await idle(running)).triggered <= 9
    received = await receive_all(running, pulls, spec, 1)
    assert [[frame.index for frame in frames] for frames, _ in received] == [[0, 2, 4, 6, 8], [1, 3, 5, 7]]
    with pytest.raises(StateError, match="not armed"):
        await running.control.trigger(1, FAST, 0.0)


async def test_frames_are_lost_as_asked_for_and_the_same_ones_again(start, bind_pull, plan):
    running = await (await start(receivers=1)).ready()
    pull = bind_pull(running.endpoints[0])
    lost = []
    for _ in range(2):
        spec = (await running.control.prepare(5, plan(50, loss=0.3, lose=[1, 4]))).frame_spec
        await running.control.trigger(50, FAST, 0.0)
        frames, end = await pull.until_end(running.source(spec, 5))
        assert (await idle(running)).sent == 50
        journal = running.journal(5)
        assert [frame.index for frame in frames] == [sent.index for sent in journal.sent if sent.fate == "sent"]
        assert end == SeriesEnd(50)
        lost.append([sent.index for sent in journal.sent if sent.fate == "lost"])
    assert {1, 4} <= set(lost[0])
    assert 5 < len(lost[0]) < 30
    assert lost[0] == lost[1]


@pytest.mark.parametrize("plugin", ["simulator", "reader"])
async def test_lima2_simulate_plays_it_with_faults_on_the_way(start, bind_pull, plan, recording, plugin):
    options = ("--loss", "0.3", "--reordering", "0.2", "--duplication", "0.2", "--seed", "3")
    settings = {"recording": str(recording)} if plugin == "reader" else {}
    running = await (await start(receivers=2, plugin=plugin, options=options, **settings)).ready()
    pulls = [bind_pull(endpoint) for endpoint in running.endpoints]
    came, missing = [], []
    for series in range(1, 21):  # a recording has but a few frames
        n_frames = 3 if plugin == "reader" else 9
        spec = (await running.control.prepare(series, plan(n_frames))).frame_spec
        await running.control.trigger(n_frames, FAST, 0.0)
        received = await receive_all(running, pulls, spec, series)
        await idle(running)
        journal = running.journal(series)
        frames = [frame for some, _ in received for frame in some]
        assert {frame.index for frame in frames} == {sent.index for sent in journal.sent if not sent.missing}
        assert {sent.fate for sent in journal.sent} == {"sent"}
        for frame in frames:
            assert zlib.crc32(frame.data) == journal.scene_of(frame.index).crc32
        came += [[frame.index for frame in some] for some, _ in received]
        missing += [sent.index for sent in journal.sent if sent.missing]
    assert missing
    assert any(len(set(some)) < len(some) for some in came)
    assert any(some != sorted(some) for some in came)
    assert await running.end(signal.SIGTERM) == 0


async def test_lima2_simulate_refuses_another_detectors_configuration(start):
    running = await start()
    run = "from lima2_receivers.cli import main; main()"
    command = [sys.executable, "-c", run, "simulate", "reader", str(running.config)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"error: {running.config}: detector.plugin: got 'simulator', expected 'reader'\n"


async def test_nothing_is_sent_after_a_stop(start, bind_pull, plan):
    running = await (await start()).ready()
    pulls = [bind_pull(endpoint) for endpoint in running.endpoints]
    spec = (await running.control.prepare(1, plan(0))).frame_spec
    await running.control.trigger(0, FAST, 0.0)
    source = running.source(spec, 1)
    first = [(await pulls[i % 2].take(source)).index for i in range(10)]
    stopped, received = await asyncio.gather(running.control.stop(), receive_all(running, pulls, spec, 1))
    indices = first + [frame.index for frames, _ in received for frame in frames]
    assert sorted(indices) == list(range(stopped.sent))
    assert not stopped.busy
    assert {end for _, end in received} == {SeriesEnd(stopped.sent)}
    assert await running.control.stop() == stopped
    assert not any([await pull.socket.poll(50) for pull in pulls])
    assert len(running.journal(1).sent) == stopped.sent


async def test_a_stop_between_triggers_ends_the_series(start, bind_pull, plan):
    running = await (await start(receivers=1)).ready()
    pull = bind_pull(running.endpoints[0])
    spec = (await running.control.prepare(1, plan(9))).frame_spec
    await running.control.trigger(3, FAST, 0.0)
    source = running.source(spec, 1)
    assert [(await pull.take(source)).index for _ in range(3)] == [0, 1, 2]
    assert (await running.control.stop()).sent == 3
    assert await pull.take(source) == SeriesEnd(3)


async def test_a_stop_is_prompt_where_a_receiver_does_not_take(start, plan):
    running = await (await start(send_timeout=3600)).ready()
    await running.control.prepare(1, plan(10))
    await running.control.trigger(10, FAST, 0.0)
    stopped = await running.control.stop()
    assert (stopped.sent, stopped.busy) == (0, False)
    assert running.journal(1).sent == ()


async def test_a_receiver_that_reads_nothing_loses_only_its_own_frames(start, bind_pull, plan):
    running = await (await start(send_timeout=0.2, size="module", n_distinct=1)).ready()
    reads, _ = [bind_pull(endpoint) for endpoint in running.endpoints]
    spec = (await running.control.prepare(1, plan(60))).frame_spec
    await running.control.trigger(60, FAST, 0.0)
    frames, _ = await reads.until_end(running.source(spec, 1))
    assert [frame.index for frame in frames] == list(range(0, 60, 2))
    assert (await idle(running)).sent == 60
    fates = [sent.fate for sent in running.journal(1).sent]
    assert set(fates[0::2]) == {"sent"}
    assert fates[-1] == "dropped"
    await running.control.stop()
    assert await running.end(signal.SIGTERM) == 0
    assert sum("receiver 1 takes no frames" in line for line in running.log) == 1


async def test_a_receiver_that_comes_late_gets_frames_again(start, bind_pull, plan):
    running = await (await start(send_timeout=0.1, receivers=1)).ready()
    spec = (await running.control.prepare(1, plan(0))).frame_spec
    await running.control.trigger(0, 0.01, 0.0)
    await until(running, lambda status: status.sent)
    pull = bind_pull(running.endpoints[0])
    frame = await pull.take(running.source(spec, 1))
    assert frame.index > 0
    await running.control.stop()
    assert running.journal(1).sent[0].fate == "dropped"
    assert running.journal(1).sent[frame.index].fate == "sent"


async def test_a_second_series_follows_the_first(start, bind_pull, plan):
    running = await (await start(receivers=1)).ready()
    pull = bind_pull(running.endpoints[0])
    for series in (3, 9):
        spec = (await running.control.prepare(series, plan(5))).frame_spec
        await running.control.trigger(5, FAST, 0.0)
        frames, end = await pull.until_end(running.source(spec, series))
        assert [frame.index for frame in frames] == list(range(5))
        assert end == SeriesEnd(5)
        await idle(running)
    assert len(running.journal(3).sent) == len(running.journal(9).sent) == 5


async def test_commands_out_of_place_are_refused(start, bind_pull, plan):
    running = await (await start(receivers=1)).ready()
    with pytest.raises(StateError, match="not armed"):
        await running.control.trigger(1, FAST, 0.0)
    await running.control.prepare(1, plan(5))
    with pytest.raises(StateError, match="trigger for 6 frames, the series has 5 of 5 left"):
        await running.control.trigger(6, FAST, 0.0)
    bind_pull(running.endpoints[0])
    await running.control.trigger(5, 10.0, 0.0)
    with pytest.raises(StateError, match="still being sent"):
        await running.control.prepare(2, plan(5))
    assert (await running.control.stop()).sent == 0
    assert (await running.control.prepare(2, plan(5))).frame_spec.nbytes == 64 * 128 * 2


@pytest.mark.parametrize(
    ("params", "words"), [({"los": 0.1}, "los"), ({"loss": 2.0}, r"\$\.loss"), ({"lose": [-1]}, r"\$\.lose")]
)
async def test_wrong_parameters_are_refused_with_their_place(start, plan, params, words):
    running = await (await start()).ready()
    with pytest.raises(PlanError, match=f"detector.*{words}"):
        await running.control.prepare(1, plan(5, **params))
    assert (await running.control.status()).series == -1


async def test_a_journal_that_cannot_be_made_fails_prepare(start, plan):
    running = await (await start()).ready()
    (running.folder / "journal_1.jsonl").mkdir()
    with pytest.raises(DetectorError, match="journal"):
        await running.control.prepare(1, plan(5))
    assert await running.control.prepare(2, plan(5))


async def test_a_silent_detector_is_named_within_the_deadline(start, folder):
    running = await start(control=f"ipc://{folder}/control")
    await running.ready()
    silent = type(running.control)(running.control.settings, (), 0.2, Dispatch.ROUND_ROBIN)
    running.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(DetectorError, match=rf"ipc://{folder}/control did not answer GetCapabilities within 0.2 s"):
            await silent.connect()
    finally:
        running.process.send_signal(signal.SIGCONT)
        await silent.close()
    assert await running.control.status()  # the connection that was there still works


async def test_a_restarted_detector_is_at_fault_until_it_is_stopped(start, plan):
    first = await (await start()).ready()
    await first.control.prepare(4, plan(5))
    first.process.kill()
    await first.process.wait()
    await (await start()).ready()
    assert "no longer knows series 4" in (await first.control.status()).fault
    await first.control.stop()
    assert not (await first.control.status()).fault


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_series_and_the_process(start, bind_pull, plan, number):
    running = await (await start(receivers=1)).ready()
    pull = bind_pull(running.endpoints[0])
    spec = (await running.control.prepare(1, plan(0))).frame_spec
    await running.control.trigger(0, 0.01, 0.0)
    source = running.source(spec, 1)
    await pull.take(source)
    status, (frames, end) = await asyncio.gather(running.end(number), pull.until_end(source))
    assert status == 0
    assert end == SeriesEnd(len(frames) + 1) == SeriesEnd(len(running.journal(1).sent))
    assert not any("Traceback" in line for line in running.log)


async def test_it_refuses_commands_and_can_be_ended_while_it_makes_its_frames(start):
    running = await start(size="module", n_distinct=1000)
    await running.until_logged("made frame 1 of 1000")
    with pytest.raises(DetectorError, match="still being made"):
        await running.control.connect()
    assert await running.end(signal.SIGTERM) == 0
    assert not any("is ready" in line or "Traceback" in line for line in running.log)


async def test_a_second_one_on_the_same_endpoint_is_refused_and_writes_nothing(start, folder):
    running = await (await start()).ready()
    before = (running.folder / "pedestal.npy").read_bytes()
    second = await start(seed=1)
    assert await second.process.wait() == 2
    (line,) = (await second.process.stderr.read()).decode().splitlines()
    assert line == f"error: detector.settings.control: ipc://{folder}/sim-control is in use by another process"
    assert (running.folder / "pedestal.npy").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sise": "tiny"}, "detector.settings of plugin simulator: .*`sise`"),
        ({"hit_fraction": 2.0}, r"`float` <= 1.0 - at `\$.hit_fraction`"),
        ({"send_timeout": 0}, r"\$.send_timeout"),
        ({"size": "16m"}, "16m"),
        ({"folder": "here"}, "detector.settings.folder: got 'here', expected an absolute folder"),
        ({"folder": "/proc/none"}, "detector.settings.folder: /proc/none: "),
        ({"control": "ipc:///proc/none/control"}, "detector.settings.control: ipc:///proc/none/control can't be bound"),
        ({"plugin": "reader", "recording": "/none"}, "recording /none: there is no such file or folder"),
        ({"plugin": "eiger2"}, "detector.plugin: got 'eiger2'"),
    ],
)
async def test_wrong_settings_are_one_line_and_exit_status_2(folder, settings, words):
    config = folder / "bad.toml"
    plugin = settings.pop("plugin", "simulator")
    table = {"control": f"ipc://{folder}/control", "folder": str(folder / "bad")} | settings
    config.write_text(
        "\n".join(
            [
                f'detector.plugin = "{plugin}"',
                *(f"detector.settings.{key} = {value!r}" for key, value in table.items()),
                f'conductor = {{commands = "ipc://{folder}/c", state = "ipc://{folder}/s"}}',
                f'receivers = [{{commands = "ipc://{folder}/r", data = "ipc://{folder}/d"}}]',
                f'saving.roots = ["{folder}"]',
            ]
        )
    )
    done = run_to_the_end(config)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert re.search(words, line), line


def test_a_missing_configuration_is_one_line_and_exit_status_2(folder):
    done = run_to_the_end(folder / "none.toml")
    assert done.returncode == 2
    assert done.stderr == f"error: configuration {folder}/none.toml: No such file or directory\n"


def run_to_the_end(config):
    command = [sys.executable, "-m", "lima2_receivers.detectors.sender", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
