"""What a receiver's command does before its daemon is there."""

from lima2_receivers.receiver import __main__ as command


def test_memory_that_threads_let_go_is_for_all_of_them(monkeypatch):
    asked = []

    class Library:
        def __init__(self, name):
            self.mallopt = lambda *options: asked.append(options)

    monkeypatch.setattr(command.ctypes, "CDLL", Library)
    command._share_one_arena()
    assert asked == [(-8, 1)]


def test_another_libc_is_left_alone(monkeypatch):
    monkeypatch.setattr(command.ctypes, "CDLL", lambda name: object())
    command._share_one_arena()
