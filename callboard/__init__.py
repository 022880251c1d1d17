"""Durable multi-agent collaboration: the names that authors import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.agent import Agent, handler, query
    from actors.approval import ApprovalRequested, Asked, Decision, Ruling
    from actors.context import Context
    from actors.model_calls import ChatAnswer, Model, Ranked, ToolRequest
    from actors.promise import Promise
    from actors.retry import NO_RETRY, RetryPolicy
    from actors.secret import Secret
    from actors.supervision import Directive, Supervision
    from actors.task_messages import CallForBids, TaskWork
    from actors.tool import Happened, NotHappened, Tool, tool
    from bus.address import Address
    from bus.envelope import Priority
    from bus.errors import (
        AlreadySettled,
        ApprovalDenied,
        AskCycle,
        AskFailed,
        BrokenChain,
        CallboardError,
        DataFolderError,
        DeadlineExceeded,
        DecisionError,
        DomainBusy,
        EffectUnknown,
        Fenced,
        HopLimitExceeded,
        InvalidAddress,
        InvalidData,
        InvalidDomainFile,
        InvalidMessage,
        InvalidModelAnswer,
        InvalidModelsFile,
        InvalidPayload,
        InvalidTask,
        InvalidTool,
        JournalFull,
        LimitExceeded,
        MissingSecret,
        ModelFailed,
        ModelUnavailable,
        NoBid,
        NoHandler,
        NonDeterministicHandler,
        NotDone,
        NotEntitled,
        Overloaded,
        PayloadTooLarge,
        PromiseExpired,
        QueryFailed,
        ResultLost,
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
        TaskCancelled,
        TaskError,
        TaskFailed,
        ToolFailed,
        TurnError,
        TurnTimeout,
        UnknownDeadLetter,
        UnknownDomain,
        UnknownKind,
        UnknownMessageType,
        UnknownPromise,
        UnknownTask,
        UnknownVersion,
        WasCancelled,
    )
    from bus.registry import message

__all__ = [
    "NO_RETRY",
    "Address",
    "Agent",
    "AlreadySettled",
    "ApprovalDenied",
    "ApprovalRequested",
    "AskCycle",
    "AskFailed",
    "Asked",
    "BrokenChain",
    "CallForBids",
    "CallboardError",
    "ChatAnswer",
    "Context",
    "DataFolderError",
    "DeadlineExceeded",
    "Decision",
    "DecisionError",
    "Directive",
    "DomainBusy",
    "EffectUnknown",
    "Fenced",
    "Happened",
    "HopLimitExceeded",
    "InvalidAddress",
    "InvalidData",
    "InvalidDomainFile",
    "InvalidMessage",
    "InvalidModelAnswer",
    "InvalidModelsFile",
    "InvalidPayload",
    "InvalidTask",
    "InvalidTool",
    "JournalFull",
    "LimitExceeded",
    "MissingSecret",
    "Model",
    "ModelFailed",
    "ModelUnavailable",
    "NoBid",
    "NoHandler",
    "NonDeterministicHandler",
    "NotDone",
    "NotEntitled",
    "NotHappened",
    "Overloaded",
    "PayloadTooLarge",
    "Priority",
    "Promise",
    "PromiseExpired",
    "QueryFailed",
    "Ranked",
    "ResultLost",
    "RetryPolicy",
    "RowLocked",
    "Ruling",
    "SchemaMismatch",
    "Secret",
    "ServiceError",
    "ServiceUnavailable",
    "ServiceUnsafe",
    "SettingsError",
    "StaleTurn",
    "StepFailed",
    "StorageError",
    "StorageUnavailable",
    "Supervision",
    "TaskCancelled",
    "TaskError",
    "TaskFailed",
    "TaskWork",
    "Tool",
    "ToolFailed",
    "ToolRequest",
    "TurnError",
    "TurnTimeout",
    "UnknownDeadLetter",
    "UnknownDomain",
    "UnknownKind",
    "UnknownMessageType",
    "UnknownPromise",
    "UnknownTask",
    "UnknownVersion",
    "WasCancelled",
    "handler",
    "message",
    "query",
    "tool",
]

# Names are looked up when they are asked for: the command line imports this package too, and starts at once.
_ROOMS = (
    "actors.promise",
    "actors.agent",
    "actors.approval",
    "actors.context",
    "actors.model_calls",
    "actors.retry",
    "actors.secret",
    "actors.supervision",
    "actors.task_messages",
    "actors.tool",
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
