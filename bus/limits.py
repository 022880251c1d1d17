"""Sizes and times that several rooms must agree on. A domain sets its own sizes, under `limits` in domain.yaml."""

from __future__ import annotations

from datetime import timedelta

CLAIM_CHECK_BYTES = 256 * 1024
"""Default: a larger payload travels as a reference to a blob."""

PAYLOAD_BYTES = 16 * 1024 * 1024
"""Default: a larger payload is refused, even as a blob."""

JSON_CONTAINERS = 250_000
"""Lists and objects in one JSON text. They are what it costs: 8 MiB of them are 4 million, which take 400 MB and stop an
event loop for seconds, however deep or flat they lie."""

MAILBOX_MESSAGES = 100_000
"""Default: an agent that so many messages wait for is given no more from outside."""

BACKLOG_MESSAGES = 2_000_000
"""Default: the same for a domain as a whole."""

SEEN_WINDOW = timedelta(days=30)
"""How long a key from outside is remembered: a message that comes with it again is not accepted again."""
