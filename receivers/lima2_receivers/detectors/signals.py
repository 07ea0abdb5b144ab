"""Pulses for a simulated detector that runs in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..config import Config, detector_settings
from ..messages import Done
from ..transport.requests import Requester
from .eiger2.params import Eiger2Settings
from .eiger2.simplon import Simplon
from .players import make_player
from .protocol import Pulse, decode_sender_reply

_SECONDS = 5.0  # deadline of a pulse


async def give_pulses(config: Config, number: int, period: float, width: float) -> None:
    """Give pulses to the signal of the simulated detector that a configuration names.

    :param number: of pulses.
    :param period: seconds from pulse to pulse.
    :param width: seconds that each lasts; 0: the exposure, as always for a simulated Eiger2.
    :raises ReceiverError: the detector is no simulated one, does not answer, or does not take the signal now.
    """
    if config.detector.plugin == "eiger2":
        settings = detector_settings(config, Eiger2Settings)
        simplon = Simplon(settings.url, settings.api, _SECONDS)
        await _repeat(lambda: simplon.command("pulse"), simplon.close, number, period)
        return
    requester = Requester(make_player(config).control, "detector", _SECONDS, decode_sender_reply)
    requester.open()
    await _repeat(lambda: requester.request(Pulse(width), Done), requester.close, number, period)


async def _repeat(
    give: Callable[[], Awaitable[object]], close: Callable[[], Awaitable[None]], number: int, period: float
) -> None:
    try:
        for given in range(number):
            if given:
                await asyncio.sleep(period)
            await give()
    finally:
        await close()
