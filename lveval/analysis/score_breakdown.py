"""How a released F1 score came about, as a reader can check it by hand: keywords, then overlap.

work = explain_score(metrics.qa_f1_score_with_gold_ans, "amber reef", "amber", "amber")
work.passes, work.f1, work.score
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from lveval import metrics
from lveval.metrics import CHINESE, ENGLISH, Tokens

# metric -> its language, whether it has a keyword gate (stage 1)
_RELEASED_F1 = {
    metrics.qa_f1_score: (ENGLISH, False),
    metrics.qa_f1_zh_score: (CHINESE, False),
    metrics.qa_f1_score_with_gold_ans: (ENGLISH, True),
    metrics.qa_f1_zh_score_with_gold_ans: (CHINESE, True),
}


@dataclass(frozen=True)
class ScoreBreakdown:
    """What a `released` F1 metric counted in its two stages."""

    keywords: Tokens  # what stage 1 looks for, in order; empty: there is no stage 1
    ignored: tuple[int, ...]  # places in `keywords` of blacklisted words: they count as not found
    found: tuple[int, ...]  # places in `keywords` of those that the prediction holds
    least_recall: float  # stage 1 passes from here on
    overlap: int  # tokens that prediction and truth share
    prediction_tokens: int
    truth_tokens: int

    @property
    def passes(self) -> bool:
        """Whether stage 1 lets the answer through."""
        return not self.keywords or len(self.found) / len(self.keywords) >= self.least_recall

    @property
    def f1(self) -> float:
        """Stage 2, whatever stage 1 said."""
        if self.overlap == 0:
            return 0.0
        precision, recall = self.overlap / self.prediction_tokens, self.overlap / self.truth_tokens
        return 2 * precision * recall / (precision + recall)

    @property
    def score(self) -> float:
        """The metric's value."""
        return self.f1 if self.passes else 0.0


def explain_score(
    metric: Callable[..., float], prediction: str, ground_truth: str, gold_ans: str | None = None
) -> ScoreBreakdown | None:
    """Count what the metric counts in these texts; None if it is no released F1."""
    if metric not in _RELEASED_F1:
        return None
    language, gated = _RELEASED_F1[metric]
    answer = language.tokens(metrics.require_text(prediction))
    truth = language.tokens(ground_truth)
    keywords = metrics.keyword_tokens(language, gold_ans) if gated else ()
    if gated and language is CHINESE:  # published: there the truth takes the place of no keywords
        keywords = keywords or truth
    left = Counter(answer)
    ignored, found = [], []
    for place, word in enumerate(keywords):
        if word in language.blacklist:
            ignored.append(place)
        elif left[word]:
            left[word] -= 1
            found.append(place)
    return ScoreBreakdown(
        keywords=keywords,
        ignored=tuple(ignored),
        found=tuple(found),
        least_recall=language.released_gate,
        overlap=metrics.count_overlap(answer, truth),
        prediction_tokens=len(answer),
        truth_tokens=len(truth),
    )
