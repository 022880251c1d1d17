"""What one source did, in a few words for an embedding model: who was tried, how fast and how often, and no address."""

from __future__ import annotations

import re

from .escape import visible
from .finding import Finding
from .thresholds import Thresholds
from .verdict import Verdict

# One character is at most one token, as long as it is ASCII: MiniLM reads 256, and more is an error of the whole request.
MAX_TEXT = 240
_NAMES = 16
_NAME_SHOWN = 24
_NAME_READ = 256  # what is shown of it, were it of the longest addresses, and one more

_ADDRESS = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]*:[0-9a-f.]*:[0-9a-f:.]*", re.IGNORECASE)
# A sweep is noise that has neighbours: that is said by the network, and not by what was done.
_DONE = {
    Verdict.COMPROMISED: "guessing that got in",
    Verdict.ENUMERATION: "enumeration",
    Verdict.BRUTE_FORCE: "brute force",
    Verdict.SWEEP: "probing",
    Verdict.NOISE: "probing",
    Verdict.CLEAN: "nothing that failed",
}
_MANY = 10  # tries that are no longer a few


def behaviour(finding: Finding, limits: Thresholds) -> str:
    """Return the text: printable ASCII, of at most MAX_TEXT characters, the same for the same behaviour.

    The names come first, and numbers are words: a model takes 12 and 94 for unlike, and `root` and `admin` for alike, when
    they stand at the end of a long sentence.
    """
    names = ", ".join(_name(user, finding.address) for user in finding.users[:_NAMES]) or "no name"
    pace = "fast" if finding.peak >= limits.brute_force_peak else "slow"
    tries = "a few"
    if finding.failures >= _MANY:
        tries = "hundreds of" if finding.failures >= limits.high_failures else "dozens of"
    said = f": {pace} {_DONE[finding.verdict]}, {tries} tries"
    return names[: MAX_TEXT - len(said)] + said


def _name(user: str, source: str) -> str:
    hidden = re.sub(re.escape(source), "address", user, flags=re.IGNORECASE)[:_NAME_READ]
    hidden = _ADDRESS.sub("address", hidden)
    return visible(hidden).encode("ascii", "backslashreplace").decode()[:_NAME_SHOWN] or "empty"
