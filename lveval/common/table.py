"""Cells aligned as plain text.

print(text_table([["subset", "mean"], ["cmrc_mixup", "31.20"]], rules=[1]))
"""

from collections.abc import Collection, Sequence


def text_table(lines: Sequence[Sequence[str]], rules: Collection[int] = ()) -> str:
    """Align the first column to the left, the others to the right; a rule before lines `rules`."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for number, (first, *others) in enumerate(lines):
        if number in rules:
            text.append("-" * (sum(widths) + 2 * len(others)))
        cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)
