"""From a command's coroutine to its exit code."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from callboard.cli.running import TERMINATED, asynchronous, exit_code_of


def test_sigterm_lets_a_command_stop_what_it_started(capsys: pytest.CaptureFixture[str]) -> None:
    stopped = []

    @asynchronous
    async def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    assert exit_code_of(command, debug=False) == TERMINATED == 143
    assert stopped
    assert capsys.readouterr().err == "Terminated.\n"
