"""What authors import from `callboard`: adding or removing a name is a decision, made here too."""

import subprocess
import sys
from inspect import isclass

import callboard
import callboard.testing
from bus import errors

EXPORTED = [
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
    "NotAwaited",
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


def test_the_front_door_hands_on_exactly_these_names() -> None:
    assert callboard.__all__ == EXPORTED
    assert all(hasattr(callboard, name) for name in EXPORTED)


def test_every_error_can_be_imported_from_the_front_door() -> None:
    tree = {
        name for name, thing in vars(errors).items() if isclass(thing) and thing.__module__ == "bus.errors"
    }
    assert tree <= set(callboard.__all__)


def test_the_testing_kit_hands_on_exactly_these_names() -> None:
    assert callboard.testing.__all__ == [
        "DeadMessage",
        "GivenModels",
        "Step",
        "TaskState",
        "TestKit",
        "VirtualClock",
        "WaitingMessage",
    ]


def test_importing_callboard_brings_in_neither_ray_nor_a_driver() -> None:
    heavy = ("ray", "nats", "asyncpg", "callboard.services")
    code = f"import sys, callboard; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.strip() == "[]"
