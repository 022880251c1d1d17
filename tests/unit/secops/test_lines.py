"""Reading a log: what is accepted, what is refused and how, and that the digest stays the same."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import pickle
import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from secops import feed
from secops.errors import BinaryInput, EmptyInput, InputError, InputTooLarge, UnreadableInput
from secops.lines import CUT_MARK, MAX_LINE_BYTES, open_log

from bus.errors import CallboardError

TEXT = b"one\r\ntwo\n\nfour"


def read(path: Path | str) -> list[tuple[int, str]]:
    with open_log(path) as log:
        return [(line.number, line.text) for line in log]


def test_plain_and_gzip_read_alike_under_one_digest(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(TEXT)
    # Two members, as a log that was compressed in pieces; the name does not matter.
    (tmp_path / "zipped").write_bytes(gzip.compress(TEXT[:7]) + gzip.compress(TEXT[7:]))
    for name in ("plain", "zipped"):
        with open_log(tmp_path / name) as log:
            assert log.digest == hashlib.sha256(TEXT).hexdigest()
            assert log.size_bytes == len(TEXT)
        assert read(tmp_path / name) == [(1, "one"), (2, "two"), (3, ""), (4, "four")]


@pytest.mark.parametrize("content", [TEXT, gzip.compress(TEXT)], ids=["plain", "gzip"])
def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert [text for _, text in read("-")] == ["one", "two", "", "four"]


def test_a_log_can_be_read_twice(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(TEXT)
    with open_log(tmp_path / "log") as log:
        assert list(log) == list(log)


def test_a_name_that_is_no_text_is_shown_as_some(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"ao\xfbt.log")
    with open(path, "wb") as file:
        file.write(TEXT)
    with open_log(os.fsdecode(path)) as log:
        assert log.name == "ao\ufffdt.log"


def test_invalid_utf8_and_nul_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"a" * 100 + b"\xff\0\xc3\xa9\n" + b"\0" * 500 + b"next\n")
    first, second = read(tmp_path / "log")
    assert first[1] == "a" * 100 + "\ufffd\ufffdé"
    assert second[1].endswith("next")
    assert "\0" not in second[1]


def test_a_log_with_some_nul_comes_to_the_reader(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"before a crash\n" + b"\0" * 500 + b"after it\n")
    feed.check("log", (tmp_path / "log").read_bytes())
    assert [number for number, _ in read(tmp_path / "log")] == [1, 2]


@pytest.mark.parametrize("path", ["auth.log", "auth-iso.log.gz"])
def test_the_beginning_of_a_log_is_taken_for_one(example: Path, path: str) -> None:
    content = (example / "sample" / path).read_bytes()
    for size in (11, 500, 8192):
        feed.check(path, content[:size])


def test_what_is_damaged_is_judged_when_all_of_it_is_read() -> None:
    feed.check("log.gz", b"\x1f\x8b" + b"damaged" * 9)
    feed.check("log", bytes(8192))


def test_unicode_line_separators_do_not_shift_line_numbers(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes("a\u2028b\vc\x85d\n2\n".encode())
    assert [number for number, _ in read(tmp_path / "log")] == [1, 2]


@pytest.mark.parametrize("ending", [b"", b"\n", b"\nnext\n"])
def test_a_very_long_line_is_cut_and_says_so(tmp_path: Path, ending: bytes) -> None:
    (tmp_path / "log").write_bytes(b"x" * 1_000_000 + ending)
    first, *rest = read(tmp_path / "log")
    assert first == (1, "x" * MAX_LINE_BYTES + CUT_MARK)
    assert rest == ([(2, "next")] if b"next" in ending else [])


@pytest.mark.parametrize("extra", [0, 1])
def test_a_line_of_the_greatest_length_is_whole(tmp_path: Path, extra: int) -> None:
    (tmp_path / "log").write_bytes(b"x" * (MAX_LINE_BYTES + extra) + b"\nnext\n")
    first, second = read(tmp_path / "log")
    assert first[1].endswith(CUT_MARK) == bool(extra)
    assert second == (2, "next")


@pytest.mark.parametrize("content", [b"", gzip.compress(b"")], ids=["plain", "gzip"])
def test_an_empty_log_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(EmptyInput, match="log is empty"):
        read(tmp_path / "log")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (random.Random(1).randbytes(4096), "not text"),
        (bytes(4096), "not text"),
        (gzip.compress(random.Random(1).randbytes(4096)), "not text"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\0>\0\x01\0", "not text"),
        (b"PK\x03\x04rest", "zip"),
        (b"\xfd7zXZ\0rest", "xz"),
        (b"LPKSHHRHrest", "journal"),
        ("text".encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_a_binary_file_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    if content.strip(b"\0"):  # NUL alone may be what a crash has left before the first line
        with pytest.raises(BinaryInput, match=told):
            feed.check("log", content)
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(BinaryInput, match=told):
        read(tmp_path / "log")


@pytest.mark.parametrize("path", ["missing", "folder", "nul\0"])
def test_an_unreadable_path_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnreadableInput):
        read(f"{tmp_path}/{path}")


def test_a_forbidden_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    # Not by its mode: root may read everything.
    monkeypatch.setattr("secops.lines.open", forbid, raising=False)
    with pytest.raises(UnreadableInput, match="Permission denied"):
        read("auth.log")


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(random.Random(1).randbytes(1000).hex().encode())
    flipped = whole[:300] + bytes([whole[300] ^ 0xFF]) + whole[301:]
    for content in (whole[:-200], flipped, whole[:4], b"\x1f\x8bnot gzip at all"):
        (tmp_path / "log").write_bytes(content)
        with pytest.raises(UnreadableInput, match=r"Cannot read log: .*Copy or compress it again"):
            read(tmp_path / "log")


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(gzip.compress(b"x" * 3_000_000))
    with pytest.raises(InputTooLarge) as caught, open_log(tmp_path / "log", max_bytes=1_000_000):
        pass
    assert caught.value.limit == 1_000_000


def test_every_input_error_says_what_to_do_and_survives_pickling(tmp_path: Path) -> None:
    with pytest.raises(CallboardError) as caught:
        read(tmp_path / "missing")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (UnreadableInput, str(caught.value))
    assert all(error.fix for error in InputError.__subclasses__())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=500))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log").write_bytes(content)
    try:
        lines = read(tmp_path / "log")
    except InputError:
        return
    assert [number for number, _ in lines] == list(range(1, len(lines) + 1))
    assert not any("\n" in text or "\0" in text for _, text in lines)
