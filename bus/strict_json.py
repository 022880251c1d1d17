"""A model as JSON text, with an error where pydantic would write a value of the wrong type and only warn.

`to_json(..., warnings="error")` says the same. It parses that word by a path that raises an exception inside each call:
three times the work of a small model, and a tenth of all that a host can do (pydantic 2.14). A warning that a filter makes
an error costs nothing while there is none.
"""

from __future__ import annotations

import warnings
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, SchemaSerializer

_first: Any = None  # of the process's filters for warnings, as we have put it there


def strict_json(serializer: SchemaSerializer, model: BaseModel) -> str:
    """Raises PydanticSerializationError, also for what was assigned or constructed without validation and does not fit;
    UnicodeError for a lone surrogate."""
    if not warnings.filters or warnings.filters[0] is not _first:
        _put_first()
    try:
        return serializer.to_json(model).decode()
    except UserWarning as unfit:
        raise PydanticSerializationError(str(unfit)) from None


def _put_first() -> None:
    """Only what pydantic itself says of a call in this very module: nobody else's warnings change."""
    global _first
    warnings.filterwarnings(
        "error",
        message="Pydantic serializer warnings",
        category=UserWarning,
        module=__name__.replace(".", r"\."),
    )
    _first = warnings.filters[0]
