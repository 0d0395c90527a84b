"""What tests of misled answers share."""

from collections.abc import Mapping, Sequence

import numpy as np

from lveval.analysis import clusters, intervals, misled
from lveval.results import Cause, ScoredRow
from support.scores import every

# The subsets with confusing facts.
SUBSETS = {
    "en": ("hotpotwikiqa_mixup", "multifieldqa_en_mixup", "factrecall_en"),
    "zh": ("lic_mixup", "multifieldqa_zh_mixup", "factrecall_zh"),
}


def misled_run(
    chance: np.random.Generator, rates: Mapping[str, float], questions: int = 100
) -> tuple[list[ScoredRow], list[Cause]]:
    """Rows with a fact at three levels; by language the chance that one is misled.

    The rows of a question are alike: each goes by its question's luck with probability 0.6.
    Questions differ in number between the languages.
    """
    rows: list[ScoredRow] = []
    causes: list[Cause] = []
    for language, subsets in SUBSETS.items():
        number = questions if language == "en" else questions + questions // 3
        for subset in subsets:
            shared = chance.random(number)
            for at in range(number):
                for level in ("16k", "32k", "64k"):
                    luck = shared[at] if chance.random() < 0.6 else chance.random()
                    record = {"question_id": f"q{at}", "confusing_facts": ["a fact"]}
                    rows.append(ScoredRow(subset, level, at, every(0.0), record))
                    causes.append("distracted" if luck < rates[language] else "wrong")
    return rows, causes


def measured(
    rows: Sequence[ScoredRow], causes: Sequence[Cause], draws: int = clusters.DRAWS
) -> misled.Misled | None:
    """What a run with these rows alone would show."""
    tables = misled.rate_tables(clusters.value_tables(rows, misled.marks(rows, causes)))
    drawn = intervals.draw_together({misled.VALUE: tables}, draws=draws)
    return misled.measure_misled(rows, drawn)
