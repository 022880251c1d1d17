"""Keys of a YAML file that stand there twice: YAML takes the last one, and says nothing."""

from __future__ import annotations

from collections.abc import Iterator

import yaml


def repeated_keys(root: yaml.Node | None) -> Iterator[tuple[int, str]]:
    """The lines (from 1) and names of keys that would win over an earlier one of the same name."""
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias, perhaps of a node that it is in
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                if key.value in keys:
                    yield key.start_mark.line + 1, str(key.value)
                keys.add(key.value)
                waiting.append(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
