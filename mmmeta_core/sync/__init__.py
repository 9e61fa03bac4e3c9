"""Sync: a remote's change log ↔ the local catalog and store.

`pull` brings what is new here, `push` publishes what waits here. Both look only at what changed.
"""

from mmmeta_core.sync.hints import is_here
from mmmeta_core.sync.pull import PullResult, pull
from mmmeta_core.sync.push import PushResult, push
from mmmeta_core.sync.replica import Replica
from mmmeta_core.sync.retire import Retired, forget_copies, listed, retire
from mmmeta_core.sync.settings import pull_settings

__all__ = [
    "PullResult",
    "PushResult",
    "Replica",
    "Retired",
    "forget_copies",
    "is_here",
    "listed",
    "pull",
    "pull_settings",
    "push",
    "retire",
]
