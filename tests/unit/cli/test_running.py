"""From a command's coroutine to its exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from callboard.cli.running import INTERRUPTED, TERMINATED, asynchronous, exit_code_of


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


def test_a_second_signal_does_not_keep_a_command_from_stopping_what_it_started(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopped = []

    @asynchronous
    async def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0)
            stopped.append(True)

    assert exit_code_of(command, debug=False) == INTERRUPTED == 130
    assert stopped
    assert capsys.readouterr().err == "It is being stopped. Once more leaves it as it is.\nInterrupted.\n"


def test_the_third_ends_it_at_once() -> None:
    stopped = []

    @asynchronous
    async def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            stopped.append(True)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert exit_code_of(command, debug=False) == INTERRUPTED
    assert not stopped
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_reads_what_nobody_writes_can_be_ended(number: int, code: int) -> None:
    script = (
        "import asyncio, sys\n"
        "from callboard.cli.running import asynchronous, exit_code_of, leave\n"
        "@asynchronous\n"
        "async def command():\n"
        "    await asyncio.to_thread(lambda: (print('reading', flush=True), sys.stdin.read()))\n"
        "leave(exit_code_of(command, debug=False))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline() == "reading\n"
            process.send_signal(number)
            assert process.wait(20) == code  # its standard input is open all the time
            assert process.stderr.read() == {130: "Interrupted.\n", 143: "Terminated.\n"}[code]
        finally:
            process.kill()
