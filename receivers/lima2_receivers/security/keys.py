"""Keys in files: a pair for each daemon and client, and the list of those that may come in.

A daemon's folder has mode 0700 and holds::

    conductor.key, receiver_0.key, ...                  public keys
    conductor.key_secret, receiver_0.key_secret, ...    private keys, mode 0600; each daemon reads its own
    operator.key_secret                                 of the command line on the daemons' hosts
    authorized/NAME.toml                                a peer that may come in: public key, role, date
    clients/NAME/                                       made for a client, to be carried to its host

``NAME.key`` and ``NAME.key_secret`` are ZeroMQ certificates, made and read by ``zmq.auth``.
"""

from __future__ import annotations

import re
import shutil
import struct
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import zmq
import zmq.asyncio
from msgspec import Meta, Struct
from zmq.auth import create_certificates, load_certificate
from zmq.utils import z85

from ..errors import ConfigError
from .roles import Role

CONDUCTOR, INGEST, OPERATOR = "conductor", "ingest", "operator"
PUBLIC, SECRET = ".key", ".key_secret"
AUTHORIZED, CLIENTS = "authorized", "clients"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}", re.ASCII)


def receiver_name(rank: int) -> str:
    """Return the name of a receiver's key."""
    return f"receiver_{rank}"


class Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """A peer that may come in, as ``authorized/NAME.toml`` has it.

    :param public_key: 40 characters in ZeroMQ's Z85.
    :param role: what it may do.
    :param created: when it was added.
    """

    public_key: Annotated[str, Meta(min_length=40, max_length=40)]
    role: Role
    created: date


@dataclass(frozen=True, slots=True)
class Pair:
    """The key pair of a daemon or client.

    :param name: of its file.
    """

    name: str
    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a socket that connects needs.

    :param own: its pair.
    :param server: public key of the daemon.
    """

    own: Pair
    server: bytes

    def apply(self, target: zmq.SyncSocket | zmq.asyncio.Socket) -> None:
        """Give a socket its keys, before it connects."""
        target.curve_publickey = self.own.public
        target.curve_secretkey = self.own.secret
        target.curve_serverkey = self.server


def load_pair(path: Path) -> Pair:
    """Read a private key.

    :param path: of a ``NAME.key_secret``.
    :raises ConfigError: it is not there, is no private key, or others than its owner may read it.
    """
    _check_private(path, 0o600)
    public, secret = _read(path)
    if secret is None:
        raise ConfigError(f"key {path}: got a public key, expected a private one")
    if zmq.curve_public(secret) != public:
        raise ConfigError(f"key {path}: its public and its private key are no pair")
    return Pair(path.name.removesuffix(SECRET), public, secret)


def load_public(path: Path) -> bytes:
    """Read a public key.

    :raises ConfigError: it is not there, or is none.
    """
    return _read(path)[0]


def load_credentials(path: Path, server: str = CONDUCTOR) -> Credentials:
    """Read what a client needs: its private key, and the public key of the daemon beside it.

    :param path: of the private key.
    :param server: name of the daemon's key.
    :raises ConfigError: one of them can't be used.
    """
    return Credentials(load_pair(path), load_public(path.parent / (server + PUBLIC)))


def check_folder(folder: Path) -> None:
    """Check that a daemon's folder of keys is there, and that nobody else can reach into it.

    :raises ConfigError: it isn't so.
    """
    _check_private(folder, 0o700)
    if not folder.is_dir():
        raise ConfigError(f"security.keys: {folder} is not a folder")


def make_keys(folder: Path, n_receivers: int) -> list[str]:
    """Make the keys of a detector's daemons and of its operator, as far as they are not there yet.

    :param folder: made with mode 0700 where it is missing.
    :returns: names of the pairs that are new.
    :raises ConfigError: the folder can be reached by others, or can't be written.
    """
    roles = {CONDUCTOR: Role.CONDUCT, OPERATOR: Role.CONTROL}
    made: list[str] = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_folder(folder)
        for name in (CONDUCTOR, *map(receiver_name, range(n_receivers)), OPERATOR):
            if (folder / (name + PUBLIC)).exists():  # alone where the private one belongs to another host
                continue
            public = _make_pair(folder, name)
            if name in roles:
                _authorize(folder, name, public, roles[name])
            made.append(name)
    except OSError as error:
        raise ConfigError(f"security.keys: {error.filename}: {error.strerror}") from error
    return made


def add_client(folder: Path, name: str, role: Role) -> Path:
    """Make a pair for a client and let it in.

    :param folder: of the daemons.
    :param name: of the client, new.
    :returns: the folder to carry to the client: its private key, and the conductor's public key.
    :raises ConfigError: the name is taken or no name, or the folder can't be used.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"name: got {name!r}, expected at most 64 letters, digits, '_', '-' and '.'")
    check_folder(folder)
    taken = (folder / (name + PUBLIC), folder / AUTHORIZED / f"{name}.toml")
    if any(path.exists() for path in taken):
        raise ConfigError(f"name: {name} has a key already; `lima2 keys revoke` it, or choose another name")
    conductor = folder / (CONDUCTOR + PUBLIC)
    load_public(conductor)
    place = folder / CLIENTS / name
    try:
        place.parent.mkdir(mode=0o700, exist_ok=True)
        place.mkdir(mode=0o700)
        public = _make_pair(place, name)
        shutil.copy(conductor, place)
        _authorize(folder, name, public, role)
    except OSError as error:
        raise ConfigError(f"security.keys: {error.filename}: {error.strerror}") from error
    return place


def revoke(folder: Path, name: str) -> None:
    """Let a peer in no more.

    :raises ConfigError: nobody of that name may come in.
    """
    check_folder(folder)
    path = folder / AUTHORIZED / f"{name}.toml"
    if not NAME.fullmatch(name) or not path.exists():
        known = ", ".join(sorted(found.stem for found in (folder / AUTHORIZED).glob("*.toml")))
        raise ConfigError(f"name: got {name!r}, expected one that is authorized: {known or 'there is none'}")
    try:
        path.unlink()
        if (folder / CLIENTS / name).exists():
            shutil.rmtree(folder / CLIENTS / name)
    except OSError as error:
        raise ConfigError(f"security.keys: {error.filename}: {error.strerror}") from error


def read_authorized(folder: Path) -> tuple[dict[str, Entry], list[str]]:
    """Read who may come in. A file that can't be used lets nobody in, and keeps nobody else out.

    :param folder: of the daemons.
    :returns: entries by name, and what is wrong with the files that are left out.
    """
    found: dict[str, Entry] = {}
    wrong: list[str] = []
    owners: dict[str, str] = {}
    for path in sorted((folder / AUTHORIZED).glob("*.toml")):
        try:
            entry = msgspec.toml.decode(path.read_bytes(), type=Entry)
        except OSError as error:
            wrong.append(f"{path}: {error.strerror}")
            continue
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            wrong.append(f"{path}: {error}")
            continue
        other = owners.setdefault(entry.public_key, path.stem)
        if other != path.stem:
            wrong.append(f"{path}: has the key of {other}")
            continue
        found[path.stem] = entry
    return found, wrong


def _make_pair(folder: Path, name: str) -> str:
    """Make a pair in a folder that nobody else can reach into, and return its public key."""
    _, secret = create_certificates(folder, name)
    Path(secret).chmod(0o600)
    return load_certificate(secret)[0].decode()


def _authorize(folder: Path, name: str, public_key: str, role: Role) -> None:
    place = folder / AUTHORIZED
    place.mkdir(mode=0o700, exist_ok=True)
    today = datetime.now(UTC).date().isoformat()
    text = f'public_key = "{public_key}"\nrole = "{role}"\ncreated = {today}\n'  # Z85 has no quotes
    new = place / f".{name}.new"  # a daemon never sees half a file
    new.write_text(text)
    new.replace(place / f"{name}.toml")


def _read(path: Path) -> tuple[bytes, bytes | None]:
    try:
        found = load_certificate(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"key {path}: {error}") from error
    for key in found:
        if key is not None and not _is_key(key):
            raise ConfigError(f"key {path}: got a key of {len(key)} bytes, expected 40 characters of Z85")
    return found


def _is_key(key: bytes) -> bool:
    try:
        return len(z85.decode(key)) == 32
    except (ValueError, KeyError, struct.error):
        return False


def _check_private(path: Path, mode: int) -> None:
    try:
        found = path.stat().st_mode & 0o777
    except OSError as error:
        raise ConfigError(f"key {path}: {error.strerror}: `lima2 keys init` makes keys") from error
    if found & 0o077:
        raise ConfigError(f"key {path}: got mode {found:04o}, which others can use, expected {mode:04o}")
