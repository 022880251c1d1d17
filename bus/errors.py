"""Every error that Callboard raises, under one base. It has over 400 lines, so that the tree below is whole.

CallboardError
├── InvalidMessage            a message that cannot be made or read
│   ├── UnknownMessageType    no class is registered under that wire name
│   ├── InvalidPayload        the payload does not fit its type
│   ├── PayloadTooLarge       above the hard limit, even for a blob
│   ├── HopLimitExceeded      a chain of messages is longer than allowed
│   └── JournalFull           a turn has recorded as much as it may
├── InvalidAddress            not `domain/kind/key`
├── UnknownDomain             no such domain runs here
├── DomainBusy                the domain has tasks that have not ended
├── UnknownKind               the domain has no agent of that kind
├── NoHandler                 the kind does not handle that message type
├── InvalidDomainFile         domain.yaml is wrong
├── InvalidModelsFile         models.yaml is wrong
├── InvalidTool               a tool is declared wrong
├── SettingsError             a setting is wrong
├── ServiceError              a service cannot be used
│   ├── ServiceUnavailable    it does not answer
│   ├── ServiceUnsafe         it answers, but may lose what it acknowledges
│   └── DataFolderError       the data folder is held by another process, corrupt or unwritable
├── StorageError              Postgres refused or failed
│   ├── StorageUnavailable    the connection failed; whatever was in flight has an unknown outcome
│   │   └── RowLocked         another transaction has held a row for longer than we wait; nothing was written
│   ├── InvalidData           the data itself was refused (SQLSTATE 22 or 23)
│   ├── Fenced                this incarnation no longer owns what it writes
│   ├── StaleTurn             a turn's message or state version is no longer what it was
│   ├── SchemaMismatch        the database's schema is that of another release
│   └── BrokenChain           an agent's history was edited
├── UnknownDeadLetter         no dead letter has that number
├── UnknownVersion            an agent's history has no such version, or no longer
├── QueryFailed               a @query handler raised, or answered with no model
├── DeadlineExceeded          the message's or the task's deadline has passed
├── TurnError                 a turn cannot go on as its handler would have it
│   ├── NonDeterministicHandler  it does something else than when it ran before
│   ├── StepFailed            a step's function failed, and is not tried again
│   ├── ModelFailed           a model has not answered
│   │   ├── ModelUnavailable     the gateway is away or full; it may go better later
│   │   └── InvalidModelAnswer   what it says does not fit what was asked for
│   ├── LimitExceeded         its task has used up one of its limits
│   ├── TurnTimeout           a handler ran longer than its domain allows
│   ├── AskFailed             the agent asked has given the message up, or not answered in time
│   │   └── AskCycle          it waits for the asker itself, directly or through others
│   ├── PromiseExpired        nobody resolved it in time
│   ├── ToolFailed            a tool's call has failed: it did nothing, or may be made again
│   ├── EffectUnknown         a tool's call may have acted, and nobody can tell
│   ├── ResultLost            a tool's call has acted, and its result cannot be kept
│   ├── NotAwaited            a call of the context was begun, and not awaited
│   ├── NotDone               raised by a tool: it has not acted
│   ├── ApprovalDenied        a person has refused it, or nobody has allowed it in time
│   └── MissingSecret         a tool needs a secret that is not there
├── DecisionError             a promise cannot be resolved, or an approval decided
│   ├── UnknownPromise
│   ├── AlreadySettled        somebody else was first, or the time is up
│   └── NotEntitled           whoever decides is not among the approvers, or has asked
├── TaskError                 a task cannot be found, submitted or assigned
│   ├── UnknownTask
│   ├── InvalidTask           its goal, input, priority, deadline or request key cannot be accepted
│   ├── NoBid                 nobody bid for the task before the bid deadline
│   └── TaskFailed            the task ended in failure
│       └── WasCancelled      somebody has cancelled it
├── (TaskCancelled            a BaseException beside this tree, like asyncio.CancelledError)
└── Overloaded                a limit of the edge was reached; try again later

Errors cross process borders (Ray pickles them), so each survives pickling with its fields.
"""

from __future__ import annotations

from typing import Any


class CallboardError(Exception):
    """The base of every error raised by Callboard.

    `message` is one line for people that says what happened; `fix` is one line that says what to do.
    """

    fix: str = ""

    def __init__(self, message: str, *, fix: str | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        if fix is not None:
            self.fix = fix
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.fix, self.fields)

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()


def _rebuild(cls: type[CallboardError], message: str, fix: str, fields: dict[str, Any]) -> CallboardError:
    return cls(message, fix=fix, **fields)


class InvalidMessage(CallboardError):
    """A message that cannot be made or read."""


class UnknownMessageType(InvalidMessage):
    """No class is registered under that wire name."""

    fix = "Declare it with @message in a module that one of the domain's agents imports."


class InvalidPayload(InvalidMessage):
    """The payload does not fit its type."""


class PayloadTooLarge(InvalidMessage):
    """The payload is above the hard limit, even for a blob."""

    fix = "Store it elsewhere and send a reference, or raise `limits.payload_bytes` in domain.yaml."


class HopLimitExceeded(InvalidMessage):
    """A chain of messages is longer than the hop limit."""

    fix = "Look for agents that answer each other for ever, or raise the domain's `limits.hops`."


class JournalFull(InvalidMessage):
    """A turn has recorded so many calls, or so many bytes of them, that it may make no further one."""

    fix = "Split the work into several turns, or raise `limits.journal_entries` or `limits.journal_bytes` in domain.yaml."


class InvalidAddress(CallboardError):
    """Not an address of the form `domain/kind/key`."""

    fix = "Write it as domain/kind/key; domain and kind are lower-case words, the key is any text."


class UnknownDomain(CallboardError):
    """No such domain is known here."""

    fix = "`callboard status` lists the domains; `callboard run DOMAIN_DIR` adds one."


class DomainBusy(CallboardError):
    """The domain has tasks that have not ended, and cannot be removed."""


class UnknownKind(CallboardError):
    """The domain has no agent of that kind."""

    fix = "List the agent's class under `kinds` in domain.yaml."


class NoHandler(CallboardError):
    """The agent kind has no handler for that message type."""

    fix = "Add a method with @handler whose argument has that type."


class InvalidDomainFile(CallboardError):
    """domain.yaml is missing, unreadable or wrong."""


class InvalidModelsFile(CallboardError):
    """models.yaml or vllm.yaml is unreadable or wrong."""


class InvalidTool(CallboardError):
    """A tool is declared wrong."""


class SettingsError(CallboardError):
    """A setting is wrong."""


class ServiceError(CallboardError):
    """A service that Callboard needs cannot be used."""


class ServiceUnavailable(ServiceError):
    """The service does not answer."""


class ServiceUnsafe(ServiceError):
    """The service answers, but may lose what it has acknowledged."""


class DataFolderError(ServiceError):
    """The data folder is held by another process, corrupt or unwritable."""


class StorageError(CallboardError):
    """Postgres refused or failed."""


class StorageUnavailable(StorageError):
    """The connection failed; whatever was in flight has an unknown outcome."""

    fix = "Check that Postgres runs: `callboard doctor`."


class RowLocked(StorageUnavailable):
    """Another transaction has held a row for longer than we wait for it; nothing was written."""


class InvalidData(StorageError):
    """Postgres refused the data itself (SQLSTATE class 22, 23 or 54)."""


class Fenced(StorageError):
    """This incarnation no longer owns what it tried to write; nothing was written."""


class StaleTurn(StorageError):
    """A turn's message or state version is no longer what it was; nothing was written."""


class SchemaMismatch(StorageError):
    """The database's schema is not the one that this release is written for; trying again does not help."""

    fix = "Run one release of Callboard everywhere: `callboard down`, then `callboard up` with the newest."


class BrokenChain(StorageError):
    """An agent's stored history does not hash to what its chain says."""

    fix = "Somebody edited the history; compare with a backup."


class UnknownDeadLetter(CallboardError):
    """No dead letter has that number."""

    fix = "`callboard dead-letters` lists them."


class UnknownVersion(CallboardError):
    """The agent's history has no such version: it has not come to it, or retention has dropped it."""


class QueryFailed(CallboardError):
    """A @query handler raised an error, or answered with something that is no pydantic model."""

    fix = "Mend the handler; a query changes nothing, so it can be asked again."


class DeadlineExceeded(CallboardError):
    """The deadline has passed: of the message being handled (`deadline`), of a task, or of a query."""


class TurnError(CallboardError):
    """A turn that waits cannot go on as its handler would have it."""


class NonDeterministicHandler(TurnError):
    """A handler that runs again does something else than its journal says; `called` and `recorded` name both. Of an approval
    `differs` says in which details."""

    fix = "Put what depends on time, chance or the outside into a step; once the code is mended, resume the agent."


class StepFailed(TurnError):
    """A step's function failed, and its retry policy allows no further try; `place` is its key in the journal."""


class ModelFailed(TurnError):
    """A model has not answered, and is not asked again; `place` is the request's key in the journal."""


class ModelUnavailable(ModelFailed):
    """The gateway is away or full; it may go better later."""


class InvalidModelAnswer(ModelFailed):
    """What the model says does not fit what was asked for; `answer` is its text."""


class LimitExceeded(TurnError):
    """The task that the turn works for has used more than it may; `limit`, `used` and `allowed` say what.

    Raised by what would go on using it: steps, calls, waits and messages. Reports to the task still pass.
    """

    fix = "Submit the task with higher limits, or raise `tasks.limits` in domain.yaml."


class TurnTimeout(TurnError):
    """A turn has run longer than its domain allows."""

    fix = "Split the work, or raise `limits.turn_s` in domain.yaml."


class AskFailed(TurnError):
    """The agent asked has given the message up, or not answered in time; `reason` says which: `failed` or `timeout`."""


class AskCycle(AskFailed):
    """The agent asked waits for the asker, directly or through others; `cycle` has their addresses in order.

    It begins and ends with the agent whose ask was refused, the newest of those that wait for each other.
    """

    fix = "Send a message instead of asking, or ask from an agent that nobody in the cycle waits for."


class PromiseExpired(TurnError):
    """Nobody resolved the promise in time."""


class ToolFailed(TurnError):
    """A tool's call has failed and is not tried again; `place` is its key in the journal."""


class EffectUnknown(TurnError):
    """A tool's call may have acted, and nobody can tell: it is not made again."""

    fix = "Look at the world outside: its tool says that nobody is asked (on_unknown='fail'); `callboard ledger settle` takes what you find."


class ResultLost(TurnError):
    """A tool's call has acted, and its result cannot be kept."""

    fix = "Let the tool return less; the call is not made again."


class NotAwaited(TurnError):
    """A handler has ended that called something of its context without `await`."""


class NotDone(TurnError):
    """Raised by a tool to say that it has not acted, and never will: the call has failed, and may be made again."""


class ApprovalDenied(TurnError):
    """A person has refused it, or nobody has allowed it in time; `decision` says who and when."""


class MissingSecret(TurnError):
    """A tool needs a secret that is not there."""


class DecisionError(CallboardError):
    """A promise cannot be resolved, or an approval decided."""


class UnknownPromise(DecisionError):
    """No promise has that id."""

    fix = "`callboard approvals` lists what waits for a decision."


class AlreadySettled(DecisionError):
    """Somebody else was first, or the time is up; `status`, `by` and `at` say which."""


class NotEntitled(DecisionError):
    """Whoever decides is not among the approvers, or asks for their own approval."""


class TaskError(CallboardError):
    """A task cannot be found, submitted or assigned."""


class UnknownTask(TaskError):
    """No task has that id."""

    fix = "`callboard tasks` lists them."


class InvalidTask(TaskError):
    """What was submitted cannot be a task."""


class NoBid(TaskError):
    """Nobody bid for the task before the bid deadline."""


class TaskFailed(TaskError):
    """The task ended in failure."""


class WasCancelled(TaskFailed):
    """Somebody has cancelled the task that is awaited: who waits for it is not to start it anew."""


class TaskCancelled(BaseException):
    """Raised where a handler waits, or does something new, when the task that it works for was cancelled.

    It is beside the other errors, so that `except Exception` does not swallow it; a handler that does all the same can
    still do nothing new, and its turn ends as cancelled.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Overloaded(CallboardError):
    """A limit at the edge was reached."""

    fix = "Try again after `retry_after_s` seconds."
