"""Which words of an answer and its truth the published scorer counts as shared, as places in them.

    marks.mark_words("hotpotwikiqa_mixup", "in the old lighthouse", "the lighthouse of Ayr")
    # ((Mark(11, 21, False),), (Mark(4, 14, False),))

F1 counts a word as often as both texts have it; those places are marked from the beginning. ROUGE-L
counts the words of the longest common subsequence; they are marked wherever they stand.
"""

import re
import string
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from lveval import config, metrics
from lveval.common.segmentation import cut
from lveval.metrics import CHINESE, ENGLISH, Tokens


class Mark(NamedTuple):
    """A shared word, or several beside each other."""

    start: int
    end: int  # exclusive
    blacklisted: bool  # no keyword counts by it; `described` does not count it at all


Marks = tuple[Mark, ...]


class _Piece(NamedTuple):
    """A stretch of a text and the metric's tokens that it becomes; mostly one."""

    start: int
    end: int
    tokens: Tokens


def mark_words(subset: str, answer: str, truth: str) -> tuple[Marks, Marks]:
    """Mark the words that the subset's metric counts, in the answer and in the truth."""
    is_chinese = config.DATASET_LANGUAGE[subset] == "zh"
    is_rouge = config.DATASET_METRIC[subset] is metrics.rouge_zh_score_blacklist
    blacklist = (CHINESE if is_chinese else ENGLISH).blacklist
    pieces = [
        list(_chinese(text, twice=is_rouge) if is_chinese else _english(text))
        for text in (answer, truth)
    ]
    if is_rouge:  # wherever they stand
        shared = Counter(dict.fromkeys(metrics.rouge_words(answer, truth), len(answer + truth)))
    else:
        one, other = (Counter(word for piece in each for word in piece.tokens) for each in pieces)
        shared = one & other
    found = [_marks(each, blacklist, shared.copy()) for each in pieces]
    marked = [_joined(each, text) for each, text in zip(found, (answer, truth), strict=True)]
    return marked[0], marked[1]


def _english(text: str) -> Iterator[_Piece]:
    """The words between white space, without the punctuation at their ends."""
    for chunk in re.finditer(r"\S+", text):
        core = chunk[0].strip(string.punctuation)
        start = chunk.start() + chunk[0].index(core)
        yield _Piece(start, start + len(core), ENGLISH.tokens(chunk[0]))


def _chinese(text: str, *, twice: bool) -> Iterator[_Piece]:
    """The words that jieba cuts; `twice` as ROUGE-L has them, cut once more."""
    start = 0
    for word in metrics.segment(text):
        for piece in cut(word) if twice else (word,):
            token = metrics.normalize(piece, "zh")
            yield _Piece(start, start + len(piece), (token,) if token else ())
            start += len(piece)


def _marks(pieces: list[_Piece], blacklist: frozenset[str], left: Counter[str]) -> Iterator[Mark]:
    """Mark the pieces whose tokens are counted, each token as often as `left` has it."""
    for start, end, tokens in pieces:
        counted = []
        for word in tokens:
            if left[word] > 0:
                left[word] -= 1
                counted.append(word)
        if counted:
            yield Mark(start, end, blacklist.issuperset(counted))


def _joined(marks: Iterator[Mark], text: str) -> Marks:
    """Make one of marks of one kind with nothing but white space between them."""
    joined: list[Mark] = []
    for mark in marks:
        last = joined[-1] if joined else None
        if (
            last
            and last.blacklisted == mark.blacklisted
            and not text[last.end : mark.start].strip()
        ):
            joined[-1] = last._replace(end=mark.end)
        else:
            joined.append(mark)
    return tuple(joined)
