"""What of a domain's folder is its code: that is packed, and hosts are replaced when it changes."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from actors.domain import DomainSpec, check_domain
from bus.errors import InvalidDomainFile
from storage import code
from storage.code import pack
from storage.code_cache import CodeCache, digest_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "desk"
    write(folder, "domain.yaml", "desk/agents.py", "desk/prompts/greeting.txt", "prices.csv")
    return folder


def write(folder: Path, *names: str, content: str = "text") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def names_in(bundle: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(bundle)).namelist()


def test_data_files_beside_the_code_belong_to_it(folder: Path) -> None:
    digest, bundle = pack(folder)
    assert names_in(bundle) == ["desk/agents.py", "desk/prompts/greeting.txt", "domain.yaml", "prices.csv"]
    write(folder, "desk/prompts/greeting.txt", content="another text")
    assert pack(folder)[0] != digest


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        "desk/.agents.py.swp",
        ".git/config",
        "desk/.cache/answers.json",
        "desk/__pycache__/agents.pyc",
        "web/node_modules/left-pad/index.js",
    ],
)
def test_hidden_files_and_caches_are_neither_packed_nor_counted_in_the_digest(
    folder: Path, name: str
) -> None:
    before = pack(folder)
    write(folder, name)
    assert pack(folder) == before
    assert digest_of(folder) == before[0]


def test_the_folder_itself_may_be_hidden(folder: Path) -> None:
    before = pack(folder)
    assert pack(folder.rename(folder.with_name(".desk"))) == before


def test_what_is_packed_is_what_the_digest_counts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(folder, ".env", "a/b", "a.py", "a b", "größe.csv")
    (folder / "linked.csv").symlink_to(folder / "prices.csv")
    (folder / "nowhere").symlink_to(tmp_path / "missing")
    os.mkfifo(folder / "pipe")
    digest, bundle = pack(folder)
    unpacked = CodeCache.open().add(digest, bundle)
    assert digest_of(folder) == digest_of(unpacked) == digest
    assert {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()} == set(
        names_in(bundle)
    )


def test_the_same_files_are_the_same_bundle_whenever_they_are_packed(folder: Path) -> None:
    before = pack(folder)
    os.utime(folder / "prices.csv", (0, 0))
    assert pack(folder) == before


def test_a_folder_above_the_bound_is_refused_with_its_largest_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "MAX_CODE_BYTES", 2 * 2**20)
    for name, kib in (("out/a.txt", 100), ("data.bin", 1536), ("out/b.txt", 200), ("notes.md", 300)):
        write(folder, name, content="x" * kib * 1024)
    write(folder, ".hidden.bin", content="x" * 3 * 2**20)
    with pytest.raises(InvalidDomainFile) as caught:
        pack(folder)
    assert caught.value.message == (
        f"The folder {folder} holds more than 2 MiB, the most that is stored as a domain's code."
        " The largest of its 8 files: 'data.bin' (1.5 MiB), 'notes.md' (300 KiB), 'out/b.txt' (200 KiB)."
    )
    assert "outside" in caught.value.fix
    (folder / "data.bin").unlink()
    pack(folder)


def test_a_file_above_the_bound_is_not_read(folder: Path) -> None:
    with (folder / "data.bin").open("wb") as data:
        data.truncate(2**40)
    with pytest.raises(InvalidDomainFile, match=r"'data\.bin' \(1048576\.0 MiB\)"):
        pack(folder)


def test_what_cannot_be_packed_is_said_before_anything_is_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "MAX_CODE_BYTES", 10)
    with pytest.raises(InvalidDomainFile, match="the most that is stored"):
        check_domain(DomainSpec(domain="desk", kinds=()), folder)
