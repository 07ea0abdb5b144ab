"""What systemd does for a daemon: started again a moment after it was killed."""

from __future__ import annotations

import threading


class Supervisor:
    """Starts a process of a site again whenever it has ended by itself, until closed.

    :param site: whose process.
    :param name: of the process.
    :param delay: seconds between an end and the next start, as ``RestartSec=``.
    """

    def __init__(self, site, name: str, delay: float = 0.5) -> None:
        self.starts = 0
        self._site = site
        self._name = name
        self._delay = delay
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join(30)

    def kill(self) -> None:
        """Kill the process: it will be back."""
        self._site.processes[self._name].kill()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            if self._site.processes[self._name].poll() is not None and not self._over.wait(self._delay):
                self._site.start(self._name)
                self.starts += 1
