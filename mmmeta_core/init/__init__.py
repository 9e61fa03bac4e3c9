"""Init: write an archive's first `config.yml`, from what its metadata files look like.

`proposal` looks at some of them, `settings` writes the text, `init` puts it into the metadir, once.
"""

from mmmeta_core.init.init import InitResult, check_new, init
from mmmeta_core.init.proposal import Proposal, propose

__all__ = ["InitResult", "Proposal", "check_new", "init", "propose"]
