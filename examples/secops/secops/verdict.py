"""The words of a judgement."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What a source did, the gravest first."""

    COMPROMISED = "compromised"
    ENUMERATION = "enumeration"
    BRUTE_FORCE = "brute_force"
    SWEEP = "sweep"
    NOISE = "noise"
    CLEAN = "clean"


class Severity(StrEnum):
    """How soon somebody should look, the least first."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        return list(Severity).index(self)
