"""Process: do something with each document that is due, once, and remember what came of it."""

from mmmeta_core.process.documents import Documents
from mmmeta_core.process.due import due_count
from mmmeta_core.process.results import Left, ProcessResult, Share
from mmmeta_core.process.settings import ChunkHandler, Handler, ProcessOptions, settings_text

__all__ = [
    "ChunkHandler",
    "Documents",
    "Handler",
    "Left",
    "ProcessOptions",
    "ProcessResult",
    "Share",
    "due_count",
    "settings_text",
]
