"""Which line of an author's code holds the event loop, found from outside of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

_THREAD = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+) ", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)

# Where an author's code begins: handlers run under the one, synchronous code in threads under the other.
_ENTRANCES = (("turn.py", "_call"), ("threads.py", "_called"))


class Frame(NamedTuple):
    """One line of a stack; a stack begins with the innermost."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.function} ({self.file.rsplit('/', 1)[-1]}:{self.line})"


def blocker(stacks: Mapping[int, Sequence[Frame]], loop: int) -> str:
    """The author's function that the event loop's thread is in; else one in another thread, which may hold the
    interpreter; else the innermost line of the loop."""
    for stack in (stacks.get(loop, ()), *stacks.values()):
        for inner, frame in pairwise(stack):
            if (frame.file.rsplit("/", 1)[-1], frame.function) in _ENTRANCES:
                return str(inner)
    innermost = stacks.get(loop, ())
    return str(innermost[0]) if innermost else "unknown code"


def read_stacks(dump: str) -> dict[int, list[Frame]]:
    """The stacks by thread, as `faulthandler` writes them."""
    _, *parts = _THREAD.split(dump)
    return {
        int(thread, 16): [Frame(file, int(line), function) for file, line, function in _FRAME.findall(text)]
        for thread, text in zip(parts[::2], parts[1::2], strict=True)
    }
