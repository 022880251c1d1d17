"""YAML files that people write, read strictly: what is wrong is named with its line, and what is secret in it is not repeated."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from bus.complaints import in_plain_words
from bus.errors import InvalidModelsFile
from bus.repeated_keys import repeated_keys

Place = tuple[str | int, ...]
Known = Mapping[Place, type[BaseModel]]

_FIX = "Correct it, and start Callboard again."


class Strict(BaseModel):
    """A part of such a file: keys that it does not have are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class StrictFile(Strict):
    """The whole of it."""

    def complaint(self) -> tuple[Place, str] | None:
        """What no single field shows: the place and the words of the first thing that is wrong."""
        return None


F = TypeVar("F", bound=StrictFile)


def read_text(path: Path, default: str | None = None) -> str:
    """The default where there is no such file and there is a default. Raises InvalidModelsFile."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if default is not None:
            return default
        raise InvalidModelsFile(f"There is no {path}.", fix="Write one: docs/vllm.md.") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise InvalidModelsFile(
            f"{path} cannot be read: {why}.", fix="Make it a text file that this account may read."
        ) from None


def parse_strictly(text: str, name: str, spec: type[F], known: Known) -> F:
    """Raises InvalidModelsFile. `known`: what reads each place, `*` for any key, to propose what an unknown one meant."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise InvalidModelsFile(f"{name}, line {line}: {error.problem or 'is not YAML'}.", fix=_FIX) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidModelsFile(f"{name} is not YAML: {' '.join(str(error).split())}.", fix=_FIX) from None
    for line, key in repeated_keys(root):
        raise InvalidModelsFile(f"{name}, line {line}: {key} stands there twice.", fix="Remove one of them.")
    try:
        found = spec.model_validate({} if data is None else data)
    except ValidationError as error:
        place, words = _first(error, known)
    else:
        complaint = found.complaint()
        if complaint is None:
            return found
        place, words = complaint
    where = ".".join(str(part) for part in place)
    raise InvalidModelsFile(
        f"{name}, line {_line(root, place)}: {f'{where}: ' if where else ''}{words}.",
        fix=_FIX,
    )


def _first(error: ValidationError, known: Known) -> tuple[Place, str]:
    """An unknown key before all else, since a missing one may be this one misspelt."""
    found = error.errors(include_input=False, include_url=False)
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    place: Place = tuple(first["loc"])
    if first["type"] != "extra_forbidden":
        return place, in_plain_words(first)
    above = tuple("*" if depth % 2 == 1 else part for depth, part in enumerate(place[:-1]))
    model = known.get(above) or known.get(place[:-1])
    return place, "is not known" + (meant(str(place[-1]), model.model_fields) if model is not None else "")


def meant(name: str, known: Any) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else f"; there are {', '.join(known)}" if known else ""


def _line(node: yaml.Node | None, place: Place) -> int:
    """The line of the deepest part of a place that is in the document."""
    line = node.start_mark.line if node is not None else 0
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(part)]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return line + 1
