"""The functions of a domain that commands call, by their names in domain.yaml: `module:function`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from bus.errors import InvalidDomainFile
from bus.registry import first_line


def load_hook(hook: str) -> Callable[..., Any]:
    """Import it; the domain's code is on the path. Raises InvalidDomainFile, whatever its module raises."""
    module, _, name = hook.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        words = f"{type(error).__name__}: {first_line(error).rstrip('.')}"
        raise InvalidDomainFile(f"{hook} cannot be imported: {words}.") from error
    return function
