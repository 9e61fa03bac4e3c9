"""`m.files`: the table of documents, and work on them."""

from __future__ import annotations

from typing import Any

from mmmeta_core.database.work import LEASE_SECONDS, On, OnChange
from mmmeta_core.files import Files
from mmmeta_core.process.due import left, shares
from mmmeta_core.process.results import Left, ProcessResult, Share
from mmmeta_core.process.run import process
from mmmeta_core.process.settings import Handler, ProcessOptions
from mmmeta_core.trouble import explained_database
from mmmeta_core.types import Progress


class Documents(Files):
    """`m.files`: the table of documents, and work on them."""

    def shares(
        self,
        size: int,
        most: int,
        *,
        mark: str = "imported",
        on_change: OnChange = "content",
        limit: int | None = None,
        **filters: Any,
    ) -> list[Share]:
        """Divide the documents that `process` would take into ranges of at most `size`, at most `most` of them.

        Nothing is claimed: who processes a share (`process(…, **share.within(filters, m.files.unique))`) claims what is
        still due of it then. Costs a look at the keys of these documents, and no more.
        """
        options = ProcessOptions(mark=mark, on_change=on_change, limit=limit)
        with explained_database(self._state.name):
            return shares(self._state, self, options, filters, size, most)

    def left(self, *, mark: str = "imported", on_change: OnChange = "content", **filters: Any) -> Left:
        """Return how many matching documents are not done, and how many of these somebody has claimed."""
        options = ProcessOptions(mark=mark, on_change=on_change)
        with explained_database(self._state.name):
            return left(self._state, self, options, filters)

    def process(
        self,
        handler: Handler,
        *,
        mark: str = "imported",
        on: On = "due",
        on_change: OnChange = "content",
        workers: int = 1,
        chunk: int = 100,
        max_attempts: int = 5,
        timeout: float | None = None,
        limit: int | None = None,
        lease: float = LEASE_SECONDS,
        progress: Progress | None = None,
        **filters: Any,
    ) -> ProcessResult:
        """Call `handler` for each matching document that is due, and set `mark` on success.

        Due is what is not marked, not deleted, not set aside, and what nobody else is at. With `on="deleted"` it is
        what was done and is deleted now; success takes the mark away, so a document that is restored is due again.
        A document that was done is due again when its `content_hash` changes, with `on_change="again"` when anything
        that is published of it changes, with `"ignore"` never.

        Works in chunks: claimed together, handled by `workers` threads (1: by this one), noted in one transaction.
        Several processes may do this at once on the same state db. A handler that raises, or takes longer than
        `timeout` seconds, is a failure of this document: the error is noted, and it is due again after a growing
        delay, at most `max_attempts` times until the publisher changes it. A handler that hangs can't be stopped, its
        thread is left behind and what it does later is not noted. One that raises `UnavailableError` or `ConfigError`
        stops the run: what it needs for any document is not there, and no document is to blame.

        A claim is a lease of `lease` seconds that is renewed while the process lives. After a kill the documents in
        hand are due again when it ends, so a handler may run twice for them: let it write in a way that may be
        repeated. At most `limit` documents are tried. Raises `ConfigError`, `ColumnError` for a mark that is not the
        client's to set; then nothing is done; and what stops the run.
        """
        options = ProcessOptions(mark, on, on_change, workers, chunk, max_attempts, timeout, limit, lease)
        with explained_database(self._state.name):
            return process(self._state, self, handler, options, filters, progress)
