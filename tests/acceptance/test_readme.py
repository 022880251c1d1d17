"""What the README shows is what happens: its first agent runs, its test passes, its commands exist."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from callboard.cli.main import app
from callboard.testing import GivenModels, TestKit
from serve.gateway import parse_models
from serve.gateway.models_file import DEFAULT, CacheSpec
from tests.acceptance.program import Program

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    """The one fenced block of a language that holds a text."""
    found = [
        text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in text
    ]
    assert len(found) == 1, f"{len(found)} {language} blocks hold {containing!r}"
    return str(found[0])


@pytest.fixture
def hello(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The README's first domain, written as it says."""
    folder = tmp_path / "hello"
    folder.mkdir()
    (folder / "domain.yaml").write_text(block("yaml", "domain: hello"))
    (folder / "greeter.py").write_text(block("python", "class Greeter"))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "greeter", raising=False)
    return folder


def test_the_first_agent_is_as_short_as_promised(hello: Path) -> None:
    lines = (hello / "greeter.py").read_text().splitlines()
    assert sum(1 for line in lines if line.strip()) <= 20


def test_the_test_of_the_first_agent_passes(hello: Path) -> None:
    names: dict[str, Any] = {}
    exec(compile(block("python", "TestKit"), "README.md", "exec"), names)  # noqa: S102  # our own README
    asyncio.run(names["test_the_greeter_counts"]())


def test_the_first_agent_runs_and_keeps_its_count(program: Program, hello: Path) -> None:
    given = hello.parent / "name.json"
    given.write_text('{"name": "Ada"}')
    first = program("run", hello, "--input", given, "--json")
    assert json.loads(first.stdout) == {"greeting": "Hello Ada, you are number 1."}
    second = program("run", hello, "--input", given, "--json")
    assert json.loads(second.stdout) == {"greeting": "Hello Ada, you are number 2."}
    agent = json.loads(program("agent", "hello/greeter/main", "--json").stdout)
    assert agent["state"] == {"greetings": 2}
    past = json.loads(program("agent", "hello/greeter/main", "--at", "1", "--json").stdout)
    assert past["state"] == {"greetings": 1}
    assert "callboard.task.v1" in program("agent", "hello/greeter/main", "--timeline").stdout
    task = json.loads(program("tasks", "--json").stdout)["tasks"][0]["id"]
    assert "greeter/main  callboard.task.v1" in program("task", task, "--timeline").stdout
    assert json.loads(program("verify", "--json").stdout)["intact"] is True


async def test_the_book_is_written_in_tasks_of_its_own_and_waits_for_its_proofs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "domain.yaml").write_text(block("yaml", "domain: book"))
    (tmp_path / "author.py").write_text(block("python", "class Author"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "author", raising=False)
    async with TestKit(tmp_path) as kit:
        task = await kit.give_task("book/author/main", input=["a fox", "an owl"])
        await kit.quiet()
        assert [row.parent for row in kit.store.tasks.children.values()] == [f"book/{task}"] * 2
        [promise] = [
            row.made.id for row in kit.store.waits.promises.rows.values() if row.made.name == "proofs"
        ]
        assert await kit.resolve(f"book/author/main#{promise}", "well written")
        await kit.quiet()
        assert kit.task(task).result == {
            "chapters": [f"Once upon a time there was {title}." for title in ("a fox", "an owl")],
            "remark": "well written",
        }


def test_the_publisher_gives_work_to_an_agent(program: Program) -> None:
    example = ROOT / "examples" / "alerts"
    assert (example / "domain.yaml").read_text().endswith(block("yaml", "domain: alerts"))
    assert (example / "publish.py").read_text() == block("python", "import nats")
    script = block("sh", "NATS_URL").replace("up --detach", "up --detach --without-gateway")
    before, _, after = script.partition("callboard agent ")
    assert (
        "nats pub -J" in after
    )  # no part of the installation; tests/integration/test_cli_events.py says the same in NATS' own words
    assert "is stored" in program.shell(before, cwd=ROOT)
    while (
        state := json.loads(program("agent", "alerts/incident/checkout", "--json").stdout)["state"]
    ) is None:
        pass  # each look takes a moment, and the whole test has a limit
    assert state == {"alerts": 1, "last": "error rate above 5%"}


def test_the_first_request_to_the_gateway_needs_no_models_yaml() -> None:
    [model] = re.findall(r'model="(.*?)"', block("python", "from openai"))
    assert parse_models(DEFAULT).models[model].serves == "embeddings"


async def test_the_tool_waits_for_alice() -> None:
    names: dict[str, Any] = {}
    exec(compile(block("python", "@tool("), "README.md", "exec"), names)  # noqa: S102  # our own README
    async with TestKit([names["Responder"]], secrets={"FIREWALL": "hush"}) as kit:
        task = await kit.give_task("test/responder/r", input={"address": "203.0.113.99"})
        await kit.quiet()
        [asked] = kit.approvals()
        assert not await kit.approve(asked.id, by="bob")
        assert await kit.approve(asked.id, by="alice")
        await kit.quiet()
        assert kit.task(task).result == {"receipt": "203.0.113.99 is blocked for 60 minutes"}


def test_the_models_yaml_is_read() -> None:
    found = parse_models(block("yaml", "upstreams:"))
    assert [target.upstream for target in found.models["small"].targets] == ["openai", "claude"]
    for name, kept in parse_models(DEFAULT).models.items():  # a file replaces the default one
        assert (found.models[name].serves, found.models[name].targets[0].model) == (
            kept.serves, kept.targets[0].model
        )  # fmt: skip
    upstreams = "upstreams: {openai: {type: openai, api_key: OPENAI_API_KEY}}\nmodels:\n"
    assert len(parse_models(upstreams + block("yaml", "rules:")).models["small"].rules) == 2
    assert parse_models(block("yaml", "cache:")).cache == CacheSpec()  # what holds where nothing is said


def test_the_agent_that_asks_models_has_its_answers() -> None:
    names: dict[str, Any] = {"__name__": "triage"}
    exec(compile(block("python", "class Triage"), "README.md", "exec", dont_inherit=True), names)  # noqa: S102  # as above

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "embeddings":
            return {"data": [{"index": 0, "embedding": [0.0, 1.0]}]}
        if path == "rerank":
            return {"results": [{"index": 1, "relevance_score": 0.8}, {"index": 0, "relevance_score": 0.1}]}
        said = '{"hostile": true, "why": "x"}' if "response_format" in body else "Five failures."
        return {"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}

    async def judge() -> list[Any]:
        async with TestKit([names["Triage"]], domain="soc", models=GivenModels(answer)) as kit:
            await kit.send("soc/triage/a", names["Alert"](text="Failed password for root"))
            await kit.quiet()
            return [step.notes for step in kit.history("soc/triage/a")]

    assert asyncio.run(judge()) == [
        [{"decision": "judged", "hostile": True, "said": "Five failures.", "length": 2, "book": 1}]
    ]


def test_every_command_of_the_readme_exists() -> None:
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    table = README.split("## The commands")[1].split("##")[0]
    named = {
        word
        for cell in re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
        for word in re.findall(r"`([a-z-]+)", cell)
    }
    assert named
    assert named <= commands
    shell = "".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    used = set(re.findall(r"callboard ([a-z-]+)", shell))
    assert used
    assert used <= commands


def test_what_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
