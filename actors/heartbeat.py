"""A host's sign of life, given by a process of its own: what merely blocks the host is reported, and not mistaken
for death."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path

from actors.blocker import Frame, blocker
from actors.heartbeat_process import BEAT_EVERY_S, BLOCKED_AFTER_S
from actors.pulse import Pulse, Vitals
from storage.records import Fence

_logger = logging.getLogger("callboard.heartbeat")

_ROOT = Path(__file__).parents[1]
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from actors.heartbeat_process import main; main()"
_ENDS_WITHIN_S = 1.0
_STARTS_EVERY_S = 1.0  # one that has worked is replaced at once, before its beats are missed
_READ_BYTES = 65_536

# At this signal the process writes its stacks, without the interpreter. No system without such signals has it.
_ASK: int | None = getattr(signal, "SIGRTMIN", None) and signal.SIGRTMIN + 7


@cache
def _stacks() -> int:
    """The file of the whole process to which it writes its stacks. That is never taken back: a signal that comes
    late would end the process."""
    with tempfile.TemporaryFile() as temporary:
        file = os.dup(temporary.fileno())
    if _ASK is not None:
        faulthandler.register(_ASK, file=file, all_threads=True)
    return file


class Heartbeat:
    """Keeps the beating process; calls back into the host's loop with database time, or when the end has come."""

    def __init__(
        self,
        url: str,
        fence: Fence,
        vitals: Callable[[], Vitals],
        on_time: Callable[[float], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._url = url
        self._fence = fence
        self._vitals = vitals
        self._on_time = on_time
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._pulse, self._pulse_file = Pulse.make()
        self._process: subprocess.Popen[bytes] | None = None
        self._next_start = 0.0
        self._rest = ""  # of a line that has not come in whole
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._tick()
        self._pulse.watched = time.monotonic()
        self._watcher.start()
        self._start_process()

    def stop(self) -> None:
        """End the beating; returns when its process is gone."""
        if not self._stop.is_set():
            self._stop.set()
            self._end_process()
            os.close(self._pulse_file)

    # -- the event loop's part ---------------------------------------------------------------------------

    def _tick(self) -> None:
        if not self._stop.is_set():
            self._pulse.vitals = self._vitals()
            self._pulse.ticked = time.monotonic()
            self._loop.call_later(BEAT_EVERY_S / 2, self._tick)

    def _start_process(self) -> None:
        if self._stop.is_set():
            return
        files = self._pulse_file, _stacks()
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _PROGRAM,
                str(_ROOT),
                f"heartbeat of {self._fence.domain} {self._fence.epoch}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=files,
            cwd="/",
        )
        settings = {
            "url": self._url, "domain": self._fence.domain, "epoch": self._fence.epoch, "pid": os.getpid(),
            "loop_thread": self._loop_thread, "pulse": files[0], "stacks": files[1], "ask": _ASK,
        }  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # its end is found where it is read
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.flush()
        self._process, self._rest = process, ""
        self._next_start = time.monotonic() + _STARTS_EVERY_S
        self._loop.add_reader(process.stdout.fileno(), self._hear)

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        self._loop.remove_reader(process.stdout.fileno())
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # at which it ends
        process.stdout.close()
        try:
            process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _hear(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        heard = os.read(self._process.stdout.fileno(), _READ_BYTES)
        if not heard:
            _logger.warning("the process that beats for this host has ended; another one is started")
            self._end_process()
            self._loop.call_later(max(0.0, self._next_start - time.monotonic()), self._start_process)
            return
        *lines, self._rest = (self._rest + heard.decode(errors="replace")).split("\n")
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "offset":
                self._on_time(float(rest) + time.monotonic())
            elif word == "end":
                self._on_end(rest)
                self.stop()
                return

    # -- the watching thread's part ----------------------------------------------------------------------

    def _watch(self) -> None:
        """Name what blocks the event loop, as long as it lets this thread run."""
        blocked = False
        while not self._stop.wait(BEAT_EVERY_S):
            self._pulse.watched = time.monotonic()
            late = time.monotonic() - self._pulse.ticked - BEAT_EVERY_S / 2 > BLOCKED_AFTER_S
            if late and not blocked:
                self._pulse.blocker = where = self._blocker()
                _logger.warning("the event loop is blocked by %s; run it in a thread", where)
            elif blocked and not late:
                self._pulse.blocker = ""
            blocked = late

    def _blocker(self) -> str:
        stack = traceback.extract_stack(sys._current_frames().get(self._loop_thread))
        frames = [Frame(frame.filename, frame.lineno or 0, frame.name) for frame in reversed(stack)]
        return blocker({self._loop_thread: frames}, self._loop_thread)
