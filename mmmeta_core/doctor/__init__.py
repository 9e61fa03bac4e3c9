"""Doctor: is the set-up right? The machine, the metadir's place, its settings and databases, the remote.

Small checks that know nothing of each other: one that fails, in whatever way, never stops the others. Nothing stays behind,
and nothing is written to a remote unless this is a publisher or somebody asks for it. What is in the archive, and whether
it is whole, is for `verify`.
"""

from mmmeta_core.doctor.checkup import Check, DoctorResult, Level, Site, examine
from mmmeta_core.doctor.role import role_of

__all__ = ["Check", "DoctorResult", "Level", "Site", "examine", "role_of"]
