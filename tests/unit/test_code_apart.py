"""Domains whose modules and messages have the same names, in one process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.code_apart import code_apart
from actors.domain import check_domain, load_domain, read_domain
from bus.errors import InvalidDomainFile


def domain(folder: Path, name: str, kind: str, *, package: str = "same_agents") -> Path:
    """A domain whose one class is named as that of every other one, in a package named so, too."""
    folder = folder / name
    (folder / package).mkdir(parents=True)
    (folder / "domain.yaml").write_text(f"domain: {name}\nkinds:\n  - class: {package}.only:Only\n")
    (folder / package / "only.py").write_text(
        "from callboard import Agent, message\n"
        "from pydantic import BaseModel\n"
        "@message('same.ball.v1')\n"
        f"class Ball{kind.title()}(BaseModel):\n"
        "    hits: int = 0\n"
        "class Only(Agent):\n"
        f"    kind = {kind!r}\n"
    )
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    with code_apart():
        yield domain(tmp_path, "left", "lamp"), domain(tmp_path, "right", "rope")


def test_each_is_loaded_from_its_own_folder_one_after_the_other(two: tuple[Path, Path]) -> None:
    for folder, kind in zip(two, ("lamp", "rope"), strict=True):
        check_domain(read_domain(folder), folder)
        with code_apart():
            assert list(load_domain(read_domain(folder), folder).kinds) == [kind]
            assert "same_agents.only" in sys.modules
        assert "same_agents.only" not in sys.modules
        assert str(folder) not in sys.path


def test_both_at_once_are_refused_with_the_names_of_both(two: tuple[Path, Path]) -> None:
    left, right = two
    load_domain(read_domain(left), left)
    with pytest.raises(InvalidDomainFile, match=r"domains right and left .* 'same_agents.only'.* Rename"):
        load_domain(read_domain(right), right)
    assert list(load_domain(read_domain(left), left).kinds) == ["lamp"]


def test_a_copy_of_the_same_domain_is_no_other_one(two: tuple[Path, Path], tmp_path: Path) -> None:
    left, _ = two
    copy = domain(tmp_path / "copy", "left", "lamp")
    for folder in (left, copy):
        assert list(load_domain(read_domain(folder), folder).kinds) == ["lamp"]


def test_a_library_that_a_domain_imports_stays(two: tuple[Path, Path]) -> None:
    left, _ = two
    (left / "same_agents" / "only.py").write_text(
        "import this_is_a_library\nfrom callboard import Agent\nclass Only(Agent):\n    kind = 'lamp'\n"
    )
    library = left.parent / "library"
    library.mkdir()
    (library / "this_is_a_library.py").write_text("")
    sys.path.append(str(library))
    check_domain(read_domain(left), left)
    assert "this_is_a_library" in sys.modules
