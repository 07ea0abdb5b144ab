"""Who may come in by a daemon's sockets: ZeroMQ's CURVE shows who it is, a list of keys says what each may ask."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from ..config import Config
from ..errors import AccessError, ConfigError
from .handshakes import CRYPTOGRAPHIC, MISMATCH
from .keys import CONDUCTOR, PUBLIC, SECRET, Credentials, Entry, check_folder, load_pair, load_public, read_authorized
from .reach import Reach, reach
from .refusals import Refusals
from .roles import Peer, Role

log = logging.getLogger(__name__)

DOMAIN = "lima2"
LOOK_PERIOD = 1.0
"""Seconds after which a change of the list of keys is noticed, at the latest."""
NO_KEY = "it has no key, or hung up in the handshake"  # who has none may be the first to notice


class Guard:
    """Lets peers in by their keys. One a process: ZeroMQ asks one authenticator a context.

    ZeroMQ asks at the handshake alone. So that a key that is revoked later counts no more, every message is looked at
    as well.

    :param folder: of the daemons' keys.
    :param name: of this daemon's own pair.
    :raises ConfigError: the keys are not there, or can be used by others.
    """

    def __init__(self, folder: Path, name: str) -> None:
        check_folder(folder)
        self.refusals = Refusals()
        self._folder = folder
        self._own = load_pair(folder / (name + SECRET))
        self._peers: dict[str, tuple[str, Role]] = {}  # by public key
        self._known: tuple[dict[str, Entry], list[str]] = ({}, [])
        self._revoked: list[Callable[[], None]] = []
        self._authenticator = _Authenticator(self)
        self._watcher: asyncio.Task[None] | None = None
        self.look()

    def start(self) -> None:
        """Answer ZeroMQ's questions, in the running event loop. Before a socket is bound: without this, all come in."""
        self._authenticator.start()
        self._watcher = asyncio.create_task(self._watch(), name="keys")

    async def close(self) -> None:
        """Stop; after the sockets are closed."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        self._authenticator.stop()

    def secure(self, target: zmq.SyncSocket | zmq.asyncio.Socket) -> None:
        """Let only peers with keys in by a socket of asyncio's shared context, which is not bound yet."""
        if target.context.underlying != self._authenticator.context.underlying:
            raise RuntimeError("the socket is of another context: everybody could come in, as no one is asked there")
        target.curve_server = True
        target.curve_publickey = self._own.public
        target.curve_secretkey = self._own.secret
        target.zap_domain = DOMAIN.encode()

    def peer(self, frame: zmq.Frame) -> Peer:
        """Return who sent a message, by a frame of it that came in by a secured socket.

        :raises AccessError: its key is no longer authorized.
        """
        try:
            key, address = str(frame.get("User-Id")), str(frame.get("Peer-Address"))
        except zmq.ZMQError as error:
            raise AccessError("the message has no sender") from error
        found = self._peers.get(key)
        if found is None:
            raise AccessError(f"the key of the peer at {address} is no longer authorized")
        return Peer(found[0], found[1], address)

    def admits(self, key: str, address: str) -> bool:
        """Return whether the owner of a key may connect now; note who may not."""
        self.look()
        if key in self._peers:
            return True
        self.refusals.note(f"a peer at {address}", f"its key {key} is not authorized")
        return False

    def note_handshake(self, place: str) -> Callable[[str, zmq.Event, int], None]:
        """Return what notes the handshakes that fail at a socket.

        :param place: of its endpoint in the configuration.
        """

        def failed(address: str, event: zmq.Event, value: int) -> None:
            if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
                return  # ``admits`` has noted it
            if value == MISMATCH or event == zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
                why = NO_KEY
            elif value == CRYPTOGRAPHIC:
                why = "it does not have our public key"
            else:
                why = "what it sends is no handshake"
            self.refusals.note(f"a peer at {address or 'an address that was gone'}", f"{place}: {why}")

        return failed

    def on_revoked(self, callback: Callable[[], None]) -> None:
        """Call back when a peer that could come in no longer may, or may do less."""
        self._revoked.append(callback)

    def look(self) -> None:
        """Read the list of keys again."""
        known = read_authorized(self._folder)
        if known == self._known:
            return
        before, (entries, wrong) = self._peers, known
        self._known = known
        for text in wrong:
            log.error("authorizes nobody: %s", text)
        self._peers = {entry.public_key: (name, entry.role) for name, entry in entries.items()}
        lost = [name for key, (name, role) in before.items() if self._peers.get(key) != (name, role)]
        if lost:
            log.info("keys were revoked or have another role: %s", ", ".join(lost))
            for callback in self._revoked:
                callback()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_PERIOD)
            self.look()


class _Authenticator(AsyncioAuthenticator):
    """Asks a guard, with the address that the library's own callback does not get."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(zmq.asyncio.Context.instance())
        self._guard = guard
        self._address = ""
        self.configure_curve_callback(DOMAIN, self)

    async def handle_zap_message(self, msg: list[bytes]) -> None:
        """Answer one question of ZeroMQ's."""
        self._address = msg[3].decode(errors="replace") if len(msg) > 3 else ""
        await super().handle_zap_message(msg)

    def callback(self, domain: str, key: bytes) -> bool:
        """Return whether the owner of a key may come in."""
        del domain
        return self._guard.admits(key.decode(), self._address)


def open_guard(config: Config, name: str) -> Guard | None:
    """Make and start a daemon's guard; None: the configuration has no keys.

    :param name: of the daemon's pair.
    :raises ConfigError: its keys can't be used.
    """
    if not config.security.keys:
        return None
    guard = Guard(Path(config.security.keys), name)
    guard.start()
    return guard


def conductor_credentials(config: Config, server: str) -> Credentials | None:
    """Return what the conductor needs to connect to a receiver or an ingest; see ``credentials``."""
    return credentials(config, CONDUCTOR, server)


def credentials(config: Config, name: str, server: str) -> Credentials | None:
    """Return what a daemon needs to connect to another; None: the configuration has no keys.

    :param name: of its own key.
    :param server: name of the other's key.
    :raises ConfigError: the keys can't be used.
    """
    if not config.security.keys:
        return None
    folder = Path(config.security.keys)
    return Credentials(load_pair(folder / (name + SECRET)), load_public(folder / (server + PUBLIC)))


def protect(
    target: zmq.SyncSocket | zmq.asyncio.Socket, endpoint: str, place: str, guard: Guard | None
) -> Guard | None:
    """Secure one of our own sockets as its endpoint needs it, before it is bound.

    :param place: of the endpoint in the configuration, for errors.
    :param guard: of the daemon; None: there are no keys.
    :returns: the guard that knows who comes in by it; None: the permissions of a folder say who does, or, on
        loopback, nobody.
    :raises ConfigError: other hosts can reach the endpoint, and there are no keys.
    """
    where = reach(endpoint)
    if where is Reach.FILES:
        return None
    if guard is None:
        if where is Reach.NETWORK:
            raise ConfigError(f"{place}: {endpoint} can be reached from other hosts, and there are no keys")
        return None
    guard.secure(target)
    return guard
