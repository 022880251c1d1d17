"""Agent addresses, and the partition that an address falls into."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from bus.errors import InvalidAddress

DEFAULT_TENANT = "default"
MAX_KEY_BYTES = 512  # a key is part of a B-tree entry, which Postgres limits to about 2,700 bytes

_WORD = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class Address(NamedTuple):
    """`domain/kind/key`; the key is any Unicode text without NUL, slashes included."""

    domain: str
    kind: str
    key: str

    @property
    def agent(self) -> str:
        """The part that names the agent inside its domain: `kind/key`."""
        return f"{self.kind}/{self.key}"

    def __str__(self) -> str:
        return f"{self.domain}/{self.kind}/{self.key}"


@lru_cache(maxsize=65_536)
def parse_address(text: str) -> Address:
    """Read `domain/kind/key`; raises InvalidAddress."""
    parts = text.split("/", 2)
    if len(parts) != 3:
        raise InvalidAddress(f"{text!r} is not an address.")
    domain, kind, key = parts
    require_word(domain, "domain")
    require_word(kind, "kind")
    if not key or "\0" in key:
        raise InvalidAddress(f"{text!r} has an empty key or a NUL in it.")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidAddress(f"{text!r} has a key that is not valid Unicode.") from None
    if size > MAX_KEY_BYTES:
        raise InvalidAddress(f"The key of {text[:60]!r}... has {size} bytes; {MAX_KEY_BYTES} is the limit.")
    return Address(domain, kind, key)


def require_word(text: str, what: str) -> str:
    """Return the text if it can name a domain, a kind or a tenant; raises InvalidAddress."""
    if not _WORD.fullmatch(text):
        raise InvalidAddress(f"{text!r} cannot name a {what}: use a-z, 0-9, _ and -, starting with a letter.")
    return text


@lru_cache(maxsize=65_536)
def partition_of(tenant: str, agent: str, partitions: int) -> int:
    """The partition of an agent (`kind/key`), from 0 to `partitions` - 1.

    BLAKE2b of tenant, NUL and agent, its first 8 bytes big-endian, modulo the count: the same on every
    machine and in every release, since rows on disk carry it.
    """
    digest = blake2b(f"{tenant}\0{agent}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % partitions
