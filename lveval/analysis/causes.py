"""Where points went: one cause for every scored answer, found from the row's own record.

    causes.cause(row)                      # "distracted"
    causes.lost(rows).levels["64k"]        # cause -> points that it cost the level's mean

docs/causes.md states the definitions with an example each. The first that holds, in the order of CAUSES, is the cause;
the last always holds. Texts are compared as metrics.py compares them, and "gated" is the released metric's own gate.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import fsum

from lveval import config, metrics
from lveval.analysis import score_breakdown
from lveval.analysis.answer_text import (
    FILLERS,
    is_hedged,
    is_repetitive,
    numbers,
    starts_with_reasoning,
    without_refusals,
    words,
    wrong_script,
)
from lveval.common.levels import FileKey, level_length
from lveval.results import CAUSES, Cause, ScoredRow

IN_WORDS: dict[Cause, str] = {  # docs/causes.md has the definitions
    "correct": "right, if not in just the truth's words",
    "verbose": "the truth is in the answer, but other words bury it",
    "evidence_cut": "truncation had removed evidence from the prompt, and the truth is not in the answer",
    "refused": "the answer declines",
    "empty": "no answer",
    "loop": "the answer repeats one piece over and over",
    "wrong_language": "the answer is in another script than the subset's",
    "distracted": "the answer matches a confusing fact better than the truth",
    "length": "the budget ended the answer before the truth came",
    "gated": "shares words with the truth, but too few of the keywords: the metric's gate set it to 0",
    "wrong": "none of these",
}


# Right by more than half; at just half it depends on which: "312 °C" has what counts in "312 degrees", "Lou Beethoven"
# of "Ludwig Beethoven" has not.
CORRECT_F1 = 0.5

# dureader's answers are whole paragraphs: two right ones in own words share about a third of their words in order.
CORRECT_ROUGE = 0.3

# Of the truth's informative words: all of a short truth, and a paragraph even if every fifth word was put otherwise.
TRUTH_SHARE = 0.8

# Of a Chinese truth this short (most names) nothing may be missing: the rest of 费松年 stands in 费松龄 too.
WHOLE_CHARACTERS = 4

# Of the answer's informative words that the question lacks: most must come from one confusing fact.
FACT_SHARE = 0.5

# A truth of such a word alone is given only by an answer that begins with it: "there is no ..." is no "no".
YES_OR_NO = frozenset(
    {"yes", "no", "true", "false", "是", "否", "不是", "有", "没有", "对", "不对", "能", "不能"}
)


def classify_error(row: ScoredRow) -> Cause:
    """The one reason why the row scored as it did, for "correct" at most the wording."""
    case = _Case(row)
    if case.correct:
        return "correct"
    if case.holds_truth and not case.gated and not is_repetitive(case.answer):
        return "verbose"
    if case.record.get("evidence_kept") is False and not case.holds_truth:
        return "evidence_cut"
    if case.refused:
        return "refused"
    if not words(case.answer) and not case.stopped:
        return "empty"
    if is_repetitive(case.answer):
        return "loop"
    if not case.holds_truth and wrong_script(case.answer, case.language, case.known_text):
        return "wrong_language"
    if case.distracted:
        return "distracted"
    if case.stopped and not case.holds_truth and not _finished_first_line(case.answer):
        return "length"
    return "gated" if case.gated else "wrong"


class _Case:
    """A row with what the definitions ask about it. Fields of a wrong type count as absent."""

    def __init__(self, row: ScoredRow) -> None:
        self.record = row.record
        self.score = row.released
        self.metric = config.DATASET_METRIC.get(row.subset, metrics.qa_f1_score)
        self.language = config.DATASET_LANGUAGE.get(row.subset) or self._text("language") or "en"
        # A refusal is scored as the empty answer, whatever words it came in.
        self.answer = "" if self.record.get("status") == "refused" else self._text("pred")
        answers = self.record.get("answers")
        self.truth = (
            answers[0]
            if isinstance(answers, list) and answers and isinstance(answers[0], str)
            else ""
        )
        self.keywords = self._text("gold_ans")
        facts = self.record.get("confusing_facts")
        self.facts = [
            fact
            for fact in (facts if isinstance(facts, list) else [facts])
            if isinstance(fact, str)
        ]
        self.question = self._text("input")

    def _text(self, name: str) -> str:
        value = self.record.get(name)
        return value if isinstance(value, str) else ""

    def _informative(self, text: str) -> list[str]:
        """The distinct words of `text` that are neither the blacklist's nor the question's, in their order."""
        asked = set(metrics.content_words(self.question, self.language))
        return [
            word
            for word in dict.fromkeys(metrics.content_words(text, self.language))
            if word not in asked
        ]

    def _found(self, wanted: Sequence[str], *texts: str) -> list[str]:
        """Those of the `wanted` words that stand in the `texts`.

        Where Chinese words end depends on their neighbours, so there a word also counts if it stands within others.
        """
        held = {word for text in texts for word in metrics.content_words(text, self.language)}
        whole = (
            "\n".join(metrics.normalize(text, "zh") for text in texts)
            if self.language == "zh"
            else ""
        )
        return [word for word in wanted if word in held or (len(word) > 1 and word in whole)]

    @property
    def stopped(self) -> bool:
        """Whether the budget ended the answer."""
        return "length" in (self.record.get("status"), self.record.get("finish_reason"))

    @property
    def known_text(self) -> str:
        """Question, truth and confusing facts: names in them say nothing about an answer's language."""
        return "\n".join([self.question, self.truth, *self.facts])

    @cached_property
    def gated(self) -> bool:
        """Whether the gate of the released metric took an F1 above 0."""
        work = score_breakdown.explain_score(self.metric, self.answer, self.truth, self.keywords)
        return work is not None and not work.passes and work.f1 > 0

    @cached_property
    def holds_truth(self) -> bool:
        """Whether the answer has the truth in it, among whatever else."""
        return self._holds_truth(self.answer)

    def _holds_truth(self, text: str) -> bool:
        truth, whole = (metrics.normalize(part, self.language) for part in (self.truth, text))
        if truth in YES_OR_NO:
            said = without_refusals(text)
            starts = metrics.normalize(said, "zh").startswith(truth)
            return starts if self.language == "zh" else words(said)[:1] == [truth]
        if self.language == "zh" and len(truth) > 1 and truth in whole:
            return True
        wanted = self._informative(self.truth) or list(
            metrics.content_words(self.truth, self.language)
        )
        if self.language == "zh" and len(truth) <= WHOLE_CHARACTERS:
            wanted = [truth]
        keywords = metrics.content_words(self.keywords, self.language)
        return any(
            needed and len(self._found(needed, text)) >= share * len(needed)
            for needed, share in ((wanted, TRUTH_SHARE), (keywords, 1.0))
        )

    @property
    def correct(self) -> bool:
        """Whether it scores as a right answer does, names no other number than the truth, and nothing confusing."""
        if self.metric in (metrics.rouge_zh_score, metrics.rouge_zh_score_blacklist):
            return self.score > CORRECT_ROUGE
        if metrics.normalize(self.truth, self.language) in YES_OR_NO and not self.holds_truth:
            return False
        true, given = numbers(self.truth), numbers(self.answer)
        other_number = bool(true - given) and bool(given - true - numbers(self.question))
        enough = self.score > CORRECT_F1 or (self.score == CORRECT_F1 and self.holds_truth)
        return enough and not other_number and not self.distracted

    @property
    def refused(self) -> bool:
        """Whether the answer is a refusal: by its status or in words, and no truth or guess stands beside them."""
        if self.record.get("status") == "refused":
            return True
        rest = without_refusals(self.answer)
        if rest == self.answer or without_refusals(self.truth) != self.truth:
            return False
        return not self._holds_truth(rest) and not (is_hedged(rest) and self._distracted(rest))

    @cached_property
    def distracted(self) -> bool:
        """Whether the answer matches a confusing fact better than the truth."""
        return not self.holds_truth and self._distracted(without_refusals(self.answer))

    def _distracted(self, text: str) -> bool:
        given = [word for word in self._informative(text) if word not in FILLERS]
        whole = metrics.normalize(text, self.language)
        true = self._found(given, self.truth)
        figures = numbers(text) - numbers(self.question)
        for facts in [
            *([fact] for fact in self.facts),
            self.facts,
        ]:  # an answer may also join all of them
            known = {number for fact in facts for number in numbers(fact)}
            if not figures <= known:
                continue
            if figures - numbers(self.truth) and not figures & numbers(self.truth):
                return True
            stands_in = (
                self.language == "zh"
                and len(whole) > 1
                and any(whole in metrics.normalize(fact, "zh") for fact in facts)
            )
            matched = given if stands_in else self._found(given, *facts)
            if set(matched) - set(true) and len(matched) > max(len(true), FACT_SHARE * len(given)):
                return True
        return False


def _finished_first_line(answer: str) -> bool:
    """Whether the answer gave something whole before it ran on: a first line that neither announces nor reasons."""
    first, broken, _ = answer.strip().partition("\n")
    return (
        bool(broken)
        and not starts_with_reasoning(first)
        and not first.rstrip().endswith((":", "："))
    )


# --- points lost ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PointsLost:
    """Points lost by cause, of 100; every mapping has all causes as its keys, in the order of CAUSES.

    The causes of a file add up to 100 minus its (unrounded) score, those of a level and of a subset to 100 minus its
    mean over the files there are.
    """

    rows: dict[FileKey, dict[Cause, int]]  # of each file: how many rows have the cause
    files: dict[FileKey, dict[Cause, float]]
    levels: dict[str, dict[Cause, float]]  # means over the subsets; by length
    subsets: dict[str, dict[Cause, float]]  # means over the levels

    @property
    def present(self) -> list[Cause]:
        """The causes that cost something."""
        return [
            reason for reason in CAUSES if any(points[reason] for points in self.files.values())
        ]

    def table(self, part: Mapping[str, Mapping[Cause, float]]) -> list[list[str]]:
        """Cells of text for `levels` or `subsets`: a name, the points of each cause of `present`, their sum."""
        return [
            [
                name,
                *(f"{points[reason]:.1f}" for reason in self.present),
                f"{fsum(points.values()):.1f}",
            ]
            for name, points in part.items()
        ]


def points_lost(rows: Sequence[ScoredRow], found: Sequence[Cause] | None = None) -> PointsLost:
    """The tables of points lost; `found` are the rows' causes where they are known already.

    A row of a file with n rows loses 100 * (1 - released) / n points to its one cause.
    """
    counts: defaultdict[FileKey, Counter[Cause]] = defaultdict(Counter)
    losses: defaultdict[FileKey, defaultdict[Cause, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row, reason in zip(
        rows, found if found is not None else map(classify_error, rows), strict=True
    ):
        counts[row.subset, row.level][reason] += 1
        losses[row.subset, row.level][reason].append(100 * (1 - row.released))
    files = {
        pair: {reason: fsum(losses[pair][reason]) / counts[pair].total() for reason in CAUSES}
        for pair in counts
    }
    return PointsLost(
        rows={pair: {reason: counts[pair][reason] for reason in CAUSES} for pair in counts},
        files=files,
        levels=dict(sorted(_means(files, 1).items(), key=lambda item: level_length(item[0]))),
        subsets=_means(files, 0),
    )


def _means(files: dict[FileKey, dict[Cause, float]], part: int) -> dict[str, dict[Cause, float]]:
    """Means over the files that share a subset (part 0) or a level (part 1)."""
    groups: defaultdict[str, list[dict[Cause, float]]] = defaultdict(list)
    for pair, points in files.items():
        groups[pair[part]].append(points)
    return {
        name: {reason: fsum(points[reason] for points in group) / len(group) for reason in CAUSES}
        for name, group in groups.items()
    }
