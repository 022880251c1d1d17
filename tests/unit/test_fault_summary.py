"""The summary of the fault runs says what a person needs: what was red and how to repeat it, what never happened."""

from __future__ import annotations

from collections import Counter

from tests.faults.chronicle import Chronicle, Run, summary

GREEN = Run(
    "tests/faults/test_chaos.py::test_any[100]",
    93.24,
    Chronicle(
        seed=100, turns=31_201, done=["kill_host", "kill_host", "crash"], fired=Counter({"commit.before": 2})
    ),
    "",
)
RED = Run(
    "tests/faults/test_chaos.py::test_any[7]",
    40.0,
    Chronicle(seed=7, turns=99, done=["kill_host"], fired=Counter({"commit.before": 1})),
    "not within 30 s: 50 more turns",
)


def test_each_run_has_a_line_and_all_are_added_up() -> None:
    lines = summary([GREEN, RED], ["kill_host", "crash"])
    assert lines[0] == "green  test_any[100]    93.2 s  seed 100      3 faults,  31,201 turns"
    assert lines[1].startswith("red    test_any[7]      40.0 s  seed 7")
    assert "faults done:  crash 1, kill_host 3" in lines
    assert "fired inside: commit.before 3" in lines
    assert lines[-1] == "2 fault runs in 2 min: 1 green, 1 red; 4 faults over 31,300 turns."


def test_a_red_run_is_named_with_its_reason_and_the_command_that_repeats_it() -> None:
    lines = summary([RED], ["kill_host"])
    at = lines.index("RED not within 30 s: 50 more turns")
    assert lines[at + 1] == (
        "    CALLBOARD_FAULT_SEED=7 .venv/bin/python -m pytest 'tests/faults/test_chaos.py::test_any[7]'"
    )


def test_a_fault_that_never_happened_is_named() -> None:
    assert "never done:   cut, stop" in summary([GREEN], ["stop", "kill_host", "crash", "cut"])
    assert not any(line.startswith("never") for line in summary([GREEN], ["kill_host", "crash"]))


def test_a_run_that_measures_shows_its_figures() -> None:
    run = Run("tests/faults/test_recovery.py::test_soon", 88.0, Chronicle(figures="first 0.44 s"), "")
    assert summary([run], ["kill_host"]) == [
        "green  test_soon    88.0 s  first 0.44 s",
        "",
        "1 fault run in 88 s: 1 green, 0 red; 0 faults over 0 turns.",
    ]
