"""Read a log: plain or gzip, a file or standard input, line by line under a stable digest."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from .errors import BinaryInput, EmptyInput, InputTooLarge, UnreadableInput

if TYPE_CHECKING:
    from typing_extensions import Buffer

# sshd's own messages stay under 1 KiB (log.c, MSGBUFSIZ); what is longer was not written by it.
MAX_LINE_BYTES = 8 * 1024
# A guard against a gzip bomb, not a limit that a day's log would meet.
MAX_INPUT_BYTES = 1024**3
CUT_MARK = " …[cut]"

_CHUNK = 256 * 1024
_SPOOL_BYTES = 8 * 1024**2
_GZIP = b"\x1f\x8b"
# Above this share of bytes that text does not have, a file is not a log. Random bytes come to over 50 %.
_STRANGE_SHARE = 0.10
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\b\x1b\0"))
_KNOWN_FORMATS = {
    b"\xfd7zXZ\0": "xz-compressed (use `xz -dc`)",
    b"\x28\xb5\x2f\xfd": "zstd-compressed (use `zstd -dc`)",
    b"BZh": "bzip2-compressed (use `bzip2 -dc`)",
    b"PK\x03\x04": "a zip archive (use `unzip -p`)",
    b"LPKSHHRH": "a systemd journal (use `journalctl --file FILE -o short-iso`)",
    b"\xff\xfe": "UTF-16 text (use `iconv -f UTF-16 -t UTF-8`)",
    b"\xfe\xff": "UTF-16 text (use `iconv -f UTF-16 -t UTF-8`)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a log; `number` counts from 1, `text` has neither line end nor NUL."""

    number: int
    text: str


class Log:
    """A log that has been read once: its digest is known and its lines can be read again and again.

    `digest` is the SHA-256 of the decompressed bytes, in hex: a file and its gzip twin have the same.
    """

    def __init__(self, content: IO[bytes], *, name: str, digest: str, size_bytes: int) -> None:
        self._content = content
        self.name = name
        self.digest = digest
        self.size_bytes = size_bytes

    def __iter__(self) -> Iterator[Line]:
        self._content.seek(0)
        number = 0
        while raw := self._content.readline(MAX_LINE_BYTES + 1):
            number += 1
            cut = not raw.endswith(b"\n") and len(raw) > MAX_LINE_BYTES
            if cut:
                self._skip_rest_of_line()
            yield Line(number=number, text=decode(raw[:MAX_LINE_BYTES]) + (CUT_MARK if cut else ""))

    def _skip_rest_of_line(self) -> None:
        while (rest := self._content.readline(_CHUNK)) and not rest.endswith(b"\n"):
            pass


def decode(raw: bytes) -> str:
    """Return a line's text: invalid UTF-8 and NUL (which Postgres cannot hold) become U+FFFD."""
    return raw.rstrip(b"\r\n").decode("utf-8", errors="replace").replace("\0", "\ufffd")


def name_of(path: str | Path) -> str:
    """What the report calls the log: a file's name may hold bytes that are no text."""
    return "standard input" if str(path) == "-" else os.fsencode(Path(path).name).decode(errors="replace")


def refuse_binary(head: bytes, name: str) -> None:
    """Raise BinaryInput for the beginning of what is no log. What is damaged, or begins with NUL alone, is judged when all
    of it is read."""
    if head.startswith(_GZIP):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, len(head))
        except zlib.error:
            return
    if head.strip(b"\0"):
        _refuse_binary(head, name)


@contextmanager
def open_log(path: str | Path, *, max_bytes: int = MAX_INPUT_BYTES) -> Iterator[Log]:
    """Open the log at `path`, or standard input for `-`.

    The bytes are copied (to disk above 8 MiB) before the first line is handed out: a log that grows or
    rotates meanwhile would not fit its digest. Raises UnreadableInput, EmptyInput, BinaryInput or
    InputTooLarge.
    """
    name = name_of(path)
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
        content = cast("IO[bytes]", spool)
        try:
            if str(path) == "-":
                digest, size = _copy(sys.stdin.buffer, content, name, max_bytes)
            else:
                with open(path, "rb") as source:
                    digest, size = _copy(source, content, name, max_bytes)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UnreadableInput(
                f"Cannot read {name}: {error}.",
                fix="The file is cut off or damaged. Copy or compress it again.",
                path=str(path),
            ) from error
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UnreadableInput(f"Cannot read {name}: {reason}.", path=str(path)) from error
        yield Log(content, name=name, digest=digest, size_bytes=size)


def _copy(source: BinaryIO, target: IO[bytes], name: str, max_bytes: int) -> tuple[str, int]:
    """Decompress `source` into `target`; return the digest and the length of what came out."""
    head = source.read(_CHUNK)
    chunks = _unzipped(head, source) if head.startswith(_GZIP) else _plain(head, source)
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        if size == 0:
            _refuse_binary(chunk[: 64 * 1024], name)
        size += len(chunk)
        if size > max_bytes:
            raise InputTooLarge(f"{name} holds more than {max_bytes} bytes.", limit=max_bytes)
        digest.update(chunk)
        target.write(chunk)
    if size == 0:
        raise EmptyInput(f"{name} is empty.")
    return digest.hexdigest(), size


def _plain(head: bytes, source: BinaryIO) -> Iterator[bytes]:
    while head:
        yield head
        head = source.read(_CHUNK)


def _unzipped(head: bytes, source: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=io.BufferedReader(_Rejoined(head, source))) as unzipped:
        while chunk := unzipped.read(_CHUNK):
            yield chunk


class _Rejoined(io.RawIOBase):
    """A stream with its already read head put back; standard input cannot seek."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)
        taken = self._head[: len(view)] or self._rest.read(len(view))
        self._head = self._head[len(taken) :]
        view[: len(taken)] = taken
        return len(taken)


def _refuse_binary(sample: bytes, name: str) -> None:
    for magic, what in _KNOWN_FORMATS.items():
        if sample.startswith(magic):
            raise BinaryInput(f"{name} is {what}.")
    # A crash or a copy-truncate leaves runs of NUL in real logs; they say nothing about the rest.
    text = sample.replace(b"\0", b"")
    controls = len(text) - len(text.translate(None, _CONTROLS))
    undecodable = text.decode("utf-8", errors="replace").count("\ufffd")
    if not text or (controls + undecodable) / len(text) > _STRANGE_SHARE:
        raise BinaryInput(f"{name} is not text.")
