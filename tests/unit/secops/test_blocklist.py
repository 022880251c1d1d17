"""The blocklist: a script that nft would load, each address once, written whole and for its owner alone."""

from __future__ import annotations

import fcntl
import os
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from secops import blocklist
from secops.blocklist import Blocklist, configured
from secops.errors import NotBlocked
from secops.nft import MAX_COMMENT, entry, read, render

AT = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
CALL, OTHER = "019aa5b0-0000-7000-8000-0123456789ab", "019aa5b0-0000-7000-8000-ba9876543210"


@pytest.fixture
def blocked(tmp_path: Path) -> Blocklist:
    return Blocklist(tmp_path / "private" / "blocklist.nft")


def test_the_script_is_one_that_nft_takes() -> None:
    script = render(
        [
            entry("203.0.113.9", 24, AT, CALL, "brute_force high, 94 failures"),
            entry("2001:db8::9", 1, AT, CALL, 'a "quoted" \\ word, and ü\n'),
            entry("203.0.113.10", 1, AT, CALL, "again"),
        ]
    )
    table = script[script.index("table") :]
    assert table == (
        "table inet secops {\n"
        "\tset blocked4 {\n\t\ttype ipv4_addr\n\t\tflags timeout\n\t\telements = {\n"
        '\t\t\t203.0.113.9 timeout 24h comment "until 2026-11-21T08:00:00Z [0123456789ab]: brute_force high, 94 failures",\n'
        '\t\t\t203.0.113.10 timeout 1h comment "until 2026-11-21T08:00:00Z [0123456789ab]: again"\n'
        "\t\t}\n\t}\n"
        "\n"
        "\tset blocked6 {\n\t\ttype ipv6_addr\n\t\tflags timeout\n\t\telements = {\n"
        '\t\t\t2001:db8::9 timeout 1h comment "until 2026-11-21T08:00:00Z [0123456789ab]: a ?quoted? ? word, and ??"\n'
        "\t\t}\n\t}\n"
        "}\n"
    )
    assert "# A timeout counts from the moment of loading." in script
    assert all(line.startswith("#") for line in script[: script.index("table")].splitlines())
    assert "elements" not in render([])  # nft has no empty list


@given(st.text(), st.integers(1, 8760), st.sampled_from(["203.0.113.1", "2001:db8::1", "::ffff:1.2.3.4"]))
def test_whatever_the_words_are_the_script_keeps_its_shape(why: str, hours: int, address: str) -> None:
    made = entry(address, hours, AT, CALL, why)
    script = render([made])
    assert read(script) == [made]
    assert script.isascii()
    (comment,) = re.findall(r'comment "([^"]*)"', script)
    assert len(comment) <= MAX_COMMENT


def test_an_address_stands_there_once_until_its_time_is_over(blocked: Blocklist) -> None:
    first = blocked.add("203.0.113.9", 2, CALL, "first", now=AT)
    assert first.before is None
    later = AT + timedelta(hours=2)
    again = blocked.add("203.0.113.9", 1, OTHER, "later", now=later)
    assert (again.entry.until, again.before) == (later + timedelta(hours=1), None)
    blocked.add("203.0.113.10", 1, CALL, "another", now=later + timedelta(days=1))
    assert [each.address for each in read(blocked.path.read_text()) or ()] == ["203.0.113.10"]


def test_a_block_is_extended_and_never_cut_short(blocked: Blocklist) -> None:
    first = blocked.add("203.0.113.9", 24, CALL, "first", now=AT).entry
    soon = AT + timedelta(hours=1)
    assert blocked.add("203.0.113.9", 2, OTHER, "shorter", now=soon) == (first, first)
    assert blocked.find("203.0.113.9") == first
    longer = blocked.add("203.0.113.9", 24, OTHER, "again", now=soon)
    assert (longer.entry.until, longer.before) == (soon + timedelta(hours=24), first)
    assert read(blocked.path.read_text()) == [longer.entry]


def test_only_its_owner_reads_it(blocked: Blocklist) -> None:
    before = os.umask(0)
    try:
        blocked.add("203.0.113.9", 2, CALL, "why")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in blocked.path.parent.iterdir()}
    assert modes == {"blocklist.nft": 0o600, "blocklist.nft.lock": 0o600}
    assert blocked.path.parent.stat().st_mode & 0o777 == 0o700


def test_many_writers_lose_none_of_theirs(blocked: Blocklist) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: blocked.add(f"203.0.113.{n}", 1, CALL, "why"), range(40)))
    assert len(read(blocked.path.read_text()) or ()) == 40


@pytest.mark.parametrize(
    "content",
    [b"flush ruleset\n", b"\xff\xfe", render([]).replace("secops {", "mine {").encode(), b""],
    ids=["another script", "no text", "edited", "empty"],
)
def test_a_file_that_it_has_not_written_stays_as_it_is(blocked: Blocklist, content: bytes) -> None:
    blocked.path.parent.mkdir()
    blocked.path.write_bytes(content)
    with pytest.raises(NotBlocked):
        blocked.add("203.0.113.9", 2, CALL, "why")
    with pytest.raises(NotBlocked):
        blocked.find("203.0.113.9")
    assert blocked.path.read_bytes() == content


def test_what_keeps_it_from_being_written_is_known_to_have_done_nothing(
    blocked: Blocklist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = blocked.add("203.0.113.9", 2, CALL, "why").entry
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _no_room)
        with pytest.raises(NotBlocked, match="cannot be written: No space left"):
            blocked.add("203.0.113.10", 2, CALL, "why")
    with monkeypatch.context() as patch:
        patch.setattr(blocklist, "MAX_BLOCKED", 1)
        with pytest.raises(NotBlocked, match="holds 1 addresses already"):
            blocked.add("203.0.113.10", 2, CALL, "why")
    with monkeypatch.context() as patch, open(f"{blocked.path}.lock") as other:
        patch.setattr(blocklist, "_LOCK_WITHIN_S", 0.0)
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(NotBlocked, match="Another process holds"):
            blocked.add("203.0.113.10", 2, CALL, "why")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotBlocked, match="cannot be locked"):
        Blocklist(tmp_path / "file" / "blocklist.nft").add("203.0.113.10", 2, CALL, "why")
    assert read(blocked.path.read_text()) == [kept]
    assert len(list(blocked.path.parent.iterdir())) == 2  # no half-written file is left


def _no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_its_place_is_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECOPS_BLOCKLIST", "blocked.nft")
    with pytest.raises(NotBlocked, match="absolute path"):
        configured()
    monkeypatch.delenv("SECOPS_BLOCKLIST")
    monkeypatch.setenv("CALLBOARD_HOME", str(tmp_path))
    assert configured().path == tmp_path / "secops" / "blocklist.nft"
