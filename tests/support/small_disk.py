"""A disk of its own: small, full, or one that may only be read."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """A disk of that size at a folder; False where this user may mount none."""
    folder.mkdir(exist_ok=True)
    mounted = mount(folder, f"size={size}")
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


def mount(folder: Path, options: str) -> bool:
    """Mount a disk in memory, or change one (`remount,...`); False where this user may not."""
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(words, check=False, capture_output=True).returncode == 0
