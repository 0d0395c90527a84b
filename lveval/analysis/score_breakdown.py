"""TODO lveval.analysis.score_breakdown."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from lveval.metrics import (
    CHINESE,
    ENGLISH,
    Language,
    Tokens,
    count_overlap,
    keyword_tokens,
    qa_f1_score,
    qa_f1_score_with_gold_ans,
    qa_f1_zh_score,
    qa_f1_zh_score_with_gold_ans,
    require_text,
)

# --- how a score came about -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreBreakdown:
    """What a `released` F1 metric counted: two stages, as a reader can check them by hand."""

    keywords: Tokens  # what stage 1 looks for, in order; empty: there is no stage 1
    ignored: tuple[
        int, ...
    ]  # places in `keywords` of blacklisted words: never found, yet part of the denominator
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
    """The counts behind `metric(prediction, ground_truth, gold_ans)`; None for a metric that is no released F1."""
    if metric not in _RELEASED_F1:
        return None
    language, gated = _RELEASED_F1[metric]
    answer, truth = language.tokens(require_text(prediction)), language.tokens(ground_truth)
    keywords = keyword_tokens(language, gold_ans) if gated else ()
    if gated and language is CHINESE:
        keywords = keywords or truth
    left = Counter(answer)
    found = []
    for place, word in enumerate(keywords):
        if word not in language.blacklist and left[word]:
            left[word] -= 1
            found.append(place)
    return ScoreBreakdown(
        keywords=keywords,
        ignored=tuple(place for place, word in enumerate(keywords) if word in language.blacklist),
        found=tuple(found),
        least_recall=language.least_recall,
        overlap=count_overlap(answer, truth),
        prediction_tokens=len(answer),
        truth_tokens=len(truth),
    )


_RELEASED_F1: dict[
    Callable[..., float], tuple[Language, bool]
] = {  # metric -> its language, whether it has a stage 1
    qa_f1_score: (ENGLISH, False),
    qa_f1_zh_score: (CHINESE, False),
    qa_f1_score_with_gold_ans: (ENGLISH, True),
    qa_f1_zh_score_with_gold_ans: (CHINESE, True),
}
