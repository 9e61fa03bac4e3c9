"""Each metadir's state lies on the server that TEST_POSTGRES names, in a schema of its own, instead of in its state.db.

Python loads this by itself where the folder is on PYTHONPATH, so processes that a test starts do the same.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

PLACE = "mmmeta_core.database.place"


def on_server(module: ModuleType) -> None:
    place = module.place

    def moved(value: Any) -> Any:
        server = os.environ.get("TEST_POSTGRES")
        if server is None or not str(value).endswith("_mmmeta/state.db"):
            return place(value)
        schema = hashlib.sha1(str(Path(value).resolve()).encode(), usedforsecurity=False).hexdigest()[:20]
        return place(f"{server}?schema=t{schema}")

    module.place = moved  # type: ignore[attr-defined]


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != PLACE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def then(module: ModuleType) -> None:
            execute(module)
            on_server(module)

        spec.loader.exec_module = then  # type: ignore[method-assign]
        return spec


if PLACE in sys.modules:
    on_server(sys.modules[PLACE])
else:
    sys.meta_path.insert(0, Finder())
