"""TODO lveval.common.levels."""

FileKey = tuple[str, str]  # (subset, level): a file


def level_length(level: str) -> int:
    """16 for "16k"."""
    return int(level.removesuffix("k"))
