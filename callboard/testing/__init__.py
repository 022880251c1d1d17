"""Unit tests of agents in one process, without Ray and without servers.

```python
async def test_five_failures_call_the_responder() -> None:
    async with TestKit([Watchman, Responder], domain="secops") as kit:
        for _ in range(5):
            await kit.send("secops/watchman/1.2.3.4", LoginFailed(source="1.2.3.4", user="root"))
        await kit.quiet()
        assert kit.state("secops/watchman/1.2.3.4").failures == 5
        assert kit.sent(to="secops/responder/1.2.3.4") == [Respond(source="1.2.3.4")]
```

Run it under anyio's pytest plugin, or from a plain test with `asyncio.run(...)`. Time stands still until
`kit.advance` moves it, so nothing is slow and nothing is late.
"""

from actors.models import GivenModels
from callboard.testing.clock import VirtualClock
from callboard.testing.kit import TestKit
from callboard.testing.views import DeadMessage, Step, TaskState, WaitingMessage

__all__ = ["DeadMessage", "GivenModels", "Step", "TaskState", "TestKit", "VirtualClock", "WaitingMessage"]
