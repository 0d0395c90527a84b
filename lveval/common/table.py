"""Cells aligned as plain text.

print(text_table([["subset", "mean"], ["cmrc_mixup", "31.20"]], rules=[1]))
"""

from collections.abc import Collection, Sequence

WIDTH = 100  # columns of a terminal, that what is printed for people keeps to


def text_table(
    lines: Sequence[Sequence[str]], rules: Collection[int] = (), width: int | None = None
) -> str:
    """Align the first column to the left, the others to the right; a rule before lines `rules`.

    What is wider than `width` goes on below, with the first column again.
    """
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    blocks: list[list[int]] = [[]]
    used = widths[0]
    for place in range(1, len(columns)):
        if width is not None and blocks[-1] and used + 2 + widths[place] > width:
            blocks.append([])
            used = widths[0]
        blocks[-1].append(place)
        used += 2 + widths[place]
    return "\n\n".join(_block(lines, rules, widths, block) for block in blocks)


def _block(
    lines: Sequence[Sequence[str]], rules: Collection[int], widths: list[int], block: list[int]
) -> str:
    text = []
    for number, line in enumerate(lines):
        if number in rules:
            text.append("-" * (widths[0] + sum(2 + widths[place] for place in block)))
        cells = [line[0].ljust(widths[0]), *(line[at].rjust(widths[at]) for at in block)]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)
