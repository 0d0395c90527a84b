"""What each step of the paper's metric does to the scores, and what scoring one truth alone does.

    variants = ablation.score_variants(row)                  # {"f1": 0.6, "keywords": 0.0, ...}
    effects = ablation.effects(variants_of_all_rows)         # {"keywords": [-0.6, ...], ...}
    found = ablation.summarize(rows, variants_of_all_rows, intervals_of_the_effects)
    found.effects["keywords"].levels["16k"].value            # points that the keyword gate takes

The paper builds its metric in steps (Yuan et al., arXiv 2402.05136): F1 of all words, then the gate
of answer keywords, then the blacklist; the last is protocol `described`. dureader_mixup has ROUGE-L
in the place of F1 and no gate. The best over all accepted answers is no step: the metrics look at
the first ground truth alone, and it shows how far `released` would move if they looked at all.

An effect is a difference between scores of the same answers, so its interval is paired. It has no
test: a gate only ever takes, so there is no chance for its sign to be tested against.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

from lveval import config, metrics
from lveval.results import ScoredRow, Scores, grouped

if TYPE_CHECKING:  # numpy is behind these
    from lveval.analysis.clusters import Breakdown
    from lveval.analysis.intervals import Interval

Metric = Callable[..., float]

# The metric of `described` -> the same without the blacklist, and without the gate besides.
_WITHOUT: dict[Metric, tuple[Metric, Metric]] = {
    metrics.qa_f1_score_described: (metrics.qa_f1_score_gated, metrics.qa_f1_score),
    metrics.qa_f1_zh_score_described: (metrics.qa_f1_zh_score_gated, metrics.qa_f1_zh_score),
    metrics.rouge_zh_score_blacklist: (metrics.rouge_zh_score, metrics.rouge_zh_score),
}

STEPS = {"f1": "F1", "keywords": "+ keywords", "blacklist": "+ blacklist"}  # and their names

# Variant -> what it is compared with.
BEFORE = {"keywords": "f1", "blacklist": "keywords", "all_answers": "first_answer"}


@dataclass(frozen=True)
class Ablation:
    """The scores of each variant, 0 to 100, and what each changes, in points."""

    scores: Mapping[str, Scores]  # variant -> file -> score
    effects: "Mapping[str, Breakdown[Interval]]"  # variant -> less the one in BEFORE
    several_answers: int  # rows with more than one accepted answer


def score_variants(row: ScoredRow) -> dict[str, float]:
    """Score a row under each variant, 0 to 1; steps of a metric that is not known are left out."""
    truths, keywords = row.record["answers"], row.text("gold_ans")
    released = config.DATASET_METRIC[row.subset]
    described = config.DATASET_METRIC_DESCRIBED[row.subset]
    first = row.scores["released"]
    others = (released(row.answer, str(truth), keywords) for truth in truths[1:])
    found = {"first_answer": first, "all_answers": max((first, *others))}
    if described in _WITHOUT:
        gated, plain = _WITHOUT[described]
        steps = {metric: metric(row.answer, truths[0], keywords) for metric in {plain, gated}}
        found["f1"], found["keywords"] = steps[plain], steps[gated]
        found["blacklist"] = row.scores["described"]
    return found


def effects(variants: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """What each variant adds to the one before it, for each row; NaN where the row lacks it."""
    return {
        name: [found[name] - found[before] if name in found else nan for found in variants]
        for name, before in BEFORE.items()
    }


def summarize(
    rows: Sequence[ScoredRow],
    variants: Sequence[Mapping[str, float]],
    intervals: "Mapping[str, Breakdown[Interval]]",
) -> Ablation:
    """Sum up the variants of each row; `intervals` are those of the effects."""
    found = grouped(
        ((name, row.file), score)
        for row, of_row in zip(rows, variants, strict=True)
        for name, score in of_row.items()
    )
    scores: dict[str, Scores] = {}
    for (name, file), of_file in found.items():
        scores.setdefault(name, {})[file] = metrics.file_score(of_file)
    several = sum(len(row.record["answers"]) > 1 for row in rows)
    return Ablation(scores, intervals, several)
