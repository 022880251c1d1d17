"""What the fault runs tell a person at the end: one line for each run, and which faults happened how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(kw_only=True)
class Chronicle:
    """What one run did. It is written while the run goes on, so that a run which fails has one as well."""

    seed: int | None = None
    turns: int = 0
    done: list[str] = field(default_factory=list)
    """The faults that have happened, in order."""

    fired: Counter[str] = field(default_factory=Counter)
    """Named points of the product that fired, and losses."""

    figures: str = ""
    """What a run that measures has measured."""


class Run(NamedTuple):
    """One test and its chronicle; `why` is empty when it passed."""

    test: str
    seconds: float
    chronicle: Chronicle
    why: str


def summary(runs: Sequence[Run], faults: Iterable[str]) -> list[str]:
    """The lines of the summary. `faults` are the names of all there are: one that never happened is named."""
    width = max(len(run.test.partition("::")[2]) for run in runs)
    lines = [_line(run, width) for run in runs]
    done = Counter(name for run in runs for name in run.chronicle.done)
    fired = sum((run.chronicle.fired for run in runs), Counter[str]())
    red = [run for run in runs if run.why]
    if done:
        never = sorted(set(faults) - done.keys())
        lines += ["", f"faults done:  {_counts(done)}", f"fired inside: {_counts(fired) or 'nothing'}"]
        lines += [f"never done:   {', '.join(never)}"] if never else []
    for run in red:
        seed = "" if run.chronicle.seed is None else f"CALLBOARD_FAULT_SEED={run.chronicle.seed} "
        lines += ["", f"RED {run.why}", f"    {seed}.venv/bin/python -m pytest '{run.test}'"]
    turns = sum(run.chronicle.turns for run in runs)
    lines += [
        "",
        f"{len(runs)} fault run{'s' * (len(runs) != 1)} in {_span(sum(run.seconds for run in runs))}: {len(runs) - len(red)} green, "
        f"{len(red)} red; {done.total():,} faults over {turns:,} turns.",
    ]
    return lines


def _line(run: Run, width: int) -> str:
    told = run.chronicle
    words = [
        "red  " if run.why else "green",
        f"{run.test.partition('::')[2]:<{width}}",
        f"{run.seconds:6.1f} s",
    ]
    if told.seed is not None:
        words.append(f"seed {told.seed:<5}")
    if told.done:
        words.append(f"{len(told.done):>3} faults, {told.turns:>7,} turns")
    if told.figures:
        words.append(told.figures)
    return "  ".join(words)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
