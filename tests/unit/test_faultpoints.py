"""Every named point can be armed, and every name that can be armed is reached somewhere."""

from __future__ import annotations

import ast
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus import faultpoints

REPOSITORY = Path(faultpoints.__file__).parents[1]
ROOMS = ("bus", "storage", "actors", "coordinators", "pipelines", "serve", "callboard")


def _names_in_code() -> Iterator[str]:
    for room in ROOMS:
        for path in (REPOSITORY / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id == "faultpoints"
                ):
                    [name] = node.args
                    assert isinstance(name, ast.Constant), f"{path}:{node.lineno} has no name in plain text"
                    yield str(name.value)


def test_the_points_are_those_that_the_code_reaches() -> None:
    assert set(_names_in_code()) == faultpoints.POINTS


@pytest.mark.parametrize("pass_by", [faultpoints.reached, faultpoints.is_armed])
def test_a_misspelt_point_is_refused_even_where_nothing_is_armed(pass_by: object) -> None:
    assert callable(pass_by)
    with pytest.raises(ValueError, match="is not in faultpoints"):
        pass_by("commit.befor")


@pytest.mark.parametrize("text", ["commit.befor=kill", "commit.before=sleep", "commit.before"])
def test_a_fault_that_cannot_happen_is_not_armed(text: str) -> None:
    with pytest.raises(ValueError, match="CALLBOARD_FAULTS"):
        faultpoints._read(text)


@pytest.mark.parametrize("point", sorted(faultpoints.POINTS))
def test_an_armed_point_counts_down_and_fires_once(
    point: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, what: sent.append((pid, what)))
    monkeypatch.setattr(faultpoints, "_armed", faultpoints._read(f"{point}=stop@2"))
    assert faultpoints.is_armed(point)
    faultpoints.reached(point)
    assert sent == []
    faultpoints.reached(point)
    faultpoints.reached(point)
    assert sent == [(os.getpid(), signal.SIGSTOP)]
    assert not faultpoints.is_armed(point)
    assert capsys.readouterr().err.startswith(f"fault fired: {point} stop")
