"""Results that are kept for texts that come again: as functools.lru_cache, and forgotten together.

@remembered(4096)
def tokens(text: str) -> tuple[str, ...]: ...
"""

from collections.abc import Callable
from functools import _lru_cache_wrapper, lru_cache
from typing import Any, TypeVar

T = TypeVar("T")

_caches: "list[_lru_cache_wrapper[Any]]" = []


def remembered(most: int) -> "Callable[[Callable[..., T]], _lru_cache_wrapper[T]]":
    """Make a function that keeps its last `most` results until `forget`."""

    def keeping(function: Callable[..., T]) -> "_lru_cache_wrapper[T]":
        found = lru_cache(maxsize=most)(function)
        _caches.append(found)
        return found

    return keeping


def forget() -> None:
    """Drop every result: what came of a few thousand long texts would fill the memory."""
    for cache in _caches:
        cache.cache_clear()
