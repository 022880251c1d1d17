"""The command line without anything running: help, wrong usage, one clear line for every error."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from bus.errors import ServiceUnavailable
from callboard.cli import main
from callboard.cli.running import exit_code_of

COMMANDS = (
    "run", "up", "down", "status", "tasks", "task", "agents", "agent", "domains", "pause", "resume", "dead-letters",
    "bench", "doctor", "backup", "restore", "retention", "schedules", "gateway", "version",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_HOME", str(tmp_path / "home"))


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert set(COMMANDS) <= set(listed)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.invoke([command, "--help"]) == 0
    assert "Usage: callboard" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "lists"), [([], "bench"), (["bench"], "hops")])
def test_without_a_command_the_help_is_printed_as_it_is(
    words: list[str], lists: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert any(line.split()[:1] == [lists] for line in said.err.splitlines())


def test_the_version_can_be_asked_for_as_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["--version"]) == 0
    assert capsys.readouterr().out.startswith("callboard ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["statsu"],
            "Error: No such command 'statsu'. Did you mean 'status', 'task'? Try `callboard --help`.",
        ),
        (["nope"], "No such command 'nope'. Try `callboard --help`."),
        (["agent"], "Missing argument 'ADDRESS'. Try `callboard agent --help`."),
        (["tasks", "--limit", "0"], "'--limit': must be at least 1. Try `callboard tasks --help`."),
        (["retention"], "Try `callboard retention --help`."),
        (
            ["dead-letters", "retry", "seven"],
            "Invalid value for 'ID': must be a whole number. Try `callboard dead-letters retry --help`.",
        ),
        (["dead-letters", "show", str(2**63)], f"must be at most {2**63 - 1}. Try"),
        (["status", "--nope"], "No such option: --nope. Try `callboard status --help`."),
        (
            ["run", ".", "--approve", "maybe"],
            "'maybe' is not one of 'ask', 'deny', 'policy'. Try `callboard run --help`.",
        ),
        (["run"], "Try `callboard run --help`."),
        (["ledger", "settle", "01a1fcb6"], "Invalid value: Give one of --happened and --not-happened. Try"),
        (
            ["ledger", "settle", "01a1fcb6", "--happened", "--not-happened"],
            "Invalid value: Give one of --happened and --not-happened, not both. Try",
        ),
        (
            ["ledger", "settle", "01a1fcb6", "--not-happened", "--result", "5"],
            "Invalid value for --result: it says what the call has returned: with --happened. Try",
        ),
        (["approve", "01a1fcb6", "--as", ""], "Invalid value for '--as': It is empty. Try"),
        (["deny", "01a1fcb6", "--as", "", "--reason", "x"], "Invalid value for '--as': It is empty. Try"),
        (["deny", "01a1fcb6", "--reason", " "], "Invalid value for '--reason': It is empty. Try"),
        (["promise", "resolve", "01a1fcb6", "--as", " "], "Invalid value for '--as': It is empty. Try"),
        (
            ["ledger", "settle", "01a1fcb6", "--happened", "--as", ""],
            "Invalid value for '--as': It is empty.",
        ),
        (["ledger", "settle", "01a1fcb6", "--happened", "--reason", ""], "for '--reason': It is empty. Try"),
        (["turn", "skip", "x/y/z", "--reason", ""], "Invalid value for '--reason': It is empty. Try"),
        (["turn", "edit", "x/y/z", "key", "--forget", "--reason", ""], "for '--reason': It is empty. Try"),
        (
            ["turn", "edit", "x/y/z", "#1", "--reason", "x"],
            "Invalid value: Give one of --value and --forget. Try",
        ),
        (
            ["turn", "edit", "x/y/z", "#1", "--reason", "x", "--value", "1", "--forget"],
            "Invalid value: Give one of --value and --forget, not both. Try `callboard turn edit --help`.",
        ),
        (
            ["promise", "resolve", "01a1fcb6", "well read"],
            "Invalid value: The value is not JSON: invalid character (byte 0). Quote text twice: '\"yes\"'. Try",
        ),
        (["turn", "edit", "x/y/z", "#1", "--reason", "x", "--value", "{"], "The value is not JSON: "),
        (["ledger", "settle", "01a1fcb6", "--happened", "--result", "{"], "The result is not JSON: "),
        (
            ["run", ".", "--limit", "stps=3"],
            "Invalid value for --limit: 'stps=3' is no limit of a task. Write NAME=NUMBER, with one of",
        ),
        (
            ["run", ".", "--limit", "steps=0"],
            "for --limit: 'steps=0' limits nothing. Give a number above 0. Try `callboard run --help`.",
        ),
        (["deny", "01a1fcb6", "--reason"], "'--reason' requires an argument. Try `callboard deny --help`."),
        (["turn", "skip", "x/y/z", "--reason"], "an argument. Try `callboard turn skip --help`."),
        (["tasks", "--limit"], "an argument. Try `callboard tasks --help`."),
        (["tasks", "fail", "01a1fcb6", "--reason", ""], "Invalid value for '--reason': It is empty. Try"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_right_help_and_exit_code_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert expected in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_where_output_is_not_unicode_what_it_lacks_is_spelled_out(encoding: str, tmp_path: Path) -> None:
    home = tmp_path / "Zoë 監視 🔒"
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "CALLBOARD_HOME": str(home)}
    code = "from callboard.cli.main import main; main()"

    def said(*words: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, env=environment, check=False
        )
        assert ran.stderr == b""
        return ran.stdout.decode(encoding)

    assert json.loads(said("status", "--json"))["home"] == str(home)
    assert "Nothing runs in" in said("status")
    assert said("status").count(r"\u76e3\u8996 \U0001f512") == 1


def test_down_with_nothing_running_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["down"]) == 0
    said = capsys.readouterr()
    assert said.out == "Nothing was running.\n"
    assert said.err == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["agent", "nowhere"], "is not an address"),
        (["agent", "Desk/clerk/1"], "cannot name a domain"),
        (["agents"], "holds no data"),
        (["tasks"], "holds no data"),
        (["task", "1"], "holds no data"),
        (["pause", "desk/clerk/1"], "holds no data"),
        (["dead-letters"], "holds no data"),
        (["dead-letters", "drop", "1"], "holds no data"),
        (["retention", "--months", "3"], "holds no data"),
        (["backup", "/tmp/never-written"], "holds no data"),
        (["run", "/nowhere"], "Name a folder that holds a domain.yaml"),
        (["up", "/nowhere"], "Name a folder that holds a domain.yaml"),
    ],
)
def test_errors_are_one_line_with_a_mend_and_an_exit_code(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(words) == (3 if expected == "holds no data" else 1)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert expected in said.err
    assert said.err.count("\n") == 1


def test_debug_shows_where_an_error_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["agents", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_a_wrong_setting_is_said_without_its_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", "mysql://user:hunter2@host/db")
    assert main.invoke(["status"]) == 1
    said = capsys.readouterr().err
    assert "CALLBOARD_POSTGRES_URL" in said
    assert "hunter2" not in said


def test_status_says_that_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["running"] is False


def test_version_names_what_it_stands_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["version", "--json"]) == 0
    assert {"callboard", "ray", "python"} <= set(json.loads(capsys.readouterr().out))


def test_an_input_that_is_missing_is_said_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "domain.yaml").write_text("domain: x\nkinds: []\n")
    assert main.invoke(["run", str(tmp_path), "--input", str(tmp_path / "none.log")]) == 1
    assert "cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "up"])
@pytest.mark.parametrize(
    ("lines", "code", "said"),
    [
        ("kinds: [{class: nowhere_at_all:A}]\ntasks: {to: a/b}", "", "No module named 'nowhere_at_all'"),
        ("kinds: [{class: NAME:Missing}]\ntasks: {to: a/b}", "", "has no attribute 'Missing'"),
        ("kinds: [{class: NAME:A}]\ntasks: {to: a/b}", "class A(", "SyntaxError"),
        ("kinds: []\ntasks: {to: other/main}", "", "other/main, which is no kind"),
    ],
)
def test_code_that_cannot_be_loaded_is_said_before_anything_starts(
    command: str, lines: str, code: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = tmp_path.name  # Python remembers modules by name
    (tmp_path / "domain.yaml").write_text(f"domain: x\n{lines.replace('NAME', name)}\n")
    (tmp_path / f"{name}.py").write_text(code)
    before = sys.path[:]
    assert main.invoke([command, str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert sys.path == before
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["promise", "resolve", "01a1fcb6", "VALUE"],
        ["ledger", "settle", "01a1fcb6", "--happened", "--result", "VALUE"],
        ["turn", "edit", "x/y/z", "key", "--reason", "why", "--value", "VALUE"],
    ],
)
def test_a_value_that_is_nested_too_deep_is_said(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke([word.replace("VALUE", "[" * 100_000) for word in words]) == 2
    assert "is not JSON: maximum recursion depth exceeded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tasks", "said", "code"),
    [
        ("", "does not say which agent gets a task", 1),
        ("tasks: {to: a/b, needs_input: true}", "Give `--input FILE`", 2),
    ],
)
def test_a_task_that_cannot_be_given_is_said_before_anything_starts(
    tasks: str, said: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "domain.yaml").write_text(f"domain: x\nkinds: []\n{tasks}\n")
    assert main.invoke(["run", str(tmp_path)]) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        (["--goal", "caf\udce9"], "{}", "The goal of a task is not valid Unicode"),
        (["--deadline", "inf"], "{}", "A deadline of inf is no time"),
        ([], '{"x": NaN}', "cannot be written as JSON"),
    ],
)
def test_terms_that_no_task_can_have_are_said_before_anything_starts(
    words: list[str], text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "domain.yaml").write_text("domain: x\nkinds: []\ntasks: {to: a/b}\n")
    (tmp_path / "input.json").write_text(text)
    assert main.invoke(["run", str(tmp_path), "--input", str(tmp_path / "input.json"), *words]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "home").exists()


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ServiceUnavailable("It is away.", fix="Start it."), 3, "Error: It is away. Start it.\n"),
        (ValueError("x"), 1, "Error: ValueError: x. This is a bug in Callboard; --debug shows where.\n"),
        (ServiceUnavailable("bad \x1b[2J"), 3, "Error: bad \\x1b[2J\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x"),
            1,
            "Error: There is no space left at /data/x. Free some, and try again; `callboard doctor` says how much there is.\n",
        ),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (typer.Abort(), 130, "Interrupted.\n"),
    ],
)
def test_each_kind_of_error_has_its_exit_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(lambda: fail(error), debug=False) == code
    assert capsys.readouterr().err == said


def test_help_version_and_an_address_error_need_neither_ray_nor_nats() -> None:
    code = (
        "import sys; from callboard.cli.main import invoke; "
        "[invoke(words) for words in (['--help'], ['version'], ['status'], ['agent', 'x'])]; "
        "print([m for m in ('ray', 'nats', 'aiohttp') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_an_input_without_a_name_is_said_to_be_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "domain.yaml").write_text("domain: x\nkinds: []\ntasks: {to: a/b}\n")
    assert main.invoke(["run", str(tmp_path), "--input", ""]) == 1
    assert capsys.readouterr().err == "Error: --input names no file. Name one, or leave it out.\n"
