"""What only newer code of the domain may know is not given up by a host that still runs older code."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from actors.directory import DomainEntry
from callboard import message
from callboard.testing import TestKit
from tests.unit.agents import Keeper, Note


@message("outdated.news.v1")
class News(BaseModel):
    """Nobody here handles it."""

    text: str


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


@pytest.mark.parametrize(("to", "reason"), [("keeper", "no_handler"), ("archivist", "unknown_kind")])
async def test_a_message_that_older_code_cannot_handle_waits_in_its_place_for_newer_code(
    to: str, reason: str
) -> None:
    async with TestKit([Keeper]) as kit:
        kit._scope.is_outdated = yes
        partitions = kit._scope.directory.partitions("test", "keeper")
        kit._scope.directory.replace({"test": DomainEntry(partitions=partitions)})  # newer code has any kind
        await kit.send(f"test/{to}/a", News(text="a"))
        await kit.send(f"test/{to}/a", Note(text="b"))
        await kit.quiet()
        waits, next_one = kit.mailbox(f"test/{to}/a")
        assert (waits.failures, waits.retry_at) == (0, kit.clock.now() + 1)
        assert "waits for a host with newer code" in str(waits.last_error)
        assert next_one.retry_at is None
        await kit.advance(seconds=10)
        assert len(kit.mailbox(f"test/{to}/a")) == 2
        assert kit.dead_letters() == []

        kit._scope.is_outdated = no
        await kit.advance(seconds=1)
        assert {letter.reason for letter in kit.dead_letters()} >= {reason}
        assert kit.mailbox(f"test/{to}/a") == []


async def test_a_payload_that_older_code_cannot_read_waits_and_what_it_can_read_goes_on() -> None:
    async with TestKit([Keeper]) as kit:
        kit._scope.is_outdated = yes
        await kit.send("test/keeper/a", Note(text="a"))
        await kit.send_json("test/keeper/b", "tests.note.v1", '{"text": ["of another shape"]}')
        await kit.quiet()
        assert kit.state("test/keeper/a").notes == ["a"]
        [waits] = kit.mailbox("test/keeper/b")
        assert "waits for a host with newer code" in str(waits.last_error)

        kit._scope.is_outdated = no
        await kit.advance(seconds=1)
        [letter] = kit.dead_letters()
        assert (letter.reason, letter.failures) == ("invalid_payload", 1)


async def test_a_state_of_newer_code_waits_for_a_host_that_has_it() -> None:
    class Newer(Keeper):
        schema_version = 2

    async with TestKit([Newer]) as new:
        await new.send("test/keeper/a", Note(text="a"))
        await new.quiet()
        async with TestKit([Keeper]) as kit:
            kit._scope.is_outdated = yes
            kit.store.agents.states.update(new.store.agents.states)
            await kit.send("test/keeper/a", Note(text="b"))
            await kit.quiet()
            [waits] = kit.mailbox("test/keeper/a")
            assert (waits.failures, kit.dead_letters()) == (0, [])
            assert "waits for a host with newer code" in str(waits.last_error)
