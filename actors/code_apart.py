"""Code of several domains in one process: their modules and messages may have the same names."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

from bus.errors import InvalidDomainFile
from bus.registry import forget_messages

OWN_PACKAGES = frozenset({"actors", "bus", "callboard", "coordinators", "pipelines", "serve", "storage"})
"""Callboard's own, in every process that a domain's code is imported into."""
_HOME = Path(__file__).resolve().parents[1]  # where they lie

_owners: dict[Path, str] = {}  # the code folders of domains that were loaded, and their domains


@contextmanager
def code_apart() -> Iterator[None]:
    """Forget at the end which domains' code was imported inside; libraries that it has imported stay."""
    path, modules, owners = sys.path[:], set(sys.modules), dict(_owners)
    try:
        yield
    finally:
        sys.path[:] = path
        folders = _owners.keys() - owners.keys()
        of_domains = {
            name
            for name, module in list(sys.modules.items())
            if name not in modules and any(_lies_in(module, folder) for folder in folders)
        }
        for name in of_domains:
            del sys.modules[name]
        forget_messages(of_domains)
        _owners.clear()
        _owners.update(owners)


def enter_code(domain: str, folder: Path) -> None:
    """Put a domain's code folder on sys.path. What was there before is everybody's."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        _owners[folder] = domain
    elif folder in _owners:
        _owners[folder] = domain


def require_free_names(code: Path, paths: Iterable[str]) -> None:
    """Raise InvalidDomainFile where a module of the domain has the name of a package of Callboard's: one of `paths`
    (`module:Class`), or one in the code folder, which would stand before Callboard's on the path."""
    used = {path.partition(":")[0].partition(".")[0] for path in paths}
    for name in sorted(OWN_PACKAGES):
        module = code / f"{name}.py", code / name / "__init__.py"
        if name in used or (code != _HOME and any(file.is_file() for file in module)):
            raise InvalidDomainFile(
                f"`{name}` is a package of Callboard's.", fix="Name the domain's module otherwise."
            )


def require_own_module(domain: str, module: ModuleType) -> None:
    """Raise InvalidDomainFile for a module that was imported under this name for another domain."""
    others = {owner for folder, owner in _owners.items() if _lies_in(module, folder)} - {domain}
    mine = any(_lies_in(module, folder) for folder, owner in _owners.items() if owner == domain)
    if others and not mine:
        raise InvalidDomainFile(
            f"The domains {domain} and {others.pop()} both have code of the name {module.__name__!r}, which one process"
            " cannot tell apart.",
            fix="Rename the package or module of one of them.",
        )


def place_of(error: BaseException, folder: Path) -> str | None:
    """`file:line` of the last line of the code in `folder` that has led to the error; of a syntax error, its own."""
    places = [(frame.filename, frame.lineno) for frame in extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        places.append((error.filename, error.lineno))
    return next((f"{name}:{line}" for name, line in reversed(places) if _is_within(name, folder)), None)


def class_place(cls: type) -> str:
    """`file:line` of a class, or its name where it has no source."""
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return cls.__qualname__


def _lies_in(module: ModuleType, folder: Path) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(place is not None and _is_within(place, folder) for place in places)


def _is_within(place: str, folder: Path) -> bool:
    return Path(place).resolve().is_relative_to(folder)
