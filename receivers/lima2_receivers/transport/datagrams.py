"""Datagrams received many at a time, by Linux's ``recvmmsg``: a call of Python for each would take longer than it."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import socket
import sys

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

log = logging.getLogger(__name__)

BATCH = 128  # datagrams that one call takes at most: a megabyte of Jungfrau's, which a cache still holds
_SO_RCVBUFFORCE = 33  # of asm-generic/socket.h; for the superuser, beyond the system's limit
_SO_MEMINFO = 55  # of asm-generic/socket.h: nine u32 of linux/sock_diag.h
_DROPS = 8  # which of them


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("hdr", _MsgHdr), ("len", ctypes.c_uint))


class DatagramBatch:
    """Memory that datagrams are received into.

    :param size: bytes of a datagram. A longer one is cut; a shorter one leaves old bytes behind it.
    """

    def __init__(self, size: int) -> None:
        self.memory = np.zeros((BATCH, size), np.uint8)
        self._vectors = (_IoVec * BATCH)()
        self._headers = (_MMsgHdr * BATCH)()
        for at in range(BATCH):
            self._vectors[at].base = self.memory.ctypes.data + at * size
            self._vectors[at].len = size
            self._headers[at].hdr.iov = ctypes.addressof(self._vectors[at])
            self._headers[at].hdr.iovlen = 1
        fields = np.frombuffer(memoryview(self._headers).cast("B"), np.uint32).reshape(BATCH, -1)
        self._sizes = fields[:, _MMsgHdr.len.offset // 4]
        self._receive = ctypes.CDLL(None, use_errno=True).recvmmsg

    def receive(self, fd: int, limit: int = BATCH) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """Take what has come, without waiting.

        :param fd: of a socket.
        :param limit: datagrams to take at most, up to ``BATCH``.
        :returns: the datagrams (n, bytes), a view that the next call overwrites, and how many bytes each had as it was
            sent (n,); none where nothing has come.
        :raises OSError: the socket can't be read.
        """
        flags = socket.MSG_DONTWAIT | socket.MSG_TRUNC  # the latter: sizes are those that were sent
        n = self._receive(fd, ctypes.byref(self._headers), min(limit, BATCH), flags, None)
        if n < 0:
            number = ctypes.get_errno()
            if number not in (errno.EAGAIN, errno.EINTR):
                raise OSError(number, os.strerror(number))
            n = 0
        return self.memory[:n], self._sizes[:n]


def bind_datagrams(endpoint: str, offset: int, receive_buffer: int, place: str) -> socket.socket:
    """Bind a socket that datagrams come to, with as large a buffer in the kernel as can be had.

    :param endpoint: ``udp://HOST:PORT``.
    :param offset: added to the port.
    :param receive_buffer: bytes that are asked for.
    :param place: of the endpoint in the configuration, for errors.
    :raises ConfigError: it can't be bound, or is none.
    """
    host, port = split_endpoint(endpoint, place)
    name = f"{host}:{port + offset}"
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        granted = enlarge(found, receive_buffer)
        found.bind((host, port + offset))
        found.setblocking(False)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"{place}: udp port {name} is in use by another process") from error
        raise ConfigError(f"{place}: udp port {name} can't be bound: {error.strerror}") from error
    except OverflowError as error:
        found.close()
        raise ConfigError(f"{place}: {endpoint}: there is no port {port + offset}") from error
    if granted < receive_buffer:
        log.warning(
            "udp port %s: the kernel holds %.3g MiB of packets, %.3g MiB were asked for; allow it with "
            "`sysctl -w net.core.rmem_max=%d`",
            name,
            granted / 2**20,
            receive_buffer / 2**20,
            receive_buffer,
        )
    else:
        log.info("udp port %s: the kernel holds %.3g MiB of packets", name, granted / 2**20)
    return found


def split_endpoint(endpoint: str, place: str) -> tuple[str, int]:
    """Return host and port of ``udp://HOST:PORT``.

    :raises ConfigError: it isn't one.
    """
    scheme, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "udp" or not host or not port.isdigit():
        raise ConfigError(f"{place}: got {endpoint!r}, expected udp://HOST:PORT")
    return host.strip("[]"), int(port)


def dropped(source: socket.socket) -> int:
    """Return how many datagrams the kernel threw away since the socket was bound, since its buffer was full.

    0 where the kernel does not say: before Linux 4.12.
    """
    try:
        said = source.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_DROPS + 1))
    except OSError:
        return 0
    return int.from_bytes(said[4 * _DROPS : 4 * (_DROPS + 1)], sys.byteorder)


def enlarge(target: socket.socket, size: int) -> int:
    """Ask for a buffer, and return how many bytes were granted."""
    try:
        target.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        target.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    # Linux doubles the number for its own needs, and says so.
    return target.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
