"""What two questions must have in common before one answer does for both, however near their embeddings are.

Embeddings are blind to just that: a year, a name, a `not`, which of two comes first. The rules are for English, with the
negations of a few other languages, and lean to the side of asking anew. That such vetoes are needed beside a threshold is
known of semantic caches (F. Bang, GPTCache, 2023).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(r"[^\W_]+(?:[.,:/_@'’+-]+[^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?:;\n(\"“«]\s*$")
_INSIDE_OF_NAMES = re.compile(r"[_@/.:]")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NUMBERS = _words(
    """zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty
    ninety hundred thousand million billion half quarter first second third fourth fifth last once twice double"""
)
_DATES = _words(
    """monday tuesday wednesday thursday friday saturday sunday january february march april june july august september
    october november december spring summer autumn winter today tomorrow yesterday now tonight morning evening noon
    midnight weekend day week month year next previous this current recent"""
)
_NEGATIONS = _words(  # of English, German, French, Spanish and Italian
    """not no never none nobody nothing neither nor without cannot except unless hardly
    nicht kein keine keinen keiner keines nie niemals ohne nichts
    ne pas jamais sans aucun aucune rien nunca sin ningún ninguna non mai senza"""
)
# What a sentence begins with that is no name.
_OPENERS = _words(
    """a about after all an and any are as at be before but by can could did do does explain describe find for from give
    had has have he her his how i if in is it its let list may my of on or our please she should show so some summarise
    summarize tell that the their then there these they those to was we were what when where which who whom whose why
    will with would write you your"""
)
_OPPOSITES = ("un", "in", "im", "ir", "dis", "de", "non", "mis", "anti", "re")


@dataclass(frozen=True)
class Particulars:
    """`words` in order, without case; `marked` are those that name or count something."""

    words: tuple[str, ...]
    marked: frozenset[str]
    negations: int


def particulars_of(text: str) -> Particulars:
    words: list[str] = []
    marked: set[str] = set()
    negations = 0
    at = 0
    for found in _TOKEN.finditer(text):
        token = found.group()
        word = token.casefold().replace("’", "'").removesuffix("'s")
        begins = not words or bool(_SENTENCE_END.search(text, at, found.start()))
        at = found.end()
        if word in _NEGATIONS or word.endswith("n't"):
            negations += 1
            word = "not"  # "is not" and "isn't" are one
        elif _counts_or_names(token, word, begins):
            marked.add(word)
        words.append(word)
    return Particulars(tuple(words), frozenset(marked), negations)


def differ(one: Particulars, other: Particulars) -> bool:
    """Whether they differ in a number, a date, a name, a negation, or in the order of such."""
    marked = one.marked | other.marked
    if [word for word in one.words if word in marked] != [word for word in other.words if word in marked]:
        return True
    if one.negations != other.negations:
        return True
    if one.words != other.words and sorted(one.words) == sorted(other.words):
        return True  # the same words the other way round
    ours, theirs = set(one.words), set(other.words)
    return _has_opposite(ours - theirs, theirs - ours) or _has_opposite(theirs - ours, ours - theirs)


def _counts_or_names(token: str, word: str, begins: bool) -> bool:
    if any(character.isdigit() for character in token) or word in _NUMBERS or word in _DATES:
        return True
    if _INSIDE_OF_NAMES.search(token):  # a path, an address, an identifier
        return True
    if token.islower():
        return False
    return not (begins and word in _OPENERS and token.istitle()) and token != "I"


def _has_opposite(some: set[str], others: set[str]) -> bool:
    return any(prefix + word in others for word in some for prefix in _OPPOSITES)
