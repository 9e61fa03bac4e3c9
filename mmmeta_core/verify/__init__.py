"""Verify: is what a metadir says true? Its own files, its place in the remote's log, documents in the archive, downloads.

Nothing is changed, and everything is looked at, however much is wrong: each thing is a `Finding` that says how to mend it.
"""

from mmmeta_core.verify.filled import Fill, fill
from mmmeta_core.verify.findings import Code, Finding, Repair, VerifyResult
from mmmeta_core.verify.looking import Depth, look, verify

__all__ = ["Code", "Depth", "Fill", "Finding", "Repair", "VerifyResult", "fill", "look", "verify"]
