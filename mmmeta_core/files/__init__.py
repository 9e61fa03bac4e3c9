"""Documents as a client sees them: `Files`, a dataset table of the state db, and `File`, one of its rows."""

from mmmeta_core.files.file import File, Urls
from mmmeta_core.files.placing import Folder
from mmmeta_core.files.table import Files

__all__ = ["File", "Files", "Folder", "Urls"]
