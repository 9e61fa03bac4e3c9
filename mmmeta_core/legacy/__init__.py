"""Metadirs that the first mmmeta packages wrote (0.1: `meta.db` without a log, 0.4: `db/*.append`) become today's, in place.

`layout` recognises them, `read` gives what they hold, `settings` maps their `config.yml`, `catalog` and `state` convert,
`archive` guards what lies at a remote, `conversion` says when. What is old is kept aside in `_mmmeta/old-0.1` or `old-0.4`
until a person removes it; nothing there is ever published. What converts is imported where there is something to convert.
"""

from mmmeta_core.legacy.conversion import Conversion

__all__ = ["Conversion"]
