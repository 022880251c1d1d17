"""Code is run only from folders in which nobody else can write, and only as Postgres holds it."""

from __future__ import annotations

import fcntl
import io
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bus.errors import DataFolderError, InvalidDomainFile, StorageError
from storage import code_cache
from storage.code import pack
from storage.code_cache import KEPT, CodeCache


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "callboard" / "code"


@pytest.fixture
def cache(root: Path) -> CodeCache:
    return CodeCache.open()


def bundle(tmp_path: Path, text: str = "the code") -> tuple[str, bytes]:
    folder = tmp_path / "source"
    (folder / "package").mkdir(parents=True, exist_ok=True)
    (folder / "domain.yaml").write_text("domain: one\n")
    (folder / "package" / "agents.py").write_text(text)
    return pack(folder)


def test_the_same_files_have_the_same_digest_however_they_are_compressed(
    cache: CodeCache, tmp_path: Path
) -> None:
    digest, data = bundle(tmp_path)
    again = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as packed,
        zipfile.ZipFile(again, "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for name in packed.namelist():
            deflated.writestr(name, packed.read(name))
    assert again.getvalue() != data
    folder = cache.add(digest, again.getvalue())
    (folder / "__pycache__").mkdir()  # importing leaves these
    (folder / "__pycache__" / "agents.pyc").touch()
    assert cache.find(digest) == folder == cache.add(digest, data)


def test_a_file_whose_name_is_not_utf_8_is_named(tmp_path: Path) -> None:
    tmp_path.joinpath(os.fsdecode(b"gr\xf6\xdfe.csv")).touch()
    with pytest.raises(InvalidDomainFile, match=r"'gr\\udcf6\\udcdfe.csv'\. Rename it"):
        pack(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor's, that is gone when its turn has come."""
    (tmp_path / "agents.py.swp").touch()
    monkeypatch.setattr(Path, "is_file", lambda path: path.unlink() is None)
    with pytest.raises(InvalidDomainFile, match=r"agents\.py\.swp cannot be read: No such file"):
        pack(tmp_path)


def test_what_is_unpacked_is_for_nobody_else(cache: CodeCache, root: Path, tmp_path: Path) -> None:
    folder = cache.add(*bundle(tmp_path))
    assert [path.stat().st_mode & 0o777 for path in (root.parent, root, folder)] == [0o700] * 3
    assert os.listdir(root) == [folder.name]


def test_a_folder_that_somebody_else_made_first_is_not_run(
    cache: CodeCache, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, data = bundle(tmp_path)
    cache.add(digest, data)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(DataFolderError, match="belongs to another user"):
        CodeCache.open()
    with pytest.raises(DataFolderError, match="belongs to another user"):
        cache.find(digest)


@pytest.mark.parametrize("level", ["callboard", "callboard/code"])
def test_a_cache_that_others_may_enter_is_refused(tmp_path: Path, root: Path, level: str) -> None:
    CodeCache.open()
    (tmp_path / "cache" / level).chmod(0o755)
    with pytest.raises(DataFolderError, match="mode 755"):
        CodeCache.open()


def test_a_link_to_elsewhere_is_refused(tmp_path: Path, root: Path, cache: CodeCache) -> None:
    digest, data = bundle(tmp_path)
    elsewhere = cache.add(digest, data).rename(tmp_path / "elsewhere")
    (root / digest).symlink_to(elsewhere)
    with pytest.raises(DataFolderError, match="cannot be read"):
        cache.find(digest)
    root.rename(tmp_path / "other")
    root.symlink_to(tmp_path / "other")
    with pytest.raises(DataFolderError, match="is not a folder"):
        CodeCache.open()


def test_a_cache_that_cannot_be_made_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataFolderError) as caught:
        CodeCache.open()
    assert "XDG_CACHE_HOME" in caught.value.fix


def test_a_folder_that_a_cleaner_has_thinned_out_is_unpacked_again(cache: CodeCache, tmp_path: Path) -> None:
    digest, data = bundle(tmp_path)
    (cache.add(digest, data) / "package" / "agents.py").unlink()
    assert cache.find(digest) is None
    assert (cache.add(digest, data) / "package" / "agents.py").read_text() == "the code"


def test_a_folder_that_was_changed_is_unpacked_again(cache: CodeCache, tmp_path: Path) -> None:
    digest, data = bundle(tmp_path)
    (cache.add(digest, data) / "package" / "agents.py").write_text("something else")
    assert cache.find(digest) is None
    assert (cache.add(digest, data) / "package" / "agents.py").read_text() == "the code"


@pytest.mark.parametrize("damage", [lambda data: b"no archive", lambda data: data[: len(data) // 2]])
def test_a_damaged_bundle_is_not_run(cache: CodeCache, root: Path, tmp_path: Path, damage: object) -> None:
    digest, data = bundle(tmp_path)
    assert callable(damage)
    with pytest.raises(StorageError, match="not what its digest says"):
        cache.add(digest, damage(data))
    assert os.listdir(root) == []


def test_a_bundle_of_other_files_is_not_run(cache: CodeCache, root: Path, tmp_path: Path) -> None:
    digest, _ = bundle(tmp_path)
    _, other = bundle(tmp_path, "other code")
    with pytest.raises(StorageError, match="not what its digest says"):
        cache.add(digest, other)
    assert os.listdir(root) == []


def test_processes_that_unpack_at_once_end_with_one_folder(
    cache: CodeCache, root: Path, tmp_path: Path
) -> None:
    digest, data = bundle(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: cache.add(digest, data), range(16)))
    assert set(folders) == {root / digest}
    assert os.listdir(root) == [digest]


def test_what_nobody_uses_is_removed_but_for_the_newest(
    cache: CodeCache, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_cache, "_lock", lambda folder: folder.is_dir())  # as processes that have ended
    digests = []
    in_use = os.open(cache.add(*bundle(tmp_path, "in use")), os.O_RDONLY)
    fcntl.flock(in_use, fcntl.LOCK_SH)  # as a host that has run for long
    os.utime(in_use, (0, 0))
    for number in range(KEPT + 3):
        digest, data = bundle(tmp_path, f"version {number}")
        os.utime(cache.add(digest, data), (number, number))
        digests.append(digest)
    cut_off = root / ".new-cutoff"
    cut_off.mkdir()
    os.utime(cut_off, (0, 0))
    cache.add(*bundle(tmp_path, "the newest"))
    os.close(in_use)
    left = set(os.listdir(root))
    kept = {bundle(tmp_path, text)[0] for text in ("in use", "the newest")} | set(digests[-(KEPT - 1) :])
    assert left == kept


def test_what_this_process_uses_is_not_removed(cache: CodeCache, root: Path, tmp_path: Path) -> None:
    used = cache.add(*bundle(tmp_path))
    os.utime(used, (0, 0))
    for number in range(KEPT + 3):
        cache.add(*bundle(tmp_path, f"version {number}"))
    assert used.is_dir()
