"""What blocks an event loop is named by the author's function, also from a dump of another process's stacks."""

from __future__ import annotations

import os
import tempfile
import threading
from faulthandler import dump_traceback

import pytest

from actors.blocker import Frame, blocker, read_stacks
from actors.pulse import Pulse, Vitals

LOOP = 1
OURS = [Frame("/x/actors/turn.py", 150, "_call"), Frame("/x/actors/turn.py", 90, "run")]
IN_THREAD = [Frame("/x/actors/threads.py", 18, "_called"), Frame("/lib/thread.py", 58, "run")]
REGEX = Frame("/lib/re.py", 166, "match")
AUTHOR = Frame("/home/me/agents.py", 42, "on_text")


@pytest.mark.parametrize(
    ("stacks", "found"),
    [
        ({LOOP: [REGEX, AUTHOR, *OURS]}, "on_text (agents.py:42)"),
        ({LOOP: [AUTHOR, *OURS], 2: [REGEX, Frame("/x/b.py", 1, "other"), *IN_THREAD]}, "on_text (agents.py:42)"),
        ({LOOP: [Frame("/lib/select.py", 1, "poll")], 2: [REGEX, AUTHOR, *IN_THREAD]}, "on_text (agents.py:42)"),
        ({LOOP: [Frame("/x/actors/committer.py", 9, "run")]}, "run (committer.py:9)"),
        ({}, "unknown code"),
    ],
)  # fmt: skip
def test_the_authors_function_is_named(stacks: dict[int, list[Frame]], found: str) -> None:
    assert blocker(stacks, LOOP) == found


def test_what_the_interpreter_dumps_can_be_read() -> None:
    with tempfile.TemporaryFile() as file:
        dump_traceback(file, all_threads=True)
        file.seek(0)
        stacks = read_stacks(file.read().decode())
    innermost = stacks[threading.get_ident()][0]
    assert (innermost.function, os.path.basename(innermost.file)) == (
        "test_what_the_interpreter_dumps_can_be_read", "test_blocker.py",
    )  # fmt: skip


def test_a_pulse_is_seen_through_its_file() -> None:
    pulse, file = Pulse.make()
    seen = Pulse(file)
    pulse.ticked, pulse.watched, pulse.vitals = 1.5, 2.5, Vitals(backlog=3, agents=4, turns=2**40)
    pulse.blocker = "x" * 2_000
    assert (seen.ticked, seen.watched, seen.vitals) == (1.5, 2.5, Vitals(backlog=3, agents=4, turns=2**40))
    assert seen.blocker == "x" * 511
    pulse.blocker = "on_text (agents.py:42)"
    assert seen.blocker == "on_text (agents.py:42)"
    pulse.blocker = ""
    assert seen.blocker == ""
    os.close(file)
