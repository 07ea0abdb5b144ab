"""Refusals are told once a kind, then counted, however many there are."""

import logging

from lima2_receivers.security import refusals
from lima2_receivers.security.refusals import Refusals


def test_a_flood_is_told_by_powers_of_ten(caplog):
    caplog.set_level(logging.WARNING)
    tally = Refusals()
    for _ in range(12_345):
        tally.note("mallory", "no key")
    tally.note("eve", "no key")
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "refused mallory: no key (more of this kind are counted)"
    assert said[1:5] == [f"refused mallory: no key ({n} times by now)" for n in (10, 100, 1000, 10_000)]
    assert said[5:] == ["refused eve: no key (more of this kind are counted)"]
    assert tally.counts() == {("mallory", "no key"): 12_345, ("eve", "no key"): 1}


def test_many_peers_take_no_more_memory_than_some(monkeypatch, caplog):
    monkeypatch.setattr(refusals, "KINDS", 10)
    tally = Refusals()
    for number in range(1000):
        tally.note(f"peer {number}", "no key")
    assert len(tally.counts()) == 11
    assert sum(tally.counts().values()) == 1000
    assert len(caplog.records) == 10 + 3
