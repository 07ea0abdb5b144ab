"""What a conductor tells its ingest, and what it replies."""

from __future__ import annotations

from .base import Message


class PollIngest(Message, frozen=True):
    """Tell an ingest which receivers it may hand messages to, and ask how it stands; also the heartbeat.

    What other receivers have not made safe goes to these.

    :param ranks: of the receivers.
    """

    ranks: tuple[int, ...]


class IngestProgress(Message, frozen=True):
    """How an ingest stands.

    :param instance: of the daemon; a new one has forgotten everything.
    :param held: messages that it keeps, since no receiver has made them safe yet.
    :param free_slots: of its ring.
    :param joined: ranks of the receivers that take messages.
    :param strangers: messages so far that no receiver knew anything of.
    :param dealt_again: messages so far that went to another receiver, since the first was lost.
    """

    instance: str
    held: int
    free_slots: int
    joined: tuple[int, ...]
    strangers: int = 0
    dealt_again: int = 0
