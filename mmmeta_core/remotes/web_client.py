"""urllib3 with connections that are made to checked addresses only.

The check is where the connection is made, on the very addresses that a name was resolved to: a name that leads
elsewhere when it is asked a second time, or that two parsers of URLs read differently, gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from typing import Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from mmmeta_core.errors import RefusedError

CONNECTIONS: Final = 32
"""Connections kept open to one host, so that as many threads can download at once."""


def make_pool(*, connect_seconds: float, read_seconds: float) -> urllib3.PoolManager:
    """Return a pool that follows no redirects and sends nothing twice: both are for its user to decide."""
    pool = urllib3.PoolManager(
        maxsize=CONNECTIONS,
        timeout=urllib3.Timeout(connect=connect_seconds, read=read_seconds),
        retries=False,
    )
    pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return pool


def connect(host: str, port: int, seconds: float | None) -> socket.socket:
    """Connect to the first address of `host` that answers. Raises `RefusedError`, and OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    for address in addresses:
        _check(address, host)
    last = OSError("the host has no address")
    for address in addresses:
        try:
            made = socket.create_connection((address, port), seconds)
        except OSError as error:
            last = error
            continue
        with suppress(OSError):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made
    raise last


def _check(address: str, host: str) -> None:
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        raise RefusedError(f"{host} is the address {ip}, which no archive's documents are at")


class _Checked(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        try:
            return connect(self.host, self.port or self.default_port, self.timeout)
        except TimeoutError as error:
            raise ConnectTimeoutError(self, str(error)) from error
        except (OSError, UnicodeError) as error:
            raise NewConnectionError(self, str(error)) from error


class _SecureChecked(_Checked, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Checked


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureChecked
