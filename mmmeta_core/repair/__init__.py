"""Repair: mend what verify finds, as far as what is right can be proven.

The log proves what is published, the key of a document proves its content. Nothing is made up, no document is deleted, and
what was damaged is kept beside its place under a name that says so.
"""

from mmmeta_core.repair.mending import Site, repair

__all__ = ["Site", "repair"]
