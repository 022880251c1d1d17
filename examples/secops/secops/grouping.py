"""Groups of sources that behaved alike, which may be one campaign: what is compared, and what the report says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from .behaviour import behaviour
from .finding import Finding
from .rules import plural
from .thresholds import Thresholds
from .verdict import Verdict


class Alike(BaseModel):
    """Sources that behaved alike, and how much: the cosine of the two that are least so."""

    model_config = ConfigDict(frozen=True)

    addresses: tuple[str, ...]
    similarity: float


class Likeness(BaseModel):
    """What comparing has given: None when nobody could, and then `note` says why; else it says who was left out, if any."""

    model_config = ConfigDict(frozen=True)

    alike: tuple[Alike, ...] | None = None
    note: str = ""


NOT_COMPARED = Likeness(note="No model was asked.")


class Group(BaseModel):
    """Sources of a report that may be one campaign, the gravest first. `users` are names that each of them has tried."""

    model_config = ConfigDict(frozen=True)

    addresses: tuple[str, ...]
    similarity: float
    users: tuple[str, ...]
    why: str


def suspicious(findings: Sequence[Finding]) -> list[Finding]:
    return [each for each in findings if each.verdict is not Verdict.CLEAN]


def texts_of(findings: Sequence[Finding], limits: Thresholds) -> dict[str, str]:
    """What each source did, by its address, in the order of the findings."""
    return {each.address: behaviour(each, limits) for each in findings}


def alike(texts: Mapping[str, str], groups: Sequence[tuple[Sequence[int], float]]) -> tuple[Alike, ...]:
    """Return the sources of each group of texts, unless it is one alone. The places are those of the distinct texts."""
    distinct = list(dict.fromkeys(texts.values()))
    found = []
    for places, similarity in groups:
        told = {distinct[place] for place in places}
        addresses = tuple(address for address, text in texts.items() if text in told)
        if len(addresses) > 1:
            found.append(Alike(addresses=addresses, similarity=similarity))
    return tuple(found)


def groups_of(findings: Sequence[Finding], likeness: Likeness) -> tuple[Group, ...] | None:
    """Return the groups with what their sources have in common; None when nobody could compare what there was."""
    if len(suspicious(findings)) < 2:
        return ()
    if likeness.alike is None:
        return None
    by_address = {each.address: each for each in findings}
    return tuple(
        _group([by_address[address] for address in each.addresses], each.similarity)
        for each in likeness.alike
    )


def _group(members: Sequence[Finding], similarity: float) -> Group:
    shared = set(members[0].users).intersection(*(each.users for each in members[1:]))
    users = tuple(user for user in members[0].users if user in shared)
    verdicts = [verdict for verdict in Verdict if any(each.verdict is verdict for each in members)]
    kinds = " and ".join(verdict.replace("_", " ") for verdict in verdicts)
    common = f"{plural(len(users), 'user name')} in common" if users else "no user name in common"
    failures = plural(sum(each.failures for each in members), "failure")
    return Group(
        addresses=tuple(each.address for each in members),
        similarity=similarity,
        users=users,
        why=f"{plural(len(members), 'source')}: {kinds}, {failures}, {common}.",
    )
