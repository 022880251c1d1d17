"""domain.yaml: what a domain consists of, read strictly."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from actors.agent import Agent, AgentType, agent_type
from actors.code_apart import (
    class_place,
    code_apart,
    enter_code,
    place_of,
    require_free_names,
    require_own_module,
)
from actors.event_spec import EventSpec, Strict, require_plain_word, require_target
from actors.schedule import ScheduleSpec, check_schedules
from actors.targets import check_events, require_kind
from bus.address import parse_address
from bus.errors import CallboardError, InvalidAddress, InvalidDomainFile
from bus.limits import BACKLOG_MESSAGES, CLAIM_CHECK_BYTES, MAILBOX_MESSAGES, PAYLOAD_BYTES
from bus.meant import closest, did_you_mean
from bus.registry import describe_validation, first_line, place_in
from bus.repeated_keys import repeated_keys
from bus.task_limits import TaskLimits
from bus.wire import MAX_PARCEL_BYTES
from storage.code import pack
from storage.release import release

PolicyName = Literal["direct", "least_loaded", "contract_net"]
OnDeadLetter = Literal["keep", "fail"]
"""`keep`: the task is `stuck` until the dead letter is retried or dropped; nothing that was done is lost. `fail`:
the task fails at once. The assignee's own message, which it answers for, fails the task either way, and an ask of which
the asker was told does neither."""
_RESERVED = ("master", "external")
_IMPORT = re.compile(r"[\w.]+:\w+")


def _require_import(value: str, what: str) -> str:
    if not _IMPORT.fullmatch(value):
        raise ValueError(f"write it as module:{what}")
    return value


class KindSpec(Strict):
    """One agent kind: its class as `module:Class`, and the keys of those that may be assigned tasks."""

    class_: str = Field(alias="class")
    members: tuple[str, ...] = ()

    @field_validator("class_")
    @classmethod
    def _is_a_class(cls, value: str) -> str:
        return _require_import(value, "Class")


class TaskSpec(Strict):
    """How tasks are assigned. Times are seconds."""

    policy: PolicyName = "direct"
    to: str | None = None  # direct: kind/key, in which {task} stands for the task's id
    skill: str | None = None  # least_loaded and contract_net: who may take it
    bid_deadline_s: float = Field(default=2.0, gt=0)
    concurrent: int = Field(default=1_000, ge=1)  # so many are under way at once; the others wait
    waiting: int = Field(default=10_000, ge=1)  # past so many, submitting one more is refused
    on_dead_letter: OnDeadLetter = "keep"  # what a dead letter of its work does to a task; see OnDeadLetter
    limits: TaskLimits = TaskLimits()  # of each task that is submitted, but for those that it brings itself
    needs_input: bool = False  # `callboard run` refuses to submit one without --input

    @field_validator("to")
    @classmethod
    def _is_a_target(cls, value: str | None) -> str | None:
        return value if value is None else require_target(value, "{task}")

    @model_validator(mode="after")
    def _fits_policy(self) -> TaskSpec:
        if self.policy != "direct" and not self.skill:
            raise ValueError(f"the policy {self.policy} needs a skill")
        return self


class HostSpec(Strict):
    """How many hosts a domain has, and when it gets more or fewer. Backlogs are messages per host."""

    min: int = Field(default=2, ge=1, le=1024)
    max: int = Field(default=2, ge=1, le=1024)
    grow_above: int = Field(default=5_000, ge=1)
    shrink_below: int = Field(default=100, ge=0)
    cool_down_s: float = Field(default=30.0, ge=0)
    cpus: float = Field(default=0.1, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> HostSpec:
        if self.max < self.min:
            raise ValueError("max is below min")
        return self


class LimitSpec(Strict):
    """Bounds of one host and of one turn; past them the author gets a typed error.

    A message is in a host's cache from its arrival until its turn has committed; what does not fit waits in
    Postgres. The bytes are those of headers and payloads (a large payload counts where it is, in a blob).
    """

    hops: int = Field(default=10_000, ge=1)
    sends_per_turn: int = Field(default=10_000, ge=1)
    turn_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024
    )  # far below Postgres' 1 GiB
    journal_entries: int = Field(default=10_000, ge=1)  # what one turn may record: it is read whole to go on
    journal_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    turn_s: float = Field(default=900.0, gt=0)  # a handler that runs longer is cancelled, and has failed
    claim_check_bytes: int = Field(default=CLAIM_CHECK_BYTES, ge=1024, le=MAX_PARCEL_BYTES)
    payload_bytes: int = Field(default=PAYLOAD_BYTES, ge=1024, le=256 * 1024 * 1024)
    mailbox: int = Field(default=MAILBOX_MESSAGES, ge=1)  # messages; past it nothing is taken in from outside
    backlog: int = Field(
        default=BACKLOG_MESSAGES, ge=1
    )  # the same for all of the domain's mailboxes together
    state_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    cached_messages_per_agent: int = Field(default=256, ge=8)
    cached_bytes_per_agent: int = Field(default=4 * 1024 * 1024, ge=1024)
    cached_messages: int = Field(default=200_000, ge=1_000)
    cached_bytes: int = Field(default=128 * 1024 * 1024, ge=1024 * 1024)
    activations: int = Field(default=60_000, ge=100)
    linger_s: float = Field(default=1.0, ge=0)  # so long a turn that waits stays in memory
    waiting_in_memory: int = Field(default=1_000, ge=0)  # and so many of them do
    idle_s: float = Field(default=300.0, gt=0)
    concurrent_turns: int = Field(default=64, ge=1)
    turns_per_commit: int = Field(default=1_000, ge=1)
    crash_trials: int = Field(default=4, ge=1)


class DomainSpec(Strict):
    """A domain as its file declares it."""

    domain: str
    partitions: int = Field(default=64, ge=1, le=4096)
    code: str = "."
    kinds: tuple[KindSpec, ...]
    events: tuple[EventSpec, ...] = ()
    topics: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    schedules: tuple[ScheduleSpec, ...] = ()
    tasks: TaskSpec = TaskSpec()
    members: dict[str, tuple[str, ...]] = Field(default_factory=dict)  # by skill; filled in by registration
    input: str | None = None  # how `callboard run` feeds a file in, as module:function
    input_check: str | None = None  # what looks at that file's first bytes before, as module:function
    binary_input: bool = False  # whether that file may be no text
    approve: str | None = None  # the written policy of `callboard run --approve policy`, as module:function
    hosts: HostSpec = HostSpec()
    limits: LimitSpec = LimitSpec()

    @field_validator("input", "input_check", "approve")
    @classmethod
    def _is_a_function(cls, value: str | None) -> str | None:
        return value if value is None else _require_import(value, "function")

    @field_validator("domain")
    @classmethod
    def _is_a_word(cls, value: str) -> str:
        if value in _RESERVED:
            raise ValueError(f"{value!r} is a name of Callboard's own")
        return require_plain_word(value, "domain")

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True)

    @classmethod
    def from_json(cls, text: str) -> DomainSpec:
        """What Postgres keeps; raises InvalidDomainFile where another release has written it."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InvalidDomainFile(
                f"Callboard {release()} cannot read the stored domain.yaml: {_unknown_key(error) or describe_validation(error)}.",
                fix="If a newer Callboard has stored it: `callboard down`, and `callboard up` of that one.",
            ) from None


_SECTIONS: dict[str, type[BaseModel]] = {
    "kinds": KindSpec, "events": EventSpec, "schedules": ScheduleSpec, "tasks": TaskSpec, "hosts": HostSpec,
    "limits": LimitSpec,
}  # fmt: skip


class Domain:
    """A domain with its code loaded: the kinds as classes. `folder` is what its files are read from, if there is one."""

    def __init__(self, spec: DomainSpec, kinds: dict[str, AgentType], folder: Path | None = None) -> None:
        self.spec = spec
        self.kinds = kinds
        self.folder = folder
        self.events = {(event.name, event.type): event for event in spec.events}

    @property
    def name(self) -> str:
        return self.spec.domain

    def registered(self) -> DomainSpec:
        """The spec with what coordinators need to know of the code, so that they never import it."""
        skills = sorted({skill for kind in self.kinds.values() for skill in kind.cls.skills})
        members = {skill: tuple(self.members_with(skill)) for skill in skills}
        return self.spec.model_copy(update={"members": members})

    def members_with(self, skill: str) -> list[str]:
        """The agents (`kind/key`) that may be assigned tasks needing the skill."""
        found = []
        # Callboard's own kinds stand behind the domain's, and have no members.
        for kind_spec, kind in zip(self.spec.kinds, self.kinds.values(), strict=False):
            if skill in kind.cls.skills:
                found += [f"{kind.kind}/{member}" for member in kind_spec.members]
        return found


def read_domain(folder: Path) -> DomainSpec:
    """The spec in `folder`/domain.yaml; raises InvalidDomainFile with the place and the reason."""
    path, text = folder / "domain.yaml", ""
    if folder.is_file():
        raise InvalidDomainFile(
            f"{folder} is a file.", fix=f"Give the folder that it is in: {folder.parent}."
        )
    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
    except OSError as error:
        raise InvalidDomainFile(
            f"{path} cannot be read: {error.strerror}.", fix="Name a folder that holds a domain.yaml."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        if (line := _line_with_a_tab(text, error)) is not None:
            raise InvalidDomainFile(f"{path}: line {line} begins with a tab.", fix="Use spaces.") from None
        raise InvalidDomainFile(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    for line, key in repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader)):
        raise InvalidDomainFile(f"{path}: line {line}: {key} stands there twice.", fix="Remove one of them.")
    if not isinstance(data, dict):
        raise InvalidDomainFile(f"{path} holds no mapping.", fix="Start it with `domain: NAME` and `kinds:`.")
    try:
        return DomainSpec.model_validate(data)
    except ValidationError as error:
        words = _unknown_key(error, data) or describe_validation(error, data)
        raise InvalidDomainFile(f"{path}: {words}.") from None
    except CallboardError as error:
        raise InvalidDomainFile(f"{path}: {error.message}", fix=error.fix) from None


def _line_with_a_tab(text: str, error: Exception) -> int | None:
    """The line, from 1, at which the reader has stopped, if a tab indents it."""
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    lines = text.splitlines()
    if mark is None or mark.line >= len(lines) or not lines[mark.line].lstrip(" ").startswith("\t"):
        return None
    return mark.line + 1


def _unknown_key(error: ValidationError, data: Any = None) -> str | None:
    """The first key that is not known, with the one that was meant: a missing one may be this one misspelt."""
    for found in error.errors(include_input=False, include_url=False):
        if found["type"] != "extra_forbidden":
            continue
        *sections, key = (str(part) for part in found["loc"])
        model = _SECTIONS.get(sections[0], DomainSpec) if sections else DomainSpec
        known = [field.alias or name for name, field in model.model_fields.items()]
        meant = closest(key, known)
        return f"{place_in(found['loc'], data)}: is not known" + (
            f" (did you mean {meant}?)" if meant else ""
        )
    return None


def check_domain(
    spec: DomainSpec, folder: Path, *, for_tasks: bool = False, system_kinds: tuple[type[Agent], ...] = ()
) -> None:
    """Raise InvalidDomainFile for what can be found without any service: code that cannot be stored or loaded, targets
    that are no kind, and `for_tasks` also a domain that cannot be given one.
    """
    if for_tasks and spec.tasks.policy == "direct" and spec.tasks.to is None:
        raise InvalidDomainFile(
            f"{folder / 'domain.yaml'} does not say which agent gets a task.",
            fix="Add `tasks: {policy: direct, to: KIND/KEY}`.",
        )
    pack(folder)
    with code_apart():  # what runs is the stored copy of the code
        load_domain(spec, folder, system_kinds=system_kinds)


def load_domain(spec: DomainSpec, folder: Path, *, system_kinds: tuple[type[Agent], ...] = ()) -> Domain:
    """Import the domain's classes, with its code folder on sys.path.

    Raises InvalidDomainFile, also when another domain with code of the same name was loaded in this process.
    """
    code = (folder / spec.code).resolve()
    require_free_names(code, [kind.class_ for kind in spec.kinds])
    enter_code(spec.domain, code)
    kinds: dict[str, AgentType] = {}
    for kind_spec in spec.kinds:
        loaded = _declared(_import_class(spec.domain, kind_spec.class_, code))
        if loaded.kind in kinds:
            raise InvalidDomainFile(f"The domain {spec.domain} declares the kind {loaded.kind!r} twice.")
        kinds[loaded.kind] = loaded
    for cls in system_kinds:
        loaded = agent_type(cls)
        if loaded.kind in kinds:
            raise InvalidDomainFile(f"The kind {loaded.kind!r} is Callboard's own.", fix="Rename yours.")
        kinds[loaded.kind] = loaded
    domain = Domain(spec, kinds, folder.resolve())
    try:
        _check_targets(domain)
    except InvalidDomainFile as error:
        raise InvalidDomainFile(f"{folder / 'domain.yaml'}: {error.message}", fix=error.fix) from None
    return domain


def _check_targets(domain: Domain) -> None:
    spec, kinds = domain.spec, domain.kinds
    check_events(spec.events, kinds)
    if spec.tasks.to is not None:
        require_kind("The tasks go", spec.tasks.to, kinds)
    _check_topics(spec, kinds)
    check_schedules(spec.schedules, kinds, spec.limits.claim_check_bytes)
    _check_assignees(domain)


def _check_topics(spec: DomainSpec, kinds: dict[str, AgentType]) -> None:
    for topic, subscribers in spec.topics.items():
        for agent in subscribers:
            kind, _, key = agent.partition("/")
            if not key or kind not in kinds:
                raise InvalidDomainFile(
                    f"The topic {topic} goes to {agent!r}, which is no kind of the domain."
                )
            try:
                parse_address(f"{spec.domain}/{agent}")
            except InvalidAddress as error:
                raise InvalidDomainFile(f"The topic {topic}: {error.message}") from None


def _check_assignees(domain: Domain) -> None:
    """One that can be no agent could not be written down with a task, and none of the domain's would be assigned."""
    members = {agent for skill in domain.registered().members.values() for agent in skill}
    for agent in sorted(members | ({domain.spec.tasks.to} if domain.spec.tasks.to else set())):
        try:
            parse_address(f"{domain.name}/{agent}")
        except InvalidAddress as error:
            raise InvalidDomainFile(f"A task cannot go to {agent[:60]!r}: {error.message}") from None


def _import_class(domain: str, path: str, code: Path) -> type[Agent]:
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
        require_own_module(domain, module)
        cls = getattr(module, class_name)
    except CallboardError as error:
        place = place_of(error, code)
        raise InvalidDomainFile(f"{place or path} cannot be loaded: {error}") from error
    except (Exception, SystemExit) as error:
        place, words = (
            place_of(error, code),
            error.msg if isinstance(error, SyntaxError) else first_line(error),
        )
        raise InvalidDomainFile(
            f"{path} cannot be imported: {f'{place}: ' if place else ''}{type(error).__name__}: {words}.",
            fix="" if place else f"{_class_meant(error)}Check `code` and `class` in domain.yaml.",
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Agent)):
        raise InvalidDomainFile(f"{path} is not a subclass of Agent.")
    return cls


def _class_meant(error: BaseException) -> str:
    """The agent's class in the module that has been looked into that is most like the one that it does not have."""
    if not (isinstance(error, AttributeError) and isinstance(error.obj, ModuleType) and error.name):
        return ""
    classes = (
        name
        for name, value in vars(error.obj).items()
        if isinstance(value, type) and issubclass(value, Agent)
    )
    meant = did_you_mean(error.name, classes)
    return f"{meant} " if meant else ""


def _declared(cls: type[Agent]) -> AgentType:
    try:
        return agent_type(cls)
    except CallboardError as error:  # of no frame of the author's
        raise InvalidDomainFile(f"{class_place(cls)}: {error.message}", fix=error.fix) from error
    except Exception as error:
        words = f"{type(error).__name__}: {first_line(error)}"
        raise InvalidDomainFile(f"{class_place(cls)}: {words}.", fix="") from error
