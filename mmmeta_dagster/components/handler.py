"""A handler by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from mmmeta_core import ConfigError


def find_handler(name: str) -> Callable[..., Any]:
    """Return the function `package.module:function`. Raises `ConfigError` that says which part is not there."""
    module_name, colon, path = name.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module_name.split("."), *path.split(".")]):
        raise ConfigError(f"the handler {name!r} is not of the form package.module:function")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(f"the handler {name!r} can't be found: there is no module {error.name!r}") from None
    for part in path.split("."):
        if not hasattr(found, part):
            near = get_close_matches(part, dir(found), 1)
            hint = f", but {near[0]!r}" if near else ""
            raise ConfigError(f"the handler {name!r} can't be found: {module_name} has no {part!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"the handler {name!r} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]
