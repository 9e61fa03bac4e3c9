"""`python -m mmmeta_core` is `mmmeta`."""

from mmmeta_core.cli import main

main()
