"""Levels of length and the files of a run: level_length("16k") is 16."""

FileKey = tuple[str, str]  # (subset, level): a file
PUBLISHED_LEVELS = ("16k", "32k", "64k", "128k", "256k")  # of the benchmark's own files
LEVEL = "[1-9][0-9]*k"  # a level, as a regular expression


def level_length(level: str) -> int:
    """Thousands of words (English) or characters (Chinese) of a level."""
    return int(level.removesuffix("k"))


def file_name(subset: str, level: str) -> str:
    """`<subset>_<level>`, as files, results and run.json have it."""
    return f"{subset}_{level}"
