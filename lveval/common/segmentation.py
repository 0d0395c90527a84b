"""The words that jieba 0.42.1 cuts a text into, in less than half its time.

    segmentation.cut("灯塔建于1874年")    # ("灯塔", "建于", "1874", "年")

Most of the time of scoring goes into this, so the two passes that jieba makes over a clause (which
words could begin where; which of them make the likeliest sentence) are one here, and what its
hidden Markov model makes of characters that no word holds is remembered. Dictionary, model and
every sum are jieba's; tests hold the words to jieba's own.
"""

from collections.abc import Iterator
from functools import cache
from math import log
from typing import TYPE_CHECKING

from lveval.common.jieba_dictionary import segmenter
from lveval.common.remembered import remembered

if TYPE_CHECKING:
    import re

Words = tuple[str, ...]


def cut(text: str) -> Words:
    """Cut a text as `jieba.cut(text, cut_all=False)` does."""
    clause, skip = _patterns()
    words: list[str] = []
    # A pattern with one group splits into what is between its matches and the matches, in turn.
    for number, part in enumerate(clause.split(text)):
        if number % 2:
            words += _cut_clause(part)
        else:
            for place, piece in enumerate(skip.split(part)):
                if place % 2:
                    words.append(piece)
                else:
                    words += piece  # marks are words of one character
    return tuple(words)


@cache
def _patterns() -> "tuple[re.Pattern[str], re.Pattern[str]]":
    """jieba's own: what the dictionary is asked about, and white space, which stays whole."""
    segmenter()
    import jieba

    return jieba.re_han_default, jieba.re_skip_default


def _cut_clause(clause: str) -> Iterator[str]:
    """The words of a run of letters, and what the model makes of single characters in a row."""
    ends = _likeliest_ends(clause)
    start, single = 0, 0  # single: where the characters begin that no word holds
    while start < len(clause):
        end = ends[start]
        if end - start > 1:
            if single < start:
                yield from _recognize(clause[single:start])
            yield clause[start:end]
            single = end
        start = end
    if single < start:
        yield from _recognize(clause[single:])


def _likeliest_ends(clause: str) -> list[int]:
    """For each place: where the word ends that begins the likeliest cut of the rest.

    Found from the end on. Of equally likely words the longest counts; a character of no word
    counts as one seen once.
    """
    dictionary = segmenter()
    times_seen, all_times = dictionary.FREQ.get, log(dictionary.total)
    length = len(clause)
    best_of_rest, ends = [0.0] * (length + 1), [0] * length
    for start in range(length - 1, -1, -1):
        end = start + 1
        best, best_end = -all_times + best_of_rest[end], end
        is_word = False
        times = times_seen(clause[start])
        while times is not None:  # 0: no word, but some word begins so
            if times:
                value = log(times) - all_times + best_of_rest[end]
                if value >= best or not is_word:
                    best, best_end, is_word = value, end, True
            if end == length:
                break
            end += 1
            times = times_seen(clause[start:end])
        best_of_rest[start], ends[start] = best, best_end
    return ends


@remembered(16384)
def _recognize(characters: str) -> Words:
    """What jieba makes of characters that the likeliest cut leaves single."""
    from jieba import finalseg

    if len(characters) == 1:
        return (characters,)
    if segmenter().FREQ.get(characters):
        return tuple(characters)
    words: list[str] = []
    for number, part in enumerate(finalseg.re_han.split(characters)):
        if number % 2:
            words += _modelled(part)
        else:
            words += filter(None, finalseg.re_skip.split(part))
    return tuple(words)


def _modelled(characters: str) -> Iterator[str]:
    """The words that jieba's hidden Markov model makes of Chinese characters: each of them begins a
    word (B), is within one (M), ends one (E) or is one (S).

    Where a state came from is kept for each character; jieba copies the whole way each time, which
    takes time with the square of the length.
    """
    from jieba import finalseg as model

    ways: list[dict[str, str]] = []
    likely = {
        state: model.start_P[state] + model.emit_P[state].get(characters[0], model.MIN_FLOAT)
        for state in "BMES"
    }
    for character in characters[1:]:
        best = {}
        for state, before in model.PrevStatus.items():
            emitted = model.emit_P[state].get(character, model.MIN_FLOAT)
            best[state] = max(
                (likely[each] + model.trans_P[each].get(state, model.MIN_FLOAT) + emitted, each)
                for each in before
            )
        likely = {state: value for state, (value, _) in best.items()}
        ways.append({state: before for state, (_, before) in best.items()})
    state = max("ES", key=lambda each: (likely[each], each))
    ends = [len(characters)]
    for place in range(len(characters) - 1, 0, -1):
        state = ways[place - 1][state]
        if state in "ES":
            ends.append(place)
    start = 0
    for end in reversed(ends):
        yield characters[start:end]
        start = end
