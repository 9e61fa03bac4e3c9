"""YAML as `config.yml` may have it. A module of its own, since PyYAML is worth loading only where there are settings."""

from __future__ import annotations

from typing import Any, Final

import yaml

from mmmeta_core.errors import ConfigError

_NOT_OF_ITS_TAG: Final = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)
"""What PyYAML raises for a value that is not what its tag says: `!!timestamp x`."""
_YAML_TEXT: Final = "tag:yaml.org,2002:str"
_LONGEST_NUMBER: Final = 100
"""Characters of a value that is no text: YAML reads 1:30:00 in a time that grows with the square of its length."""


class _Loader(yaml.SafeLoader):
    """Plain YAML: no anchors and aliases, which can make a small file huge, and no name given twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:  # of an alias, too
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not taken", problem_mark=event.start_mark
            )
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and node.tag != _YAML_TEXT and len(node.value) > _LONGEST_NUMBER:
            raise yaml.MarkedYAMLError(
                problem="a number or time that is too long", problem_mark=node.start_mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a name must be text", problem_mark=key.start_mark)
            if key.value in names:
                raise yaml.MarkedYAMLError(problem="a name is given twice", problem_mark=key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)


def plain_yaml(text: str) -> Any:
    """Return what the text says. Raises `ConfigError`."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"not valid YAML: {place}{error.problem or error.context}") from None
    except (yaml.YAMLError, *_NOT_OF_ITS_TAG) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error).partition("\n")[0]
        raise ConfigError(f"not valid YAML: {reason}") from None
