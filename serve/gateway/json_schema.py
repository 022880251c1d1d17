"""JSON schemas that clients send: nothing outside them is read, whatever they refer to."""

from __future__ import annotations

from typing import Any

from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

# The library's own would fetch what a `$ref` names, by any URL: also of a file, or of this machine's other servers.
_ITSELF_ALONE: Registry[Any] = Registry()


class UnusableSchema(ValueError):
    """It is a JSON schema, and no value can be held against it; its words are one sentence for people."""


def validator_of(schema: dict[str, Any]) -> type[Validator]:
    """By what it says that it is. Raises ValueError."""
    if not isinstance(schema.get("$schema", ""), str):
        raise ValueError("is no JSON schema, at $schema: it is no text")
    found: type[Validator] = validator_for(schema)
    return found


def misfit(value: Any, schema: dict[str, Any]) -> ValidationError | None:
    """What does not fit best; None where all does. Raises UnusableSchema."""
    try:
        found: ValidationError | None = best_match(
            validator_of(schema)(schema, registry=_ITSELF_ALONE).iter_errors(value)
        )
        return found
    except Unresolvable as error:
        named = repr(error.ref[:200]) if error.ref else "an anchor"
        raise UnusableSchema(f"it refers to {named}, which is not in it.") from None
    except RecursionError:
        raise UnusableSchema("it refers to itself without end.") from None
