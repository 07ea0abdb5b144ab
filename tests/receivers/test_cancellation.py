"""Work that a cancellation must not leave half done."""

import asyncio
import threading

import pytest

from lima2_receivers.cancellation import in_thread, to_the_end

SECONDS = 10.0


class Gate:
    """A thread's work that begins, and ends when it is let."""

    def __init__(self):
        self.begun, self.go, self.done = threading.Event(), threading.Event(), threading.Event()

    def work(self):
        self.begun.set()
        assert self.go.wait(SECONDS)
        self.done.set()
        return "made"


async def begin(gate, undo=None):
    task = asyncio.create_task(in_thread(gate.work, undo))
    assert await asyncio.to_thread(gate.begun.wait, SECONDS)
    return task


async def test_what_is_not_cancelled_gives_its_result_and_is_not_undone():
    gate, undone = Gate(), []
    task = await begin(gate, undone.append)
    gate.go.set()
    assert await task == "made"
    assert undone == []


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancellation_waits_for_the_end_and_undoes_what_was_made(times):
    gate, undone = Gate(), []
    task = await begin(gate, undone.append)
    for _ in range(times):
        task.cancel()
        await asyncio.wait({task}, timeout=0.02)
        assert not task.done()
    gate.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.done.is_set()
    assert undone == ["made"]


async def test_errors_pass_and_leave_nothing_to_undo():
    def fail():
        raise ValueError("no space")

    undone = []
    with pytest.raises(ValueError, match="no space"):
        await in_thread(fail, undone.append)
    assert undone == []


async def test_a_cancellation_counts_more_than_an_error_of_the_work():
    gate = asyncio.Event()

    async def fail():
        await gate.wait()
        raise ValueError("no space")

    task = asyncio.create_task(to_the_end(fail()))
    await asyncio.sleep(0)
    task.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_cancelled_work_raised_is_logged(caplog):
    def fail():
        gate.work()
        raise ValueError("no space")

    gate = Gate()
    task = asyncio.create_task(in_thread(fail))
    assert await asyncio.to_thread(gate.begun.wait, SECONDS)
    task.cancel()
    gate.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "no space" in caplog.text


async def test_an_undo_that_fails_does_not_hide_the_cancellation(caplog):
    def undo(made):
        raise ValueError(f"{made} can't be removed")

    gate = Gate()
    task = await begin(gate, undo)
    task.cancel()
    gate.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "made can't be removed" in caplog.text
