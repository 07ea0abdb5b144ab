"""Keys in files: who may read them, and what is refused."""

import re
import stat
from datetime import UTC, date, datetime

import pytest

from lima2_receivers.errors import ConfigError
from lima2_receivers.security.keys import (
    Entry,
    add_client,
    load_credentials,
    load_pair,
    load_public,
    make_keys,
    read_authorized,
    revoke,
)
from lima2_receivers.security.roles import Role

NAMES = ["conductor", "receiver_0", "receiver_1", "operator"]


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "keys"
    make_keys(place, 2)
    return place


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_for_their_owner_alone(tmp_path):
    folder = tmp_path / "etc" / "keys"
    assert make_keys(folder, 2) == NAMES
    add_client(folder, "alice", Role.OBSERVE)
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    assert {mode(path) for path in folders} == {0o700}
    assert {mode(path) for path in folder.rglob("*.key_secret")} == {0o600}
    assert len(list(folder.rglob("*.key_secret"))) == 5


def test_each_pair_is_its_own_and_is_made_once(folder):
    pairs = [load_pair(folder / f"{name}.key_secret") for name in NAMES]
    assert [pair.name for pair in pairs] == NAMES
    assert len({pair.public for pair in pairs} | {pair.secret for pair in pairs}) == 8
    assert [load_public(folder / f"{name}.key") for name in NAMES] == [pair.public for pair in pairs]
    assert make_keys(folder, 3) == ["receiver_2"]
    assert load_pair(folder / "conductor.key_secret") == pairs[0]
    assert pairs[0].secret.decode() not in repr(pairs[0])


def test_a_key_whose_private_half_is_on_another_host_is_not_made_again(folder):
    (folder / "receiver_1.key_secret").unlink()
    assert make_keys(folder, 2) == []


def test_conductor_and_operator_may_come_in(folder):
    found, wrong = read_authorized(folder)
    assert {name: entry.role for name, entry in found.items()} == {"conductor": Role.CONDUCT, "operator": Role.CONTROL}
    assert found["conductor"].public_key.encode() == load_public(folder / "conductor.key")
    assert wrong == []


def test_who_was_revoked_stays_out_when_keys_are_made_again(folder):
    revoke(folder, "operator")
    assert make_keys(folder, 2) == []
    assert set(read_authorized(folder)[0]) == {"conductor"}


def test_a_client_gets_what_it_needs_and_no_more(folder):
    place = add_client(folder, "alice", Role.OBSERVE)
    assert sorted(path.name for path in place.iterdir()) == ["alice.key", "alice.key_secret", "conductor.key"]
    found = load_credentials(place / "alice.key_secret")
    assert found.server == load_public(folder / "conductor.key")
    entry = read_authorized(folder)[0]["alice"]
    assert entry == Entry(found.own.public.decode(), Role.OBSERVE, datetime.now(UTC).date())


@pytest.mark.parametrize("name", ["alice", "conductor", "receiver_0"])
def test_a_name_that_has_a_key_is_refused(folder, name):
    add_client(folder, "alice", Role.OBSERVE)
    before = read_authorized(folder)
    with pytest.raises(ConfigError, match=rf"name: {name} has a key already"):
        add_client(folder, name, Role.CONTROL)
    assert read_authorized(folder) == before


@pytest.mark.parametrize("name", ["", "..", "a/b", "../alice", ".alice", "a\0b", "a b", "é", "a" * 65])
def test_what_is_no_name_is_refused(folder, name):
    with pytest.raises(ConfigError, match=r"name: got .*, expected"):
        add_client(folder, name, Role.OBSERVE)
    with pytest.raises(ConfigError, match=r"name: got .*, expected one that is authorized: conductor, operator"):
        revoke(folder, name)


def test_a_revoked_name_can_be_used_again_with_another_key(folder):
    place = add_client(folder, "alice", Role.CONTROL)
    old = load_pair(place / "alice.key_secret")
    revoke(folder, "alice")
    assert "alice" not in read_authorized(folder)[0]
    assert not place.exists()
    with pytest.raises(ConfigError, match="got 'alice', expected one that is authorized"):
        revoke(folder, "alice")
    add_client(folder, "alice", Role.OBSERVE)
    assert load_pair(place / "alice.key_secret").public != old.public


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('public_key = "short"\nrole = "observe"\ncreated = 2026-01-31\n', "length >= 40"),
        (f'public_key = "{"a" * 40}"\nrole = "root"\ncreated = 2026-01-31\n', "Invalid enum value 'root'"),
        (f'public_key = "{"a" * 40}"\ncreated = 2026-01-31\n', "missing required field `role`"),
        (f'public_key = "{"a" * 40}"\nrole = "observe"\ncreated = 2026-01-31\nrol = 1\n', "unknown field `rol`"),
        ("no toml", "Expected"),
    ],
)
def test_an_entry_that_is_wrong_lets_nobody_in_and_keeps_nobody_out(folder, text, said):
    before = read_authorized(folder)[0]
    (folder / "authorized" / "mallory.toml").write_text(text)
    found, wrong = read_authorized(folder)
    assert found == before
    assert len(wrong) == 1
    assert re.search(rf"authorized/mallory\.toml: .*{said}", wrong[0])


def test_an_entry_written_by_hand_counts(folder):
    (folder / "authorized" / "bob.toml").write_text(
        f'# of the web page\npublic_key = "{"a" * 40}"\nrole = "observe"\ncreated = 2026-01-31\n'
    )
    assert read_authorized(folder)[0]["bob"] == Entry("a" * 40, Role.OBSERVE, date(2026, 1, 31))


def test_one_key_has_one_name(folder):
    entries = folder / "authorized"
    (entries / "zoe.toml").write_text((entries / "operator.toml").read_text().replace("control", "conduct"))
    found, wrong = read_authorized(folder)
    assert set(found) == {"conductor", "operator"}
    assert wrong == [f"{entries}/zoe.toml: has the key of operator"]


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644])
def test_a_private_key_that_others_can_read_is_refused(folder, bits):
    path = folder / "conductor.key_secret"
    path.chmod(bits)
    with pytest.raises(ConfigError, match=rf"conductor\.key_secret: got mode {bits:04o}, .* expected 0600"):
        load_pair(path)


@pytest.mark.parametrize("bits", [0o750, 0o701, 0o755, 0o777])
def test_a_folder_that_others_can_reach_into_is_refused(folder, bits):
    folder.chmod(bits)
    for work in (
        lambda: make_keys(folder, 2),
        lambda: add_client(folder, "a", Role.OBSERVE),
        lambda: revoke(folder, "a"),
    ):
        with pytest.raises(ConfigError, match=rf"keys: got mode {bits:04o}, .* expected 0700"):
            work()


def test_keys_that_are_missing_or_broken_are_named(folder):
    with pytest.raises(ConfigError, match=r"none\.key_secret: No such file.*`lima2 keys init`"):
        load_pair(folder / "none.key_secret")
    with pytest.raises(ConfigError, match=r"none\.key: "):
        load_public(folder / "none.key")
    public = folder / "conductor.key"
    public.chmod(0o600)
    with pytest.raises(ConfigError, match="got a public key, expected a private one"):
        load_pair(public)
    text = public.read_text()
    public.write_text('curve\n    public-key = "too short"\n')
    with pytest.raises(ConfigError, match=r"conductor\.key: got a key of 9 bytes, expected 40"):
        load_public(public)
    public.write_text("nothing\n")
    with pytest.raises(ConfigError, match=r"conductor\.key: No public key"):
        load_public(public)
    public.write_text(text)
    other = (folder / "operator.key_secret").read_text()
    secret = folder / "conductor.key_secret"
    mine = load_pair(secret).public.decode()
    secret.write_text(other.replace(load_pair(folder / "operator.key_secret").public.decode(), mine))
    with pytest.raises(ConfigError, match="no pair"):
        load_pair(secret)
