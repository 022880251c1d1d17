"""Who uses an instance, across processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from callboard.services import Home, Users
from callboard.services.lock import held

USER = """
import asyncio, sys, time
from pathlib import Path
from callboard.services import Home, Users
users = Users(Home(Path(sys.argv[1])))
async def join():
    async with users.alone(print):
        users.join()
        print("joined", flush=True)
        time.sleep(float(sys.argv[2]))
asyncio.run(join())
print("not alone", flush=True)
time.sleep(60)
"""


def user(home: Path, *, alone_s: float = 0) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(home), str(alone_s)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "joined\n"
    return process


async def test_a_user_that_is_killed_is_none_any_more(tmp_path: Path) -> None:
    users, said = Users(Home(tmp_path)), list[str]()
    with user(tmp_path) as other:
        assert other.stdout is not None
        other.stdout.readline()
        async with users.alone(said.append):
            users.join()
            assert not users.leave()
            users.join()
            other.kill()
            other.wait()
            assert users.leave()
    assert said == []


async def test_who_comes_while_another_starts_waits_and_says_so(tmp_path: Path) -> None:
    users, said, waits = Users(Home(tmp_path)), list[str](), asyncio.Event()

    def say(line: str) -> None:
        said.append(line)
        waits.set()

    async def join() -> None:
        async with users.alone(say):
            users.join()
            assert users.leave()

    with user(tmp_path, alone_s=60) as other:
        coming = asyncio.create_task(join())
        async with asyncio.timeout(10):
            await waits.wait()
        assert not coming.done()
        assert held(tmp_path / "start.lock")
        other.kill()
        async with asyncio.timeout(10):
            await coming
    assert said == ["waiting for another command, which starts or stops Callboard"]
