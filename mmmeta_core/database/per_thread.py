"""Connections that each thread has one of."""

from __future__ import annotations

import threading
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

    def get(self) -> C:
        """Return this thread's own."""
        connection: C | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            with self._lock:
                for thread, other in self._opened:
                    if not thread.is_alive():
                        other.close()
                self._opened = [(thread, other) for thread, other in self._opened if thread.is_alive()]
                self._opened.append((threading.current_thread(), connection))
        return connection

    def close(self) -> None:
        """Close those of all threads; who asks next gets a new one."""
        with self._lock:
            for _, connection in self._opened:
                connection.close()
            self._opened.clear()
            self._local = threading.local()
