"""Where the evidence and the confusing facts of a row stand in its context, and what a cut left.

    found = find_passages(row)
    depths(found, len(row["context"]), cut)["evidence"]     # [[in the context, in the prompt], …]

A depth is that of a passage's middle, 0 at the first character of a context and 1 at its end. In
the prompt it is measured in what the cut left of the context, so where nothing was cut the two are
the same.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from lveval.data.rows import Row

Span = tuple[int, int]  # [start, end) in characters

# [depth in the context, depth in the prompt; None: no longer whole in it]
DepthPair = list[float | None]

PROBE = 48  # characters that find the place of a cut again in the text before it

# Letters at a cut that are passed over then: a cut may tear one, or the white space beside it.
TORN = (0, 8, 32)


class Depths(TypedDict):
    """The depths of a row's passages, as its record keeps them; empty where none is found."""

    evidence: list[DepthPair]
    confusing_facts: list[DepthPair]


@dataclass(frozen=True)
class Passages:
    """The passages of one context that could be found."""

    evidence: tuple[Span, ...]
    confusing_facts: tuple[Span, ...]


def find_passages(row: Row) -> Passages:
    """Find the passages that the row's offsets mark; without them, what its texts tell.

    Confusing facts are found where they stand in the context verbatim, and once. Evidence is taken
    to be where the answer keywords, else the first answer, stand once, those in a confusing fact
    not counted: of several places none can be told to be the evidence.
    """
    context, offsets = row["context"], row["offsets"] or {}
    evidence, facts = (
        tuple((start, end) for start, end in offsets.get(kind) or () if start < end)
        for kind in ("evidence", "confusing_facts")
    )
    if not facts:
        places = (_only_place(context, fact) for fact in row["confusing_facts"] or ())
        facts = tuple(place for place in places if place)
    if evidence:
        return Passages(evidence, facts)
    for probe in (row["answer_keywords"], row["answers"][0]):
        if probe and (place := _only_place(context, probe, facts)):
            return Passages((place,), facts)
    return Passages((), facts)


def _only_place(text: str, probe: str, apart_from: Sequence[Span] = ()) -> Span | None:
    """Where `probe` stands; None if nowhere, or more than once outside of `apart_from`."""
    probe = probe.strip()
    found = None
    start = text.find(probe) if probe else -1
    while start >= 0:
        place = start, start + len(probe)
        if not any(place[0] < end and first < place[1] for first, end in apart_from):
            if found:
                return None
            found = place
        start = text.find(probe, start + 1)
    return found


def find_cut(full: str, head: str, tail: str, context: Span) -> Span:
    """What is missing between `head` and `tail`, the ends of `full`: [start, end) in the context.

    `context`: where it stands in `full`. Decoding tokens may change white space, so the ends are
    looked up in the text; both are in characters from the start of the context.
    """
    start = _length_kept(full, head)
    whole = full.endswith(tail)  # mostly: no long text is turned around for it
    end = len(full) - (len(tail) if whole else _length_kept(full[::-1], tail[::-1]))
    first, last = (min(max(at, context[0]), context[1]) - context[0] for at in (start, end))
    return first, max(first, last)


def _length_kept(full: str, head: str) -> int:
    """How many of the first characters of `full` became `head`."""
    if full.startswith(head):
        return len(head)
    for torn in TORN:
        whole = head[: len(head) - torn]
        letters = map(re.escape, "".join(whole[-PROBE:].split()))
        ends = [match.end() for match in re.finditer(r"\s*".join(letters), full) if match.end()]
        if ends:
            nearest = min(ends, key=lambda end: abs(end - len(whole)))
            return min(nearest + torn, len(full))
    return min(len(head), len(full))


def depths(passages: Passages, size: int, cut: Span | None = None) -> Depths:
    """The depths of passages in a context of `size` characters, from which `cut` was taken."""
    return {
        "evidence": [_depth_pair(span, size, cut) for span in passages.evidence],
        "confusing_facts": [_depth_pair(span, size, cut) for span in passages.confusing_facts],
    }


def depths_in_shown(passages: Passages, context: str, shown: str, cut: Span | None) -> Depths:
    """The same where another context is shown: in it the passages are found verbatim, and once."""

    def pairs(spans: Sequence[Span]) -> list[DepthPair]:
        found: list[DepthPair] = []
        for start, end in spans:
            (depth, _) = _depth_pair((start, end), len(context), None)
            place = _only_place(shown, context[start:end])
            found.append([depth, place and _depth_pair(place, len(shown), cut)[1]])
        return found

    return {
        "evidence": pairs(passages.evidence),
        "confusing_facts": pairs(passages.confusing_facts),
    }


def _depth_pair(span: Span, size: int, cut: Span | None) -> DepthPair:
    start, end = cut or (size, size)
    middle, missing = (span[0] + span[1]) / 2, end - start
    kept = span[1] <= start or span[0] >= end
    shifted = middle - (missing if span[0] >= end else 0)
    return [round(middle / size, 4), round(shifted / (size - missing), 4) if kept else None]
