"""Feeding: events in order, cut the same way each time, and nothing at all of what is no log."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel
from secops.errors import BinaryInput, EmptyInput, UnreadableInput
from secops.feed import MAX_BYTES, MAX_LINES, batches, feed
from secops.lines import Line
from secops.messages import LogEnded, SshLines

DIGEST = "0" * 64


class Published:
    """Takes the place of `callboard run`'s publisher."""

    def __init__(self) -> None:
        self.events: list[tuple[str, BaseModel, str | None]] = []

    async def __call__(self, name: str, payload: BaseModel, *, key: str | None = None) -> None:
        self.events.append((name, payload, key))


def cut(*texts: str) -> list[SshLines]:
    return list(batches(DIGEST, (Line(number=n, text=text) for n, text in enumerate(texts, 1))))


async def test_a_file_becomes_its_lines_in_order_and_an_end(tmp_path: Path) -> None:
    texts = [f"line {number}" for number in range(1, 251)]
    (tmp_path / "auth.log").write_text("\n".join(texts), "utf-8")
    published = Published()
    given = await feed(str(tmp_path / "auth.log"), published, "t")
    *lines, (_, end, end_key) = published.events
    digest = given["log"]
    assert given == {"log": digest, "name": "auth.log", "lines": 250}
    assert end == LogEnded(log=digest, lines=250)
    assert end_key == f"{digest}:end"
    assert [key for _, _, key in lines] == [f"{digest}:1-100", f"{digest}:101-200", f"{digest}:201-250"]
    assert [text for _, batch, _ in lines if isinstance(batch, SshLines) for text in batch.texts] == texts


async def test_a_file_and_its_gzip_twin_are_the_same_events(tmp_path: Path) -> None:
    content = b"one\ntwo\n" * 300
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "zipped").write_bytes(gzip.compress(content))
    plain, zipped = Published(), Published()
    await feed(str(tmp_path / "plain"), plain, "t")
    await feed(str(tmp_path / "zipped"), zipped, "t")
    assert plain.events == zipped.events


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 50)


def write_damaged(path: Path) -> None:
    path.write_bytes(gzip.compress(b"one\ntwo\n" * 5000)[:-30])


def write_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (write_nothing, EmptyInput),
        (write_binary, BinaryInput),
        (write_damaged, UnreadableInput),
        (write_folder, UnreadableInput),
        (lambda path: None, UnreadableInput),
    ],
)
async def test_what_is_no_log_is_refused_before_anything_is_published(
    make: Callable[[Path], None], error: type[Exception], tmp_path: Path
) -> None:
    make(tmp_path / "log")
    published = Published()
    with pytest.raises(error):
        await feed(str(tmp_path / "log"), published, "t")
    assert published.events == []


def test_events_are_bounded_by_count_and_by_size() -> None:
    assert [len(each.texts) for each in cut(*["x"] * (2 * MAX_LINES + 1))] == [MAX_LINES, MAX_LINES, 1]
    worst = "\x1b" * 8192  # six bytes each as JSON
    for each in cut(*[worst] * 20):
        assert len(json.dumps(each.texts)) < MAX_BYTES + 1024
    assert [each.first for each in cut(worst, worst, worst)] == [1, 3]


def test_no_line_is_lost_between_events() -> None:
    texts = [str(number) * (number % 3000) for number in range(700)]
    events = cut(*texts)
    assert [text for each in events for text in each.texts] == texts
    assert [each.first for each in events[1:]] == [each.first + len(each.texts) for each in events[:-1]]
