"""Results that are kept for texts that come again: as functools.lru_cache, and forgotten together.

@remembered(4096)
def tokens(text: str) -> tuple[str, ...]: ...
"""

from collections.abc import Callable
from functools import _lru_cache_wrapper, lru_cache
from typing import Any, TypeVar

LONG = 4000  # characters

T = TypeVar("T")

_caches: "list[_lru_cache_wrapper[Any]]" = []


def remembered(most: int) -> "Callable[[Callable[..., T]], _lru_cache_wrapper[T]]":
    """Make a function that keeps its last `most` results until `forget_long`."""

    def keeping(function: Callable[..., T]) -> "_lru_cache_wrapper[T]":
        found = lru_cache(maxsize=most)(function)
        _caches.append(found)
        return found

    return keeping


def forget_long(*texts: object) -> None:
    """Drop every result after long texts: what came of thousands of them would fill the memory."""
    if sum(len(str(text)) for text in texts) > LONG:
        for cache in _caches:
            cache.cache_clear()
