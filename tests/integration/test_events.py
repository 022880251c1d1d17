"""Events from JetStream: each one is accepted or a dead letter, in stream order, whatever it looks like."""

from __future__ import annotations

import asyncio
import json
import secrets
import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from bus.errors import PayloadTooLarge, ServiceUnavailable, UnknownDomain
from bus.event import MSG_ID_HEADER, TASK_HEADER, TENANT_HEADER, Event
from bus.event_reader import EventReader
from bus.events import EventStream
from bus.nats import NatsTransport
from callboard.services import Endpoints
from coordinators.tasks.front import Submission
from coordinators.tasks.remote import submit_over_nats
from tests.integration.cli import DESK, until
from tests.integration.deployment import Deployment

SOON_S = 20.0


@pytest.fixture
async def transport(services: Endpoints) -> AsyncIterator[NatsTransport]:
    transport = await NatsTransport.connect(services.nats_url, name="test")
    yield transport
    await transport.close()


@pytest.fixture
async def stream(transport: NatsTransport) -> EventStream:
    stream = EventStream(transport)
    await stream.ensure()
    return stream


@pytest.fixture
def domain() -> str:
    """Of this test alone: the stream is shared."""
    return f"d{secrets.token_hex(6)}"


async def read(reader: EventReader, count: int) -> list[Event]:
    """So many events, in as many fetches as it takes: each returns what has come by then."""
    found: list[Event] = []
    while len(found) < count:
        more = await reader.fetch(count - len(found), timeout_s=SOON_S)
        assert more, f"{len(found)} of {count} events have come"
        found += more
    return found


async def test_an_event_whose_name_has_a_dot_is_refused_since_nobody_would_read_it(
    stream: EventStream, domain: str
) -> None:
    with pytest.raises(ServiceUnavailable):
        await stream.publish(domain, "order.created", b"1")
    await stream.publish(domain, "order-created", b"2")
    await stream.publish(domain, "note", b"3")
    assert sorted(subject for subject in await stream.subjects() if domain in subject) == [
        f"callboard.events.{domain}.note", f"callboard.events.{domain}.order-created",
    ]  # fmt: skip


async def test_an_event_that_is_too_large_for_nats_is_said_to_be(stream: EventStream, domain: str) -> None:
    most = 1024 * 1024
    for size, headers in ((2 * most, {}), (most, {"Note": "ü"})):
        with pytest.raises(PayloadTooLarge, match=f"{size} bytes is too large for NATS, which takes {most} "):
            await stream.publish(domain, "note", b"x" * size, headers=headers)
    as_large_as_can_be = b"x" * (most - len("NATS/1.0\r\nNote: ü\r\n\r\n".encode()))
    await stream.publish(domain, "note", as_large_as_can_be, headers={"Note": "ü"})
    await stream.publish(domain, "note", b"x" * most)


async def test_a_request_that_is_too_large_for_nats_is_said_to_be(transport: NatsTransport) -> None:
    with pytest.raises(PayloadTooLarge, match="too large for NATS"):
        await submit_over_nats(transport, "desk", Submission(goal="go", input="x" * 2 * 1024 * 1024))


async def test_a_reader_takes_nothing_from_the_one_that_replaced_it(stream: EventStream, domain: str) -> None:
    """A host that was frozen while its partition went to another one still has its reader."""
    zombie = await stream.reader(domain, 0)
    owner = await stream.reader(domain, 0)
    for number in range(6):
        await stream.publish(domain, "note", str(number).encode())
    await zombie.fetch(3, timeout_s=0.5)
    found = await read(owner, 6)
    assert [event.data for event in found] == [str(number).encode() for number in range(6)]
    await zombie.close()
    await owner.close()


async def test_events_that_were_delivered_and_did_not_arrive_are_read_again(
    stream: EventStream, transport: NatsTransport, domain: str
) -> None:
    """As when a connection breaks in the middle of a delivery."""
    reader = await stream.reader(domain, 0)
    numbers = [await stream.publish(domain, "note", b"x") for _ in range(6)]
    arrived = await read(reader, 2)
    elsewhere = await transport.client.subscribe(transport.client.new_inbox())
    await transport.client.publish(
        f"$JS.API.CONSUMER.MSG.NEXT.CALLBOARD_EVENTS.{reader._consumer}", b"1", reply=elsewhere.subject
    )
    lost = await elsewhere.next_msg(timeout=SOON_S)
    assert lost.metadata.sequence.stream == numbers[2]
    with pytest.raises(ServiceUnavailable, match="lost"):
        await reader.fetch(10, timeout_s=SOON_S)
    await reader.close()
    successor = await stream.reader(domain, arrived[-1].seq)
    found = await read(successor, 4)
    assert [event.seq for event in (*arrived, *found)] == numbers
    await successor.close()


async def test_a_reader_whose_consumer_is_gone_ends(
    stream: EventStream, transport: NatsTransport, domain: str
) -> None:
    reader = await stream.reader(domain, 0)
    await transport.client.jetstream().delete_consumer("CALLBOARD_EVENTS", reader._consumer)
    with pytest.raises(ServiceUnavailable, match="ended a reader"):
        await reader.fetch(10, timeout_s=SOON_S)
    await reader.close()


@pytest.mark.parametrize("status", ["404", "408", "409", "503", "100"])
async def test_an_event_with_a_header_named_status_is_an_event(
    stream: EventStream, domain: str, status: str
) -> None:
    reader = await stream.reader(domain, 0)
    await stream.publish(domain, "note", b"odd", headers={"Status": status})
    await stream.publish(domain, "note", b"plain")
    found = await read(reader, 2)
    assert [event.data for event in found] == [b"odd", b"plain"]
    await reader.close()


async def say(url: str, *lines: bytes) -> None:
    """Speak to the server as no client library would; returns when it has heard all of it."""
    to = urlsplit(url)
    reader, writer = await asyncio.open_connection(to.hostname, to.port)
    login = {"verbose": False, "headers": True, "user": to.username, "pass": to.password}
    for line in (b"CONNECT " + json.dumps(login).encode(), *lines, b"PING"):
        writer.write(line + b"\r\n")
    async with asyncio.timeout(SOON_S):
        while not (await reader.readline()).startswith(b"PONG"):
            pass
    writer.close()


@pytest.mark.parametrize(
    "publish",
    [
        (b"PUB callboard.events.%s.b\xffd 3", b"odd"),
        (b"HPUB callboard.events.%s.note 1 4", b"Xodd"),
    ],
    ids=["subject", "headers"],
)
async def test_an_event_that_the_client_library_cannot_read_keeps_no_other_from_coming(
    stream: EventStream, services: Endpoints, domain: str, publish: tuple[bytes, bytes]
) -> None:
    reader = await stream.reader(domain, 0)
    await say(services.nats_url, publish[0] % domain.encode(), publish[1])
    await stream.publish(domain, "note", b"plain")
    found = await read(reader, 2)
    assert [event.data for event in found] == [b"odd", b"plain"]
    await reader.close()


@pytest.fixture
async def desk(services: Endpoints, database: str) -> AsyncIterator[Deployment]:
    async with Deployment.open(DESK, database, services.nats_url) as desk:
        yield desk


async def test_odd_events_end_as_dead_letters_and_the_next_one_is_handled(
    desk: Deployment, stream: EventStream
) -> None:
    await desk.coordinate()
    key, task = secrets.token_hex(4), str(uuid.uuid4())

    def note(task: str, **more: object) -> bytes:
        return json.dumps({"task": task, "number": 1, "text": "x", **more}).encode()

    long = secrets.token_hex(2_000)
    odd = [
        (note(long), {}),  # no agent can have so long a key: Postgres could not index it
        (note(""), {}),
        (note("a")[:-1] + b', "more": ' + b"9" * 5_000 + b"}", {}),  # Python reads no such number
        (note("a"), {TASK_HEADER: "a\0b"}),
        (note("a"), {TASK_HEADER: "desk/123"}),
        (note("a") + b"\xff", {}),
    ]
    for data, headers in odd:
        await stream.publish("desk", "note", data, headers=headers)
    await stream.publish("desk", "note", note(f"id{key}"), message_id=long)
    await stream.publish("desk", "note", note(f"id{key}"), headers={MSG_ID_HEADER: f"{key}\0"})
    await stream.publish("desk", "notice", note(f"all{key}"), headers={TASK_HEADER: task})
    await stream.publish("desk", "note", note(f"last{key}"))
    mine = "select state ->> 'notes' from agents where agent = $1"
    assert await until(lambda: desk.fetch(mine, f"clerk/last{key}")) == [('["x"]',)]
    await until(lambda: desk.fetch(f"{mine} and state ->> 'notes' = $2", f"clerk/id{key}", '["x","x"]'))
    header = "select body::jsonb #> '{message,header}' from transitions where agent = $1"
    [(of_all,)] = await until(lambda: desk.fetch(header, f"clerk/all{key}"))
    assert json.loads(of_all).items() >= {"task": f"desk/{task}", "undoes": True, "shared": True}.items()
    assert [row[0] for row in await desk.fetch("select count(*) from hosts")] == [1]
    assert (await desk.fetch("select count(*) from dead_letters"))[0][0] >= len(odd)


async def test_events_of_a_domain_that_was_removed_stay_in_the_stream_while_its_last_host_is_there(
    desk: Deployment, stream: EventStream, caplog: pytest.LogCaptureFixture
) -> None:
    """That waits for its calls, say, and knows by now that there is no such domain."""
    await desk.coordinate()
    key = secrets.token_hex(4)
    await until(lambda: desk.fetch("select from hosts where ready_at is not null and cardinality(owned) > 0"))
    await desk.forsake()
    [running] = desk.launcher.hosts.values()
    assert running.host is not None
    scope, states = running.host.scope, "update domains set state = $1"
    await desk.pool.execute(states, "removed")

    async def has_heard() -> bool:
        try:
            scope.directory.partitions("desk", "clerk")
        except UnknownDomain:
            return True
        return False

    await until(has_heard)
    last = await stream.publish("desk", "note", json.dumps({"task": key, "number": 1, "text": "x"}).encode())

    async def is_read() -> bool:
        return bool(await desk.fetch("select from event_cursors where seq >= $1", last))

    async def is_put_off() -> bool:
        return "events wait" in caplog.text

    await until(is_put_off)
    assert not await is_read()
    await desk.pool.execute(states, "active")
    await until(is_read)
    assert await desk.fetch("select error from dead_letters") == []


async def test_sizes_are_bytes_and_an_event_over_the_limit_is_a_dead_letter_of_its_tenant(
    desk: Deployment, stream: EventStream
) -> None:
    """`é` is one character of two bytes."""
    await desk.pool.execute(
        "update domains set spec = jsonb_set(spec::jsonb, '{limits}', spec::jsonb -> 'limits' ||"
        """ '{"claim_check_bytes": 1024, "payload_bytes": 8192}')::json"""
    )
    await desk.coordinate()
    key, tenant = f"size{secrets.token_hex(4)}", f"t{secrets.token_hex(4)}"

    def note(text: str) -> bytes:
        return json.dumps({"task": key, "number": 1, "text": text}, ensure_ascii=False).encode()

    headers = {TENANT_HEADER: tenant}
    large, blob = note("é" * 4_200), note("é" * 600)
    assert len(large.decode()) < 8_192 < len(large)
    assert len(blob.decode()) < 1_024 < len(blob)
    await stream.publish("desk", "note", large, headers=headers)
    await stream.publish("desk", "note", note("poison")[:-1], headers=headers)
    await stream.publish("desk", "unheard-of", b"{}", headers=headers)
    await stream.publish("desk", "note", blob, headers=headers)
    mine = "select json_array_length(state -> 'notes') from agents where tenant = $1 and agent = $2"
    assert await until(lambda: desk.fetch(mine, tenant, f"clerk/{key}")) == [(1,)]
    letters = await desk.fetch(
        "select agent, split_part(error, '.', 1) from dead_letters where tenant = $1 order by id", tenant
    )
    assert [agent for agent, _ in letters] == ["events/note", "events/note", "events/unheard-of"]
    assert letters[0][1] == f"The event note has {len(large)} bytes; 8192 is the limit"
    assert await desk.fetch("select count(*) from blobs where tenant = $1", tenant) == [(1,)]


async def test_what_one_deployment_has_published_is_not_read_by_the_next(
    services: Endpoints, database: str, stream: EventStream
) -> None:
    async with Deployment.open(DESK, database, services.nats_url):
        await stream.publish("desk", "note", b"{}")
        assert await stream.count_after("desk", 0) == 1
    assert await stream.count_after("desk", 0) == 0
