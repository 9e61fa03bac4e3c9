"""Where Dagster finds the YAML files."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Load all below the folder defs."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
