"""What waits for somebody's word: the question on one line, who may answer it, and the command that does."""

from __future__ import annotations

import getpass
import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from callboard.cli.terminal import clean, count, plain

if TYPE_CHECKING:
    from rich.text import Text

    from storage.decisions import Waiting

MOST = 5  # questions that are named; the list has all
_INDENT = "  "
_WHO = 3  # of those who may answer


def login_name() -> str:
    try:
        return getpass.getuser().encode(errors="replace").decode()  # a name may be no text
    except (OSError, KeyError):  # an account without a name, as in a container
        return "operator"


def operator() -> str:
    """Who gives a command, as histories name the sender of what is from outside."""
    return f"external/{login_name()}"


def asked_lines(promises: Sequence[Waiting], most: int = MOST) -> list[Text]:
    """Each question with the commands that answer it, to be typed as they stand."""
    lines = []
    for promise in promises[:most]:
        lines.append(plain(waits_text(promise), "yellow"))
        lines += [plain(f"{_INDENT}{command}") for command in command_lines(promise)]
    if (more := len(promises) - most) > 0:
        lines.append(plain(f"and {count(more, 'more question')}: `callboard approvals`", "yellow"))
    return lines


def show_asked(out: Any, promises: Sequence[Waiting], most: int = MOST) -> None:
    """Print them; a command stays one line, so that it can be copied."""
    for line in asked_lines(promises, most):
        out.print(line, soft_wrap=line.plain.startswith(_INDENT))


def waits_text(promise: Waiting) -> str:
    """What is waited for, and of whom, on one line."""
    if promise.kind == "promise":
        return clean(f"waits for the promise {promise.name}, of {promise.domain}/{promise.agent}")
    return clean(f"waits for {_whom(promise)}: {_question(promise)}")


def command_lines(promise: Waiting) -> list[str]:
    """Where only agents may approve, people can deny all the same."""
    if promise.kind == "promise":
        return [f"callboard promise resolve {promise.id} JSON"]
    if promise.kind == "outcome":
        return [f"callboard ledger settle {promise.id} --happened", "  or --not-happened"]
    deny = f"callboard deny {promise.id} --reason WHY"
    return [f"callboard approve {promise.id}{_as(promise)}", deny] if is_for_people(promise) else [deny]


def is_for_people(promise: Waiting) -> bool:
    """Whether anybody but an agent may approve: agents stand among the approvers by their addresses."""
    approvers = _approvers(promise)
    return not approvers or any("/" not in name for name in approvers)


def _approvers(promise: Waiting) -> list[str]:
    named: list[str] = json.loads(promise.details or "{}").get("approvers", [])
    return named


def _whom(promise: Waiting) -> str:
    named = _approvers(promise)
    if not named:
        return "a person"
    shown = named[:_WHO]
    if len(named) > len(shown):
        return f"{', '.join(shown)} or {len(named) - len(shown)} more"
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _as(promise: Waiting) -> str:
    """The option that names somebody who may approve, where whoever has logged in may not."""
    people = [name for name in _approvers(promise) if "/" not in name]
    return "" if not people or login_name() in people else f" --as {shlex.quote(people[0])}"


def _question(promise: Waiting) -> str:
    asked: dict[str, Any] = json.loads(promise.details or "{}")
    if promise.kind == "outcome":
        why = f" ({asked['why']})" if asked.get("why") else ""
        question, details = f"has the call of {asked['tool']} acted? Nobody knows{why}", asked["arguments"]
    else:
        question, details = asked["action"], asked["details"]
    return f"{question}: {_words(details)}" if details not in ({}, None) else question


def _words(details: Any) -> str:
    if not isinstance(details, dict):
        return json.dumps(details, ensure_ascii=False)
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in details.items()
    )
