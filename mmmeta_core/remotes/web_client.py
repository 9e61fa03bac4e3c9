"""urllib3 with connections that are made to checked addresses only.

The check is where the connection is made, on the very addresses that a name was resolved to: a name that leads
elsewhere when it is asked a second time, or that two parsers of URLs read differently, gains nothing.

Taken are addresses of the public internet, on the ports of the web. What else a client may be led to, only the client
itself says: the host of its own remote, and those that `MMMETA_ALLOW_HOSTS` names.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from mmmeta_core.errors import ConfigError, RefusedError

CONNECTIONS: Final = 32
"""Connections kept open to one host, so that as many threads can download at once."""


ALLOW_HOSTS: Final = "MMMETA_ALLOW_HOSTS"
"""Host names, addresses and networks, with commas between them, that a publisher may lead this client to."""

_WEB_PORTS: Final = frozenset({80, 443})
_FIRST_FREE_PORT: Final = 1024
_IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_NETWORK: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""What of IPv6 is given out to the public."""

_EMBEDS: Final = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),
    (ipaddress.IPv6Network("::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b:1::/48"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)
"""Networks of IPv6 whose addresses hold one of IPv4, and how many bits follow that."""


@dataclass(frozen=True)
class Allowed:
    """What this client lets a publisher lead it to besides the public internet; `own` is its remote's host and port."""

    names: frozenset[str] = frozenset()
    networks: tuple[_NETWORK, ...] = ()
    own: tuple[str, int] | None = None

    @classmethod
    def here(cls, own: tuple[str, int] | None = None) -> Allowed:
        """Return what the environment says now. Raises `ConfigError`."""
        names, networks = set(), []
        for part in os.environ.get(ALLOW_HOSTS, "").split(","):
            text = part.strip().strip("[]")
            if not text:
                continue
            try:
                networks.append(ipaddress.ip_network(text))
            except ValueError:
                if not text.isprintable() or set(text) & set(" /@:?#*"):
                    raise ConfigError(
                        f"{ALLOW_HOSTS} has {text!r:.80}: write host names, addresses and networks (10.0.0.0/8), "
                        "with commas between them"
                    ) from None
                names.add(_plain(text))
        return cls(frozenset(names), tuple(networks), own and (_plain(own[0]), own[1]))

    def check(self, address: str, host: str, port: int) -> None:
        """Raise `RefusedError` for an address that this client does not ask."""
        ip = ipaddress.ip_address(address.partition("%")[0])
        held = list(_held(ip))
        if any(one in network for network in self.networks for one in held if one.version == network.version):
            return
        if any(one.is_link_local or one.is_multicast or one.is_unspecified for one in held):
            raise RefusedError(f"{host} is the address {held[-1]}, which no archive's documents are at")
        if _plain(host) in self.names or (_plain(host), port) == self.own:
            return
        if not all(map(_is_public, held)):
            raise RefusedError(
                f"{host} is the address {held[-1]}, which is not of the public internet; to let the publisher lead this "
                f"machine there, set {ALLOW_HOSTS} to {_plain(host)}"
            )
        if port < _FIRST_FREE_PORT and port not in _WEB_PORTS:
            raise RefusedError(
                f"{host} is asked at the port {port}, which is not for the web; to allow it, set {ALLOW_HOSTS} to "
                f"{_plain(host)}"
            )


def _held(ip: _IP) -> Iterator[_IP]:
    """Yield the address, unless it is but another spelling, and one of IPv4 that it leads to."""
    inner = [
        ipaddress.IPv4Address(int(ip) >> after & 0xFFFFFFFF)
        for network, after in _EMBEDS
        if isinstance(ip, ipaddress.IPv6Address) and ip in network and int(ip) > 1
    ]
    if isinstance(ip, ipaddress.IPv4Address) or not inner or ip in _EMBEDS[-1][0]:
        yield ip
    yield from inner


def _is_public(ip: _IP) -> bool:
    # Of one that leads to IPv4 it is that which counts, and Python 3.13 takes none of these for global.
    return (ip.is_global or ip in _EMBEDS[-1][0]) and (ip.version == 4 or ip in _UNICAST)


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def make_pool(
    *, connect_seconds: float, read_seconds: float, own: tuple[str, int] | None = None
) -> urllib3.PoolManager:
    """Return a pool that follows no redirects and sends nothing twice: both are for its user to decide.

    `own` is the host and port that the client itself gave.
    """
    pool = urllib3.PoolManager(
        maxsize=CONNECTIONS,
        timeout=urllib3.Timeout(connect=connect_seconds, read=read_seconds),
        retries=False,
    )
    pool.pool_classes_by_scheme = _classes(Allowed.here(own))
    return pool


def connect(host: str, port: int, seconds: float | None, allowed: Allowed) -> socket.socket:
    """Connect to the first address of `host` that answers. Raises `RefusedError`, and OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    for address in addresses:
        allowed.check(address, host, port)
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


def _classes(allowed: Allowed) -> dict[str, type[HTTPConnectionPool]]:
    """Return the pools whose connections ask no other addresses than these."""

    class Checked(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            try:
                return connect(self.host, self.port or self.default_port, self.timeout, allowed)
            except TimeoutError as error:
                raise ConnectTimeoutError(self, str(error)) from error
            except (OSError, UnicodeError) as error:
                raise NewConnectionError(self, str(error)) from error

    class SecureChecked(Checked, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Checked

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = SecureChecked

    return {"http": Pool, "https": SecurePool}
