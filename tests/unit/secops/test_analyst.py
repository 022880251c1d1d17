"""Sources that behaved alike, with a played model: the same groups whatever happens, and a report in any case."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from secops.agents import reporter
from secops.policy import Grouping
from secops.rulebook import POLICY

from actors.models import Json
from bus.errors import ModelFailed, ModelUnavailable
from callboard.testing import GivenModels
from tests.unit.secops.triage_run import EXAMPLE, SAMPLE, Triage, proposals, reference, task_id

ONE, TWO, THREE = (task_id(number) for number in (1, 2, 3))
KINDS = ("brute force", "enumeration", "probing", "got in")
ALIKE = [
    ["203.0.113.45", "2001:db8:51a:1::9", "2001:db8:bad::17", "192.0.2.9"],
    [f"198.51.100.{n}" for n in (32, 38, 56, 62, 74, 20, 26, 44, 50, 68)] + ["192.0.2.210"],
]


def embeddings(vectors: list[list[float]]) -> Json:
    return {
        "data": [{"index": n, "embedding": each} for n, each in enumerate(vectors)],
        "usage": {"prompt_tokens": len(vectors), "total_tokens": len(vectors)},
    }


def by_kind(path: str, body: Json) -> Json:
    """A model for which two texts are alike that tell of the same kind of thing, and else have nothing in common."""
    assert path == "embeddings"
    return embeddings([[float(kind in text) for kind in KINDS] for text in body["input"]])


def texts(models: GivenModels) -> list[str]:
    return [text for request in models.requests for text in request.body["input"]]


def addresses(report: Json) -> list[list[str]]:
    return [group["addresses"] for group in report["groups"]]


def grouping(monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    assert POLICY.grouping is not None
    changed = POLICY.grouping.model_copy(update=more)
    monkeypatch.setattr(reporter, "POLICY", POLICY.model_copy(update={"grouping": changed}))


async def test_the_report_says_which_sources_behaved_alike() -> None:
    models = GivenModels(by_kind)
    async with Triage(models=models) as triage:
        await triage.run(SAMPLE, ONE)
        report = triage.report(ONE)
        assert addresses(report) == ALIKE
        assert report | {"groups": None} == reference(SAMPLE)  # all else is what it was
        assert [(each["similarity"], each["users"]) for each in report["groups"]] == [(1.0, []), (1.0, [])]
        [result] = triage.completions(ONE)
        assert result["groups_note"] == ""
        assert "- **Groups** of sources that behaved alike: 2\n" in result["markdown"]
        assert triage.kit.dead_letters() == []
    [request] = models.requests
    assert request.body["model"] == "all-MiniLM-L6-v2"
    assert request.timeout_s is not None
    assert 0 < request.timeout_s <= 60
    told = texts(models)
    assert len(told) == len(set(told)) > 5  # what several did is embedded once
    assert not any(each["address"] in text for each in report["addresses"] for text in told)


async def test_a_second_task_and_the_twin_of_a_log_have_the_same_groups() -> None:
    models = GivenModels(by_kind)
    async with Triage(models=models) as triage:
        await triage.run(SAMPLE, ONE, TWO)
        assert triage.report(ONE) == triage.report(TWO)
        assert addresses(triage.report(TWO)) == ALIKE
        assert len(models.requests) == 1  # the analyst knows it
        await triage.run(EXAMPLE / "sample" / "auth-iso.log.gz", THREE)
        assert triage.report(THREE)["groups"] == triage.report(ONE)["groups"]
        assert len(models.requests) == 2  # another log, which has an analyst of its own


@pytest.mark.parametrize("seed", range(4))
async def test_hosts_killed_at_any_moment_change_no_group(seed: int) -> None:
    models = GivenModels(by_kind)
    async with Triage(models=models) as triage:
        crashes = asyncio.create_task(triage.crash_at_random(seed, times=12))
        for task in (ONE, TWO):
            await triage.submit(task, await triage.feed(SAMPLE, task))
        assert await crashes > 0, "no crash hit a host at work: the run proves nothing"
        await triage.kit.advance(minutes=5)
        await triage.decided()
        assert triage.report(ONE) == triage.report(TWO)
        assert addresses(triage.report(ONE)) == ALIKE
        assert triage.kit.dead_letters() == []


async def test_a_host_that_dies_with_some_answers_on_record_asks_for_the_others_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grouping(monkeypatch, texts=4)
    arrived, dead = asyncio.Event(), asyncio.Event()
    answered: list[str] = []

    async def answer(path: str, body: Json) -> Json:
        if len(answered) == 1 and not dead.is_set():
            arrived.set()
            await asyncio.Event().wait()
        answered.append(body["input"][0])
        return by_kind(path, body)

    models = GivenModels(answer)
    async with Triage(models=models) as triage:
        await triage.submit(ONE, await triage.feed(SAMPLE, ONE))
        await arrived.wait()
        async with asyncio.timeout(20):
            while not recorded(triage):  # noqa: ASYNC110  # rows in memory, changed by a host's commit
                await asyncio.sleep(0)
        for host in range(2):
            await triage.kit.crash(host)
        dead.set()
        await triage.kit.recover()
        await triage.decided()
        assert addresses(triage.report(ONE)) == ALIKE
    assert len(answered) == len(set(answered)) > 2


def recorded(triage: Triage) -> bool:
    """Whether an answer of the model is in a turn's journal."""
    return any(entry.kind == "model" for turn in triage.kit.store.waits.journal.values() for entry in turn)


def away(path: str, body: Json) -> Json:
    raise ModelUnavailable("No model gateway was started here.", fix="Start one with `callboard up`.")


def unknown(path: str, body: Json) -> Json:
    raise ModelFailed("There is no model all-MiniLM-L6-v2 here.")


def short(path: str, body: Json) -> Json:
    return embeddings([[1.0]] * (len(body["input"]) - 1))


def uneven(path: str, body: Json) -> Json:
    return embeddings([[1.0] * (n + 1) for n in range(len(body["input"]))])


def nothing(path: str, body: Json) -> Json:
    return embeddings([[0.0, 0.0]] * len(body["input"]))


def wrong(path: str, body: Json) -> Json:
    return {"choices": []}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (away, "with `callboard up`. The next task on this log asks again."),
        (unknown, "There is no model all-MiniLM-L6-v2 here."),
        (short, "vectors."),
        (uneven, "several lengths"),
        (nothing, "no length"),
        (wrong, "cannot be read as embeddings"),
    ],
)
async def test_without_a_model_the_report_is_as_ever_and_says_why(
    answer: Callable[[str, Json], Json], why: str
) -> None:
    models = GivenModels(answer)
    async with Triage(models=models) as triage:
        await triage.run(SAMPLE, ONE)
        assert triage.report(ONE) == reference(SAMPLE)
        [result] = triage.completions(ONE)
        assert result["groups"] is None
        assert why in result["groups_note"]
        [line] = [each for each in result["markdown"].splitlines() if "**Groups**" in each]
        assert line.startswith("- **Groups** not looked for: ")
        assert triage.kit.dead_letters() == []
    assert len(models.requests) == 1  # and it is not waited for


async def test_what_could_not_be_compared_is_compared_by_the_next_task() -> None:
    answers = [away]
    models = GivenModels(lambda path, body: (answers.pop() if answers else by_kind)(path, body))
    async with Triage(models=models) as triage:
        await triage.run(SAMPLE, ONE)
        await triage.run(SAMPLE, TWO)
        assert triage.report(ONE)["groups"] is None
        assert addresses(triage.report(TWO)) == ALIKE


async def test_other_settings_have_the_sources_compared_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    models = GivenModels(by_kind)
    async with Triage(models=models) as triage:
        await triage.run(SAMPLE, ONE)
        grouping(monkeypatch, model="another")
        await triage.run(SAMPLE, TWO)
        assert triage.report(ONE) == triage.report(TWO)
    assert [request.body["model"] for request in models.requests] == ["all-MiniLM-L6-v2", "another"]


async def test_of_too_many_sources_the_gravest_are_compared_a_few_in_each_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grouping(monkeypatch, sources=8, texts=2)
    models = GivenModels(by_kind)
    async with Triage(models=models) as triage:
        await triage.run(SAMPLE, ONE)
        gravest = [each["address"] for each in proposals(SAMPLE)["addresses"][:8]]
        expected = [[address for address in group if address in gravest] for group in ALIKE]
        assert addresses(triage.report(ONE)) == expected
        [result] = triage.completions(ONE)
        assert result["groups_note"] == "Of 17 sources the 8 gravest were compared."
        assert result["groups_note"] in result["markdown"]
    assert [len(request.body["input"]) for request in models.requests] == [2, 2, 2, 1]


async def test_a_policy_without_a_model_asks_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "POLICY", POLICY.model_copy(update={"grouping": None}))
    models = GivenModels(by_kind)
    async with Triage(models=models) as triage:
        await triage.run(SAMPLE, ONE)
        assert triage.report(ONE) == reference(SAMPLE)
        assert triage.completions(ONE)[0]["groups_note"] == "policy.yaml names no model for it."
    assert models.requests == []


async def test_an_analyst_that_does_not_answer_holds_up_no_block_and_the_report_for_a_minute_and_a_half(
    blocklist: Path,
) -> None:
    models = GivenModels(by_kind)
    async with Triage(models=models) as triage:
        given = await triage.feed(SAMPLE, ONE)
        await triage.kit.pause(f"secops/analyst/{given['log']}")
        await triage.submit(ONE, given)
        await triage.decided()
        assert "203.0.113.45" in blocklist.read_text()  # noqa: ASYNC240  # a file of a few lines
        assert triage.completions(ONE) == []
        await triage.kit.advance(seconds=91)
        assert triage.report(ONE) == reference(SAMPLE)
        assert json.dumps(triage.completions(ONE)[0]["groups_note"]) != '""'
    assert models.requests == []


async def test_a_task_with_a_deadline_is_done_in_time_without_its_groups() -> None:
    async with Triage(models=GivenModels(by_kind)) as triage:
        given = await triage.feed(SAMPLE, ONE)
        await triage.kit.pause(f"secops/analyst/{given['log']}")
        await triage.submit(ONE, given, deadline=triage.kit._scope.clock.now() + 20)
        await triage.decided()
        await triage.kit.advance(seconds=11)
        assert triage.report(ONE) == reference(SAMPLE)


def test_the_written_policy_has_bounds_for_it() -> None:
    assert (
        Grouping(model="all-MiniLM-L6-v2", similarity=0.85, sources=200, texts=64, within_s=60)
        == POLICY.grouping
    )
