"""What tests of intervals share."""

from collections.abc import Sequence

import numpy as np

from lveval.analysis.clusters import Floats
from lveval.results import PROTOCOLS, ScoredRow

LEVELS = ("16k", "32k", "64k")


def every(score: float, **others: float) -> dict[str, float]:
    """The same score under each protocol but for the `others`."""
    return {**dict.fromkeys(PROTOCOLS, score), **others}


def scored(
    subset: str, level: str, index: int, score: float, question: str | None = None
) -> ScoredRow:
    record = {} if question is None else {"question_id": question}
    return ScoredRow(subset, level, index, every(score), record)


def run_of(subset: str, scores: Floats, levels: Sequence[str] = LEVELS) -> list[ScoredRow]:
    """Rows of [questions, levels] scores, or of [questions, rows a question, levels]."""
    cube = scores if scores.ndim == 3 else scores[:, None, :]
    questions, times, width = cube.shape
    return [
        scored(
            subset,
            levels[column],
            question * times + row,
            float(cube[question, row, column]),
            f"q{question}",
        )
        for question in range(questions)
        for row in range(times)
        for column in range(width)
    ]


def clustered(
    chance: np.random.Generator, shape: tuple[int, ...], zeros: Sequence[float]
) -> Floats:
    """Scores with many zeros and some ones, alike within a question: [questions, ..., levels]; `zeros` by level.

    Each score comes from its question's luck with probability 0.6, else from its own; the mean of a level is
    `true_mean(zeros)`.
    """
    own, shared = chance.random(shape), chance.random((shape[0],) + (1,) * (len(shape) - 1))
    luck = np.where(chance.random(shape) < 0.6, shared, own)
    above = np.clip((luck - np.array(zeros)) / (1 - np.array(zeros)), 0, None)
    found: Floats = np.minimum(1, 1.5 * above)
    return found


def true_mean(zeros: float) -> float:
    """Of min(1, 1.5 u), u uniform, times the share that is not zero: 0.5 * 2/3 + 1 * 1/3 = 2/3."""
    return (1 - zeros) * 2 / 3


def placed(
    chance: np.random.Generator,
    subset: str,
    scores: Floats,
    levels: Sequence[str] = LEVELS,
    *,
    ahead: float = 0.0,
    passages: int = 1,
    lost: float = 0.0,
    one_place: bool = False,
) -> list[ScoredRow]:
    """Rows of [questions, levels] scores with evidence at random depths, and what depth does to them.

    `ahead`: what a score gains for passages in the outer two tenths of either side. `lost`: the share of rows at the
    last level whose evidence the cut took. `one_place`: a question's evidence is as deep at every level, and mostly
    near the beginning.
    """
    rows = run_of(subset, scores, levels)
    place = {row.question: float(chance.random() ** 2) for row in rows}
    found = []
    for row in rows:
        depths = [place[row.question]] if one_place else chance.random(passages).tolist()
        near = np.mean([not 0.2 <= depth < 0.8 for depth in depths])
        score = float(np.clip(row.released + ahead * near, 0, 1))
        gone = row.level == levels[-1] and chance.random() < lost
        pairs = [[depth, None if gone else depth] for depth in depths]
        record = {**row.record, "depths": {"evidence": pairs, "confusing_facts": []}}
        found.append(ScoredRow(subset, row.level, row.index, every(score), record))
    return found
