"""Texts of mixed lengths to embed: a file's, or ones that are made up, the same at each run."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from bus.errors import SettingsError

_WORDS = """
host login failed accepted password user session opened closed by root from port key invalid connection reset the a of
at within minutes after several attempts address range blocked released approved refused escalated evidence line pattern
sweep enumeration brute force compromise credential service account rotation policy exception window threshold report
an analyst decided that this was noise because no name was tried twice and nobody came in while another source that
had been quiet for days suddenly tried every common name in alphabetical order which is what a tool does not a person
"""
_LONGEST_WORDS = 300  # about as long as the longest abstracts of the literature


def made_up(count: int) -> list[str]:
    """From three words to 300, most of them short, as questions, log lines and paragraphs are."""
    chance, words = random.Random(17), _WORDS.split()
    lengths = [min(_LONGEST_WORDS, 3 + int(chance.expovariate(1 / 70))) for _ in range(count)]
    return [" ".join(chance.choices(words, k=length)) for length in lengths]


def read_texts(path: Path) -> list[str]:
    """Of a file of JSON lines that have a `text`, or else its lines; of a folder, its `corpus.jsonl`. Raises SettingsError."""
    file = path / "corpus.jsonl" if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        if file.suffix == ".jsonl":
            lines = [msgspec.json.decode(line)["text"] for line in lines if line]
        found = list(dict.fromkeys(line for line in lines if line.strip()))
    except (OSError, ValueError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise SettingsError(f"{file} cannot be read as texts: {error}.") from None
    if not found:
        raise SettingsError(f"{file} holds no text.")
    return found
