"""The error tree: as drawn, and whole after a journey through pickle. The driver's errors become ours."""

from __future__ import annotations

import inspect
import pickle
import re

import asyncpg
import pytest

from bus import errors
from bus.errors import (
    CallboardError,
    Fenced,
    InvalidData,
    Overloaded,
    RowLocked,
    SchemaMismatch,
    StaleTurn,
    StorageError,
    StorageUnavailable,
)
from storage.boundary import translate, translated

TREE = [
    cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, CallboardError)
]  # fmt: skip


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_every_error_survives_pickling_with_its_fields_and_its_message(cls: type[CallboardError]) -> None:
    error = cls("It broke.", fix="Mend it.", version=7, names=["a"])
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert (copy.message, copy.fix, str(copy)) == ("It broke.", "Mend it.", "It broke. Mend it.")
    assert (copy.version, copy.names) == (7, ["a"])
    plain = pickle.loads(pickle.dumps(cls("It broke.")))
    assert (plain.fix, str(plain)) == (cls.fix, str(cls("It broke.")))


def test_an_unknown_field_is_an_attribute_error() -> None:
    error = Overloaded("Too much.", retry_after_s=5)
    assert error.retry_after_s == 5
    with pytest.raises(AttributeError):
        _ = error.something_else


def test_the_tree_is_as_it_is_drawn() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = ["CallboardError"]
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([│ ]*)[├└]── (\w+)", line)
        if found:
            depth = len(found[1]) // 4 + 1
            drawn[found[2]] = above[depth - 1]
            above[depth:] = [found[2]]
    real = {cls.__name__: cls.__bases__[0].__name__ for cls in TREE if cls is not CallboardError}
    assert drawn == real


# -- the driver's errors -----------------------------------------------------------------------------


def driver_errors() -> list[type[Exception]]:
    found = [
        cls for cls in vars(asyncpg.exceptions).values()
        if inspect.isclass(cls) and issubclass(cls, Exception) and not issubclass(cls, Warning)
    ]  # fmt: skip
    assert len(found) > 200
    return found


@pytest.mark.parametrize("cls", driver_errors(), ids=lambda cls: cls.__name__)
def test_no_error_of_the_driver_passes_the_boundary(cls: type[Exception]) -> None:
    error = cls("something broke.\nDETAIL: more")
    with pytest.raises(StorageError) as caught, translated():
        raise error
    assert caught.value.__cause__ is error
    assert "\n" not in caught.value.message
    assert not caught.value.message.endswith("..")


@pytest.mark.parametrize(
    ("cls", "ours"),
    [
        (asyncpg.UniqueViolationError, InvalidData),
        (asyncpg.CharacterNotInRepertoireError, InvalidData),
        (asyncpg.InvalidTextRepresentationError, InvalidData),
        (asyncpg.DataError, InvalidData),
        (asyncpg.ProgramLimitExceededError, InvalidData),
        (asyncpg.QueryCanceledError, StorageUnavailable),
        (asyncpg.AdminShutdownError, StorageUnavailable),
        (asyncpg.CrashShutdownError, StorageUnavailable),
        (asyncpg.CannotConnectNowError, StorageUnavailable),
        (asyncpg.TooManyConnectionsError, StorageUnavailable),
        (asyncpg.DiskFullError, StorageUnavailable),
        (asyncpg.LockNotAvailableError, RowLocked),
        (asyncpg.DeadlockDetectedError, StorageUnavailable),
        (asyncpg.SerializationError, StorageUnavailable),
        (asyncpg.ConnectionDoesNotExistError, StorageUnavailable),
        (asyncpg.ReadOnlySQLTransactionError, StorageUnavailable),
        (asyncpg.DataCorruptedError, StorageUnavailable),
        (asyncpg.UndefinedFunctionError, SchemaMismatch),
        (asyncpg.UndefinedTableError, SchemaMismatch),
        (asyncpg.UndefinedColumnError, SchemaMismatch),
        (asyncpg.InsufficientPrivilegeError, StorageError),
    ],
)
def test_each_kind_of_trouble_has_its_error(
    cls: type[asyncpg.PostgresError], ours: type[StorageError]
) -> None:
    assert type(translate(cls("no"))) is ours


@pytest.mark.parametrize(("state", "ours"), [("CB001", Fenced), ("CB002", StaleTurn)])
def test_our_own_signals_are_told_apart(state: str, ours: type[StorageError]) -> None:
    error = asyncpg.PostgresError.new(
        {"S": "ERROR", "C": state, "M": "epoch 7 of shop no longer owns all of {0}"}
    )
    assert type(translate(error)) is ours


@pytest.mark.parametrize(
    "error",
    [TimeoutError(), ConnectionResetError("reset"), OSError(111, "refused"), EOFError(),
     asyncpg.InterfaceError("connection is closed"), asyncpg.InternalClientError("confused")],
)  # fmt: skip
def test_a_connection_that_failed_leaves_the_outcome_unknown(error: Exception) -> None:
    with pytest.raises(StorageUnavailable), translated():
        raise error


def test_an_error_that_is_not_the_drivers_passes_as_it_is() -> None:
    with pytest.raises(KeyError), translated():
        raise KeyError("ours")
