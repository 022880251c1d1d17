"""Durable multi-agent collaboration: the names that authors import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.agent import Agent, handler, query
    from actors.calls import Promise
    from actors.context import Context
    from actors.retry import NO_RETRY, RetryPolicy
    from actors.supervision import Directive, Supervision
    from actors.task_messages import CallForBids, TaskWork
    from bus.address import Address
    from bus.envelope import Priority
    from bus.errors import (
        AskCycle,
        AskFailed,
        BrokenChain,
        CallboardError,
        DataFolderError,
        DeadlineExceeded,
        DomainBusy,
        Fenced,
        HopLimitExceeded,
        InvalidAddress,
        InvalidData,
        InvalidDomainFile,
        InvalidMessage,
        InvalidPayload,
        InvalidTask,
        NoBid,
        NoHandler,
        NonDeterministicHandler,
        Overloaded,
        PayloadTooLarge,
        PromiseExpired,
        QueryFailed,
        RowLocked,
        SchemaMismatch,
        ServiceError,
        ServiceUnavailable,
        ServiceUnsafe,
        SettingsError,
        StaleTurn,
        StepFailed,
        StorageError,
        StorageUnavailable,
        TaskError,
        TaskFailed,
        TurnError,
        TurnTimeout,
        UnknownDeadLetter,
        UnknownDomain,
        UnknownKind,
        UnknownMessageType,
        UnknownTask,
        UnknownVersion,
    )
    from bus.registry import message

__all__ = [
    "NO_RETRY",
    "Address",
    "Agent",
    "AskCycle",
    "AskFailed",
    "BrokenChain",
    "CallForBids",
    "CallboardError",
    "Context",
    "DataFolderError",
    "DeadlineExceeded",
    "Directive",
    "DomainBusy",
    "Fenced",
    "HopLimitExceeded",
    "InvalidAddress",
    "InvalidData",
    "InvalidDomainFile",
    "InvalidMessage",
    "InvalidPayload",
    "InvalidTask",
    "NoBid",
    "NoHandler",
    "NonDeterministicHandler",
    "Overloaded",
    "PayloadTooLarge",
    "Priority",
    "Promise",
    "PromiseExpired",
    "QueryFailed",
    "RetryPolicy",
    "RowLocked",
    "SchemaMismatch",
    "ServiceError",
    "ServiceUnavailable",
    "ServiceUnsafe",
    "SettingsError",
    "StaleTurn",
    "StepFailed",
    "StorageError",
    "StorageUnavailable",
    "Supervision",
    "TaskError",
    "TaskFailed",
    "TaskWork",
    "TurnError",
    "TurnTimeout",
    "UnknownDeadLetter",
    "UnknownDomain",
    "UnknownKind",
    "UnknownMessageType",
    "UnknownTask",
    "UnknownVersion",
    "handler",
    "message",
    "query",
]

# Names are looked up when they are asked for: the command line imports this package too, and starts at once.
_ROOMS = (
    "actors.calls",
    "actors.agent",
    "actors.context",
    "actors.retry",
    "actors.supervision",
    "actors.task_messages",
    "bus.address",
    "bus.envelope",
    "bus.errors",
    "bus.registry",
)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in __all__:
        for room in map(import_module, _ROOMS):
            if hasattr(room, name):
                globals()[name] = getattr(room, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
