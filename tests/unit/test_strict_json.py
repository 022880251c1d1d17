"""What pydantic would write with a warning is refused, whatever has been done to the process's filters for warnings."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from pydantic import BaseModel, field_serializer
from pydantic_core import PydanticSerializationError

from bus.strict_json import strict_json


class Count(BaseModel):
    number: int
    word: str = "a"


def written(model: BaseModel) -> str:
    return strict_json(type(model).__pydantic_serializer__, model)


def unfit() -> Count:
    return Count.model_construct(number="many", word="a")


def test_a_model_is_written_as_pydantic_does() -> None:
    assert written(Count(number=3)) == '{"number":3,"word":"a"}'


@pytest.mark.parametrize("action", ["ignore", "always", "default", "once", "error"])
def test_a_value_of_the_wrong_type_is_refused_whatever_filter_somebody_has_put_first(action: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(PydanticSerializationError, match="Expected `int`"):
            written(unfit())
        with pytest.raises(PydanticSerializationError, match="Expected `int`"):
            written(unfit())
    with pytest.raises(PydanticSerializationError, match="Expected `int`"):
        written(unfit())


def test_a_value_of_the_wrong_type_is_refused_when_all_filters_are_gone() -> None:
    with warnings.catch_warnings():
        warnings.resetwarnings()
        with pytest.raises(PydanticSerializationError, match="Expected `int`"):
            written(unfit())
        assert len(warnings.filters) == 1


def test_it_is_the_text_of_the_error_that_pydantic_itself_raises() -> None:
    with pytest.raises(PydanticSerializationError) as ours:
        written(unfit())
    with pytest.raises(PydanticSerializationError) as theirs:
        unfit().__pydantic_serializer__.to_json(unfit(), warnings="error")
    assert str(ours.value) == str(theirs.value)


def test_what_others_write_and_warn_of_is_theirs() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        written(Count(number=1))
        assert unfit().model_dump_json() == '{"number":"many","word":"a"}'
        warnings.warn("of my own", stacklevel=1)
    assert [str(warning.message).splitlines()[0] for warning in seen] == [
        "Pydantic serializer warnings:",
        "of my own",
    ]


def test_what_a_serializer_of_an_author_warns_of_is_no_error() -> None:
    class Shy(BaseModel):
        number: int

        @field_serializer("number")
        def say(self, number: int) -> int:
            warnings.warn("deprecated", stacklevel=2)  # which stands at the caller: here, that is strict_json
            return number

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert written(Shy(number=1)) == '{"number":1}'
    assert [str(warning.message) for warning in seen] == ["deprecated"]
