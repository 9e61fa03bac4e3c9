"""Connections that each thread has one of."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """What is closed when it is no longer needed."""

    def close(self) -> None:
        """Close it; again does nothing."""


C = TypeVar("C", bound=Closable)


class PerThread(Generic[C]):
    """A connection for each thread, opened when it first asks; those of threads that ended are closed."""

    def __init__(self, connect: Callable[[], C]) -> None:
        self._connect = connect
        self._local = threading.local()
        self._opened: list[tuple[threading.Thread, C]] = []
        self._lock = threading.Lock()
        # Who forgets to close leaves nothing open.
        weakref.finalize(self, _close, self._opened)

    def get(self) -> C:
        """Return this thread's own."""
        connection: C | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            with self._lock:
                gone = [(thread, other) for thread, other in self._opened if not thread.is_alive()]
                self._opened[:] = [one for one in self._opened if one not in gone]
                _close(gone)
                self._opened.append((threading.current_thread(), connection))
        return connection

    def close(self) -> None:
        """Close those of all threads; who asks next gets a new one."""
        with self._lock:
            _close(self._opened)
            self._local = threading.local()


def _close(connections: list[tuple[threading.Thread, C]]) -> None:
    while connections:
        connections.pop()[1].close()
