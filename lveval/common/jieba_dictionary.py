"""jieba, of the one version that gives the published scores, with a dictionary cache of our own.

words = segmenter().lcut("灯塔建于1874年", cut_all=False)
"""

import logging
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from os import getuid
from pathlib import Path
from typing import TYPE_CHECKING

from lveval.common.errors import UsageError
from lveval.common.files import cache_dir

if TYPE_CHECKING:
    from jieba import Tokenizer


JIEBA_VERSION = "0.42.1"  # Another version cuts other words, so it gives other scores.


@cache
def segmenter() -> "Tokenizer":
    """jieba's own dictionary, loaded once, from a cache that no other user of the machine can have
    written.
    """
    try:
        with warnings.catch_warnings():
            # jieba's source warns on new Pythons (invalid escapes, pkg_resources); a user can do
            # nothing about it.
            warnings.simplefilter("ignore")
            import jieba
    except ImportError as error:
        raise UsageError(
            f"scoring needs jieba {JIEBA_VERSION}, not found ({error}); pip install "
            f"jieba=={JIEBA_VERSION}"
        ) from error
    if jieba.__version__ != JIEBA_VERSION:
        raise UsageError(
            f"found jieba {jieba.__version__}; expected {JIEBA_VERSION}, because other versions "
            f"give other scores; pip install jieba=={JIEBA_VERSION}"
        )
    jieba.setLogLevel(logging.CRITICAL)  # It reports every load on standard error.
    with tempfile.TemporaryDirectory(prefix="jieba-") as scratch:
        # jieba would read a marshal file from the shared temporary folder. Where there is no
        # trustworthy place for one, it builds its dictionary anew (half a second) and the scratch
        # folder goes.
        jieba.dt.tmp_dir = str(_dictionary_folder() or scratch)
        jieba.initialize()
    return jieba.dt


def _dictionary_folder() -> Path | None:
    """The folder for jieba's cached dictionary, or None where another user could have put a file
    into it.
    """
    folder = cache_dir() / f"jieba-{JIEBA_VERSION}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if all(_only_ours(path) for path in (folder, *folder.iterdir())):
            return folder
    return None


def _only_ours(path: Path) -> bool:
    """Whether `path` belongs to this user and nobody else may write it."""
    status = path.stat()
    return status.st_uid == getuid() and not status.st_mode & 0o022
