"""What is to be known of the functions that authors hand over: plain or `async`, methods, partials, objects that are called."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from types import CodeType
from typing import Any


def is_async(function: Callable[..., Any]) -> bool:
    """As inspect.iscoroutinefunction, which takes as long as all else that a step asks: it is asked only where a thread
    would be next. What stands for another thing, as a method of a remote server, has whatever attribute it is asked for.
    """
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType) and code.co_flags & inspect.CO_COROUTINE:
        return True
    return inspect.iscoroutinefunction(function)


def name_of(function: Callable[..., Any]) -> str:
    """The same in every process: the journal compares it."""
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def hints_of(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Its annotations; None where there are none that can be read."""
    called = function.func if isinstance(function, functools.partial) else function
    try:
        return typing.get_type_hints(called)
    except (NameError, TypeError):  # or a callable object without any
        return None
