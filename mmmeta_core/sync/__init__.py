"""Sync: a remote's change log ↔ the local catalog and store.

`pull.pull` brings what is new here, `push.push` publishes what waits here. Both look only at what changed. Each is imported
from its own module, so that what only generates does not load them.
"""

from mmmeta_core.sync.replica import Replica

__all__ = ["Replica"]
