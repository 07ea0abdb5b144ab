"""The truth that played detectors write down."""

import pytest

from lima2_receivers.detectors.journal import (
    JournalWriter,
    Scene,
    Sent,
    Spot,
    journal_path,
    latest_journal,
    read_journal,
)

SCENES = (Scene(1, (Spot(1.5, 2.5, 300.0),)), Scene(2))


@pytest.fixture
def writer(tmp_path):
    writer = JournalWriter(tmp_path / "made", 9, SCENES)
    yield writer
    writer.close()


def test_a_line_can_be_read_as_soon_as_it_is_written(writer, tmp_path):
    sent = [Sent(0, 0, 0, "sent", 1.0), Sent(1, 1, 1, "lost", 2.0)]
    for number, line in enumerate(sent, start=1):
        writer.note(line)
        journal = read_journal(journal_path(tmp_path / "made", 9))
        assert journal.scenes == SCENES
        assert journal.sent == tuple(sent[:number])
    assert journal.scene_of(1) == SCENES[1]


def test_a_line_that_is_cut_off_is_left_out(writer, tmp_path):
    writer.note(Sent(0, 0, 0, "sent", 1.0))
    path = journal_path(tmp_path / "made", 9)
    path.write_bytes(path.read_bytes() + b'{"index": 1, "sce')
    assert len(read_journal(path).sent) == 1


def test_frames_that_are_not_known_before_bring_their_checksums(tmp_path):
    writer = JournalWriter(tmp_path, 9, ())
    for index in range(2):
        writer.note(Sent(index, index, 0, "sent", crc32=100 + index))
    writer.close()
    journal = read_journal(journal_path(tmp_path, 9))
    assert [journal.scene_of(index) for index in range(2)] == [Scene(100), Scene(101)]


def test_the_latest_journal_is_the_one_of_the_highest_series(tmp_path):
    for series in (9, 10, 2):
        JournalWriter(tmp_path, series, SCENES).close()
    assert latest_journal(tmp_path) == journal_path(tmp_path, 10)


def test_a_folder_without_journals_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        latest_journal(tmp_path)
