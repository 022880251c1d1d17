"""What `callboard run --input` names: looked at before anything is started, and read where it is JSON."""

from __future__ import annotations

import json
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from bus.errors import InvalidTask

if TYPE_CHECKING:
    from io import BufferedReader

STANDARD_INPUT = "-"
_LOOKED_AT = 8192  # bytes; text has no NUL in them


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


_COMPRESSED: dict[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"\xfd7zXZ\0": lzma.LZMADecompressor,
}
_OPAQUE = (
    b"BZh",
    b"\x28\xb5\x2f\xfd",
)  # bzip2, zstd: there may be text inside, which their first bytes do not tell


def read_head(path: str) -> bytes | None:
    """The first bytes of the input, some 8 KiB. They stay in standard input, for whoever reads `sys.stdin`.

    None where a look would take them away (a pipe with a name), or have somebody type first. Raises InvalidTask for what
    is missing, unreadable or empty, and for no name.
    """
    if not path:  # as a script has it whose variable is not set
        raise InvalidTask("--input names no file.", fix="Name one, or leave it out.")
    try:
        head = _head_of_standard_input() if path == STANDARD_INPUT else _head_of_file(path)
    except OSError as error:
        raise InvalidTask(
            f"{in_words(path)} cannot be read: {error.strerror}.", fix="Name a readable file."
        ) from None
    if head == b"":
        raise InvalidTask(f"{in_words(path)} is empty.", fix="Name a file with something in it.")
    return head


def _head_of_standard_input() -> bytes | None:
    if sys.stdin is None:
        raise InvalidTask("Standard input is closed.", fix="Name a file, or pipe one in.")
    if sys.stdin.isatty():
        return None
    return cast("BufferedReader", sys.stdin.buffer).peek(_LOOKED_AT)[:_LOOKED_AT]


def _head_of_file(path: str) -> bytes | None:
    if os.path.isdir(path):
        raise InvalidTask(f"{path} is a folder.", fix="Name a file.")
    if not stat.S_ISREG(os.stat(path).st_mode):
        return None
    with open(path, "rb") as file:
        return file.read(_LOOKED_AT)


def require_text(path: str, head: bytes) -> None:
    """Raise InvalidTask for what is plainly no text, also where it is compressed."""
    if not head.startswith(_OPAQUE) and b"\0" in _decompressed(head):
        raise InvalidTask(
            f"{in_words(path)} is not text.",
            fix="Name a text file, or say `binary_input: true` in domain.yaml.",
        )


def _decompressed(head: bytes) -> bytes:
    for magic, decompressor in _COMPRESSED.items():
        if head.startswith(magic):
            try:
                return decompressor().decompress(head, _LOOKED_AT)
            except (zlib.error, lzma.LZMAError, OSError):  # damaged, which its reader will say
                return b""
    return head


def in_words(path: str) -> str:
    return "standard input" if path == STANDARD_INPUT else path


def read_json(path: str) -> Any:
    """The JSON in a file or in standard input; raises InvalidTask."""
    what = in_words(path)
    try:
        text = sys.stdin.read() if path == STANDARD_INPUT else Path(path).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise InvalidTask(f"{what} cannot be read: {error.strerror}.", fix="Name a readable file.") from None
    except UnicodeDecodeError:
        raise InvalidTask(f"{what} is not text in UTF-8.", fix="The input of a task is JSON.") from None
    except (ValueError, RecursionError) as error:
        raise InvalidTask(f"{what} is not JSON: {error}.", fix="The input of a task is JSON.") from None
