"""What is wrong with an input file is said before anything is started; a long feed is seen."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from bus.errors import InvalidDomainFile, InvalidPayload, InvalidTask
from callboard.cli import feeding, main
from callboard.cli.feeding_view import progress_line, shown_feeding
from callboard.cli.input_file import read_head, read_json, require_text
from callboard.cli.run import named, run


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "log is empty. Name a file with something in it."),
        (
            bytes(range(256)) * 99,
            "log is not text. Name a text file, or say `binary_input: true` in domain.yaml.",
        ),
        ("text".encode("utf-16"), "log is not text."),
    ],
    ids=["empty", "binary", "utf-16"],
)
def test_a_file_that_cannot_be_taken_in_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(InvalidTask) as caught:
        require_text(str(path), read_head(str(path)) or b"")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"text", "Zoë 監\n".encode(), gzip.compress(b"text")], ids=["plain", "UTF-8", "gzip"]
)
def test_text_is_taken_in_also_compressed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log").write_bytes(content)
    require_text("log", read_head(str(tmp_path / "log")) or b"")


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_what_is_compressed_is_looked_into(compress: Callable[[bytes], bytes]) -> None:
    beginning = compress(bytes(range(256)) * 999 + os.urandom(20_000))[:8192]
    with pytest.raises(InvalidTask, match=r"log\.gz is not text"):
        require_text("log.gz", beginning)
    require_text("log.gz", compress(b"text" * 99))
    require_text("log.gz", beginning[:3])  # too little, or damaged: its reader will say


def test_a_domain_may_want_binary_files(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "domain.yaml").write_text("domain: x\nkinds: []\nbinary_input: true\ninput: hook:feed\n")
    with pytest.raises(
        InvalidDomainFile, match="which agent gets a task"
    ):  # said after the file was looked at
        run(tmp_path, str(tmp_path / "picture"))


def test_a_folder_is_no_file_and_a_missing_one_none_either(tmp_path: Path) -> None:
    with pytest.raises(InvalidTask, match="is a folder"):
        read_head(str(tmp_path))
    with pytest.raises(InvalidTask, match="cannot be read: No such file"):
        read_head(str(tmp_path / "none"))


@pytest.mark.parametrize("text", ["{", "9" * 5_000, "[" * 100_000], ids=["half", "a long number", "deep"])
def test_an_input_that_is_no_json_or_more_than_can_be_read_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "input").write_text(text)
    with pytest.raises(InvalidTask, match="is not JSON: "):
        read_json(str(tmp_path / "input"))


@pytest.mark.parametrize(
    ("given", "said"), [(b"{", "standard input is not JSON: "), (b"\xff", "standard input is not text in")]
)
def test_standard_input_that_is_no_json_is_not_called_by_a_dash(
    monkeypatch: pytest.MonkeyPatch, given: bytes, said: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
    with pytest.raises(InvalidTask, match=f"^{said}"):
        read_json("-")


def test_a_file_whose_name_is_no_text_can_stand_in_a_goal() -> None:
    assert named(os.fsdecode(b"/var/log/ao\xfbt.log")) == "ao\\udcfbt.log"
    assert (named("-"), named(None)) == ("standard input", "input")


def test_nothing_is_taken_out_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert read_head(str(tmp_path / "pipe")) is None  # opening it would wait for a writer


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "is empty"), ("{", "is not JSON"), ("{}\0", "is not text")],
)
def test_run_says_so_and_starts_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    said: str,
) -> None:
    monkeypatch.setenv("CALLBOARD_HOME", str(tmp_path / "home"))
    (tmp_path / "domain.yaml").write_text("domain: x\nkinds: []")
    (tmp_path / "input").write_text(content)
    assert main.invoke(["run", str(tmp_path), "--input", str(tmp_path / "input")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("head", "hook", "said"),
    [
        (
            b"log",
            "checks:refuse",
            "Error: checks:refuse could not take in standard input: ValueError: no log.",
        ),
        (
            b"log",
            "checks:no_such",
            "Error: checks:no_such cannot be imported: AttributeError: module 'checks' has no attribute",
        ),
        (
            b"log",
            "broken:check",
            "Error: broken:check cannot be imported: ZeroDivisionError: division by zero.",
        ),
        (b"log", "leaving:check", "Error: leaving:check cannot be imported: SystemExit: 3."),
        (b"log", "checks:waits", "Error: checks:waits is `async`, and nobody would wait for it."),
        (b"\0\1", None, "Error: standard input is not text."),
        (b"", None, "Error: standard input is empty."),
    ],
)
def test_what_standard_input_begins_with_is_refused_before_anything_is_started(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    head: bytes,
    hook: str | None,
    said: str,
) -> None:
    monkeypatch.setenv("CALLBOARD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(head))))
    (tmp_path / "checks.py").write_text(
        "from callboard import Agent\n"
        "class Only(Agent):\n    kind = 'only'\n"
        "def refuse(path, head):\n    raise ValueError(f'no {head.decode()}')\n"
        "async def waits(path, head):\n    raise ValueError\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "domain.yaml").write_text(
        "domain: x\nkinds:\n  - class: checks:Only\ntasks: {policy: direct, to: only/main}\ninput: checks:feed\n"
        + (f"input_check: {hook}\n" if hook else "")
    )
    assert main.invoke(["run", str(tmp_path), "--input", "-"]) == 1
    assert capsys.readouterr().err.startswith(said)
    assert not (tmp_path / "home").exists()


def test_a_standard_input_that_is_closed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InvalidTask, match="Standard input is closed"):
        read_head("-")


def test_what_was_looked_at_of_standard_input_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b'{"a": "' + b"x" * 9_000 + b'"}')))
    )
    assert (read_head("-") or b"").startswith(b'{"a": "x')
    assert read_json("-") == {"a": "x" * 9_000}


class Line(BaseModel):
    number: int


async def test_what_a_hook_cannot_read_is_said_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hook(path: str, publish: object, task: str) -> dict[str, object]:
        Line.model_validate(json.loads('{"number": "seven"}'))
        return {}

    monkeypatch.setattr(feeding, "load_hook", lambda name: hook)
    with pytest.raises(InvalidTask) as caught:
        await feeding.feed("a:b", "notes", None, "task")  # type: ignore[arg-type]
    assert str(caught.value) == "a:b could not take in notes: number: must be a whole number. Check the file."


@pytest.mark.parametrize("text", [float("nan"), "\0", "\ud800"])
async def test_an_event_that_no_mailbox_can_hold_is_refused_and_not_published(text: object) -> None:
    publisher = feeding.Publisher(None, "x", "task", "default")  # type: ignore[arg-type]
    with pytest.raises(InvalidPayload):
        await publisher("line", {"text": text})
    assert publisher.published == 0


def test_the_progress_of_a_feed_is_one_line() -> None:
    assert progress_line("auth.log", 1, 2.0) == "feeding auth.log: 1 event in 2 s, 0 a second"
    assert (
        progress_line("a\x1b.log", 12_000, 3.0) == "feeding a\\x1b.log: 12,000 events in 3 s, 4,000 a second"
    )


async def test_a_long_feed_is_heard_of_while_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    from callboard.cli import feeding_view

    monkeypatch.setattr(feeding_view, "_SAY_EVERY_S", 0.01)
    said = asyncio.Event()

    def note(line: str) -> None:
        print(line)
        said.set()

    monkeypatch.setattr(feeding_view, "note", note)

    class Publisher:
        acknowledged = 7

    async with asyncio.timeout(5), shown_feeding(Publisher(), "log", live=False):  # type: ignore[arg-type]
        await said.wait()
    assert "feeding log: 7 events" in capsys.readouterr().out
