"""The tables of a reference page, and what they must say: taken from the pydantic models that read a file, and from the
signatures of calls."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from actors.retry import NO_RETRY
from actors.saga import COMPENSATION_RETRY
from bus.envelope import Priority

DOCS = Path(__file__).parents[2] / "docs"
_WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    Decimal: "number",
    bool: "true / false",
    Any: "JSON",
}


class Row(NamedTuple):
    """One key, as its row begins; the rest is what it means."""

    key: str
    type: str
    default: str
    allowed: str


def sections(page: str) -> dict[str, str]:
    """The text below each heading."""
    parts = re.split(r"^#+ (.+)$", page, flags=re.MULTILINE)
    return {heading.strip("`"): text for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def table(text: str) -> list[list[str]]:
    """The cells of the rows, without the headings."""
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]


def rows_of(text: str) -> list[Row]:
    return [Row(*cells[:4]) for cells in table(text)]


def examples(text: str) -> list[Any]:
    return [yaml.safe_load(found) for found in blocks(text, "yaml")]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run(page: str) -> dict[str, Any]:
    """All that the Python examples of a page define, one after the other."""
    module = types.ModuleType("page")
    for code in blocks(page, "python"):
        exec(compile(code, "page", "exec", dont_inherit=True), module.__dict__)  # noqa: S102  # our own pages
    return module.__dict__


def first_cells(text: str) -> set[str]:
    return {cells[0] for cells in table(text)}


def defaults(text: str) -> dict[str, str]:
    return {cells[0]: cells[1] for cells in table(text)}


def rows_for(model: type[BaseModel]) -> list[Row]:
    """What a model's table begins with."""
    return [
        Row(f"`{field.alias or name}`", _type(field.annotation), _default(field), _allowed(field))
        for name, field in model.model_fields.items()
    ]


def models_below(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A model and all that its fields hold."""
    found = {model}
    for field in model.model_fields.values():
        for part in _parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= models_below(part)
    return found


def _parts(annotation: Any) -> set[Any]:
    inner = [part for argument in typing.get_args(annotation) for part in _parts(argument)]
    return {annotation, *inner} if isinstance(annotation, typing.Hashable) else set(inner)


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(one) for one in arguments if one is not type(None))
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "map" if arguments[1] is Any else f"map of {_type(arguments[1])}"
    assert issubclass(annotation, BaseModel), annotation
    return "map"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "none"
    if isinstance(default, BaseModel):
        return "see below"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int | float):
        return _number(default)
    return f"`{default}`" if default else "empty"


def _allowed(field: FieldInfo) -> str:
    bounds: dict[str, str] = {}
    for one in field.metadata:
        if isinstance(one, annotated_types.Ge | annotated_types.Gt | annotated_types.Le):
            name = type(one).__name__
            bounds[name] = _number(getattr(one, name.lower()))
    if "Gt" in bounds:
        return f"above {bounds['Gt']}" + (f", up to {bounds['Le']}" if "Le" in bounds else "")
    if "Ge" in bounds:
        return f"{bounds['Ge']} to {bounds['Le']}" if "Le" in bounds else f"from {bounds['Ge']}"
    return ""


def _number(number: Any) -> str:
    return str(number) if isinstance(number, int) else f"{number:.15g}"


# -- calls ---------------------------------------------------------------------------------------------

_NAMED = {
    id(NO_RETRY): "NO_RETRY",
    id(COMPENSATION_RETRY): "COMPENSATION_RETRY",
    id(Priority.NORMAL): "Priority.NORMAL",
}


def members(cls: type) -> dict[str, Any]:
    return {name: getattr(cls, name) for name in dir(cls) if not name.startswith("_")}


def shown(name: str, member: Any) -> str:
    """How a row names it: a call as it is written, without annotations."""
    if not inspect.isroutine(member):
        return f"`{name}`"
    given = [each for each in inspect.signature(member).parameters.values() if each.name != "self"]
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_Default(parameter.default))
        if parameter.default is not inspect.Parameter.empty
        else parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in given
    ]
    awaited = "await " if inspect.iscoroutinefunction(inspect.unwrap(member)) else ""
    return f"`{awaited}{name}{inspect.Signature(bare)}`"


class _Default:
    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        return _NAMED.get(id(self._value), repr(self._value))


def names(cells: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cells))


def calls(parts: Iterable[str]) -> dict[str, list[str]]:
    """The cells of all rows of tables, by the first."""
    return {cells[0]: cells for part in parts for cells in table(part)}
