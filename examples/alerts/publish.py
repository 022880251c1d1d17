"""Publish one alert: `NATS_URL="$(callboard events --url)" python publish.py ID SERVICE TEXT`."""

import asyncio
import json
import os
import sys

import nats


async def publish(alert: str, service: str, text: str) -> None:
    connection = await nats.connect(os.environ["NATS_URL"].split(","))
    ack = await connection.jetstream().publish(
        "callboard.events.alerts.raised",  # callboard.events.DOMAIN.NAME
        json.dumps({"service": service, "text": text}).encode(),
        headers={"Nats-Msg-Id": f"alerts/{alert}"},  # the same id counts once
    )
    print(f"event {ack.seq} is stored" if not ack.duplicate else f"event {ack.seq} was there already")
    await connection.close()


if len(sys.argv) != 4 or "NATS_URL" not in os.environ:
    sys.exit(__doc__)
asyncio.run(publish(*sys.argv[1:]))
