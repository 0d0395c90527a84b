"""files.py: the private cache folder, and files that are replaced whole or not at all. Faults of every storage call:
test_store_faults.py."""

import os
import stat
from pathlib import Path

import pytest

from lveval.common import files
from lveval.common.errors import LONGEST_MESSAGE, ExitCode, LVEvalError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LVEVAL_CACHE", str(folder))
    return folder


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert files.cache_dir() == cache
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    monkeypatch.delenv("LVEVAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_dir() == tmp_path / "xdg" / "lveval"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert files.cache_dir() == tmp_path / "home" / ".cache" / "lveval"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_cache_that_others_may_write_is_refused(cache: Path, mode: int) -> None:
    cache.mkdir()
    cache.chmod(mode)
    assert "chmod 700" in refusal()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_cache_of_another_user_is_refused(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    os.chown(cache, 12345, 12345)
    assert "found a folder of user 12345" in refusal()


def test_a_cache_that_cannot_be_made(cache: Path) -> None:
    cache.write_bytes(b"a file")
    with pytest.raises(LVEvalError) as caught:
        files.cache_dir()
    assert caught.value.code == ExitCode.STORAGE


def refusal() -> str:
    with pytest.raises(LVEvalError) as caught:
        files.cache_dir()
    return caught.value.message


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    files.write_atomic(path, "first")
    files.write_atomic(path, "second\u2028")
    assert path.read_text(encoding="utf-8") == "second\u2028"
    files.write_atomic(path, "\ud800")  # no UTF-8: as JSON escapes it
    assert path.read_bytes() == b"\\ud800"
    path.unlink()
    path.mkdir()
    with pytest.raises(LVEvalError, match="writing failed") as caught:
        files.write_atomic(path, "third")
    assert caught.value.code == ExitCode.STORAGE
    assert [item.name for item in tmp_path.iterdir()] == ["results.json"]


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    for _ in range(2):
        files.durable_mkdir(tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c").is_dir()


def test_a_message_that_holds_a_whole_file_loses_its_middle() -> None:
    message = LVEvalError(f"run.json: found {'x' * 10**6}; expected less").message
    assert message.startswith("run.json: found x") and message.endswith("x; expected less")
    assert len(message) <= LONGEST_MESSAGE
    assert LVEvalError(message).message == message
