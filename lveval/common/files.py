"""Files that survive: replaced whole or not at all, folders that are there for good, and the
private cache.

    write_atomic(Path("outputs/chatglm3/results.json"), text)

A fault of the disk ends in an LVEvalError with the exit code of storage.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lveval.common.errors import REMEDIES, StorageError, UsageError
from lveval.common.text import storable


@contextmanager
def disk_errors(doing: str, path: Path) -> Iterator[None]:
    """A block in which a fault of the disk becomes a StorageError."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "free or mend the disk")
        raise StorageError(
            f"{path}: {doing} failed ({error.strerror or error}); what was recorded before is "
            f"safe: {remedy}, then run the same command again"
        ) from error


def open_plain(path: Path, flags: int) -> int:
    """Open a file that is written in place, as os.open does: never through a link that somebody
    planted at its name, and, where it is new, for its owner alone to write whatever the umask is.

    Raises UsageError at a link.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(
                f"{path}: found a link; expected a file, since nothing is written through a link; "
                "remove it"
            ) from None
        raise


def rename_to_backup(path: Path) -> Path:
    """Rename a file or folder to `<name>.old-<N>`, the first N that is free; the new path."""
    number = 1
    while os.path.lexists(target := path.with_name(f"{path.name}.old-{number}")):
        number += 1
    path.rename(target)
    fsync_dir(path.parent)
    return target


def write_atomic(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Replace `path` by `content` whole or not at all: temporary file, fsync, rename, fsync of the
    folder. Content that comes in parts is written as they come.
    """
    whole = storable(content).encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors("writing", path):
        try:
            beside.unlink(missing_ok=True)  # of a process that was killed and had our number
            with os.fdopen(open_plain(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.writelines([whole] if isinstance(whole, bytes) else whole)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
        fsync_dir(path.parent)


def fsync_dir(folder: Path) -> None:
    """Make the names in `folder` durable: a created or renamed file has its name for good after
    this.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def durable_mkdir(folder: Path) -> None:
    """Create a folder and its parents for good: a folder's name is on the disk once its parent was
    synced. Only the owner may write in it, whatever the umask is.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing or [folder]):
        path.mkdir(mode=0o755, exist_ok=True)
    for path in missing:
        fsync_dir(path.parent)


def cache_dir(*inside: str) -> Path:
    """The harness's private cache folder, or a folder `inside` it, made (mode 0700) where missing.

    `$LVEVAL_CACHE`, else `$XDG_CACHE_HOME/lveval`, else `~/.cache/lveval`. What lies there decides
    scores (rows, a segmenter's dictionary), so a folder that another user owns or may write to is
    refused with an LVEvalError.
    """
    chosen, xdg = os.environ.get("LVEVAL_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    try:
        if chosen:
            folder = Path(chosen).expanduser().absolute()
        else:
            # The XDG specification: a relative path is invalid and ignored.
            folder = (Path(xdg) if Path(xdg).is_absolute() else Path.home() / ".cache") / "lveval"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(folder)
        for name in inside:
            folder = folder / name
            folder.mkdir(mode=0o700, exist_ok=True)
            _require_private(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder is known
        raise StorageError(
            f"the cache folder cannot be made: {error}; set LVEVAL_CACHE to a folder of yours"
        ) from error
    return folder


def _require_private(folder: Path) -> None:
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(
            f"{folder}: found a folder of user {found.st_uid}, mode "
            f"{stat.S_IMODE(found.st_mode):o}; expected one that only you can write; run chmod 700 "
            "on it, or set LVEVAL_CACHE to another folder"
        )
