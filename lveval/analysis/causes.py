"""Where points went: one cause for every scored answer, found from the row's own record.

    causes.classify_error(row)                    # "distracted"
    causes.points_lost(rows).levels["64k"]        # cause -> points that it cost the level's mean

docs/causes.md states the definitions with an example each. The first that holds, in the order of
CAUSES, is the cause; the last always holds. Texts are compared as metrics.py compares them, and
"gated" is the released metric's own gate.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import fsum

from lveval import config, metrics
from lveval.analysis.answer_text import (
    FILLERS,
    has_words,
    is_hedged,
    is_repetitive,
    numbers,
    starts_with_reasoning,
    without_refusals,
    words,
    wrong_script,
)
from lveval.analysis.score_breakdown import explain_score
from lveval.common.levels import FileKey, level_length
from lveval.results import CAUSES, Cause, ScoredRow, grouped

IN_WORDS: dict[Cause, str] = {  # docs/causes.md has the definitions
    "correct": "right, if not in just the truth's words",
    "verbose": "the truth is in the answer, but other words bury it",
    "evidence_cut": "truncation had removed evidence from the prompt, and the truth is not in the "
    "answer",
    "refused": "the answer declines",
    "empty": "no answer",
    "loop": "the answer repeats one piece over and over",
    "wrong_language": "the answer is in another script than the subset's",
    "distracted": "the answer matches a confusing fact better than the truth",
    "length": "the budget ended the answer before the truth came",
    "gated": "shares words with the truth, but too few of the keywords: the metric's gate set it "
    "to 0",
    "wrong": "none of these",
}

IN_SENTENCES: dict[Cause, str] = {  # what points were lost to
    "correct": "right answers in other words",
    "verbose": "right answers buried in other words",
    "evidence_cut": "evidence that was cut",
    "refused": "refusals",
    "empty": "empty answers",
    "loop": "answers that repeat themselves",
    "wrong_language": "answers in another script",
    "distracted": "confusing facts",
    "length": "answers that their budget ended",
    "gated": "answers that lack keywords",
    "wrong": "wrong answers",
}


def label(cause: Cause) -> str:
    """The cause as tables and charts name it: a loss by a "correct" answer is one by wording."""
    return "wording (right, not verbatim)" if cause == "correct" else cause.replace("_", " ")


# What the causes come down to: whether the answer was right, could not be known, or was missed.
FAMILIES: dict[str, tuple[Cause, ...]] = {
    "right": ("correct", "verbose"),
    "not in the prompt": ("evidence_cut",),
}
FAMILIES["the model failed"] = tuple(
    cause for cause in CAUSES if all(cause not in some for some in FAMILIES.values())
)


# Right by more than half; at just half it depends on which: "312 °C" has what counts in "312
# degrees", "Lou Beethoven" of "Ludwig Beethoven" has not.
CORRECT_F1 = 0.5

# dureader's answers are whole paragraphs: two right ones in own words share about a third of their
# words in order.
CORRECT_ROUGE = 0.3

# Of the truth's informative words: all of a short truth, and a paragraph even if every fifth word
# was put otherwise.
TRUTH_SHARE = 0.8

# Of a Chinese truth this short (most names) nothing may be missing: the rest of 费松年 is in 费松龄
# too.
WHOLE_CHARACTERS = 4

# Of the answer's informative words that the question lacks: most must come from one confusing fact.
FACT_SHARE = 0.5

# A truth of such a word alone must begin the answer: "there is no ..." is no "no".
YES_OR_NO = frozenset(
    {"yes", "no", "true", "false", "是", "否", "不是", "有", "没有", "对", "不对", "能", "不能"}
)


def classify_error(row: ScoredRow) -> Cause:
    """Find the one reason why the row scored as it did; a "correct" one lost by its wording."""
    case = _Case(row)
    if case.correct:
        return "correct"
    if case.holds_truth and not case.gated and not case.loops:
        return "verbose"
    if row.evidence_kept is False and not case.holds_truth:
        return "evidence_cut"
    if case.refused:
        return "refused"
    if not case.stopped and not has_words(case.answer):
        return "empty"
    if case.loops:
        return "loop"
    if not case.holds_truth and wrong_script(case.answer, case.language, case.known_text):
        return "wrong_language"
    if case.distracted:
        return "distracted"
    if case.stopped and not case.holds_truth and not _finished_first_line(case.answer):
        return "length"
    return "gated" if case.gated else "wrong"


class _Case:
    """A row with what the definitions ask about it."""

    def __init__(self, row: ScoredRow) -> None:
        self.row = row
        self.metric = config.DATASET_METRIC.get(row.subset, metrics.qa_f1_score)
        self.language = config.DATASET_LANGUAGE.get(row.subset) or row.text("language") or "en"
        self.is_chinese = self.language == "zh"
        self.answer = row.answer
        answers = row.record.get("answers")
        truth = answers[0] if isinstance(answers, list) and answers else ""
        self.truth = truth if isinstance(truth, str) else ""
        self.keywords = row.text("gold_ans") or ""
        self.question = row.text("input") or ""

    def _content(self, text: str) -> Sequence[str]:
        return metrics.content_words(text, self.language)

    def _informative(self, text: str) -> list[str]:
        """The distinct words of `text`, in order, without the blacklist's and the question's."""
        asked = set(self._content(self.question))
        return [word for word in dict.fromkeys(self._content(text)) if word not in asked]

    def _found(self, wanted: Iterable[str], *texts: str) -> list[str]:
        """Those of the `wanted` words that occur in the `texts`.

        Where Chinese words end depends on their neighbours, so there a longer word also counts
        where the segmentation has put its characters into others.
        """
        held = {word for text in texts for word in self._content(text)}
        joined = "\n".join(metrics.normalize(text, "zh") for text in texts if self.is_chinese)
        return [word for word in wanted if word in held or (len(word) > 1 and word in joined)]

    @property
    def stopped(self) -> bool:
        """Whether the budget ended the answer."""
        return "length" in (self.row.record.get("status"), self.row.record.get("finish_reason"))

    @property
    def known_text(self) -> str:
        """Question, truth and confusing facts: names in them do not show an answer's language."""
        return "\n".join([self.question, self.truth, *self.row.confusing_facts])

    @cached_property
    def loops(self) -> bool:
        """Whether the answer ends in repetitions."""
        return is_repetitive(self.answer)

    @cached_property
    def gated(self) -> bool:
        """Whether the gate of the released metric took an F1 above 0."""
        if self.row.released > 0:
            return False
        work = explain_score(self.metric, self.answer, self.truth, self.keywords)
        return work is not None and not work.passes and work.f1 > 0

    @cached_property
    def holds_truth(self) -> bool:
        """Whether the answer has the truth in it, among whatever else."""
        return self._holds_truth(self.answer)

    def _holds_truth(self, text: str) -> bool:
        truth = metrics.normalize(self.truth, self.language)
        if truth in YES_OR_NO:
            said = without_refusals(text)
            if self.is_chinese:
                return metrics.normalize(said, "zh").startswith(truth)
            return words(said)[:1] == [truth]
        if self.is_chinese and len(truth) > 1 and truth in metrics.normalize(text, "zh"):
            return True
        if self.is_chinese and len(truth) <= WHOLE_CHARACTERS:
            wanted: Sequence[str] = [truth]
        else:
            wanted = self._informative(self.truth) or self._content(self.truth)
        return self._holds_share(wanted, TRUTH_SHARE, text) or self._holds_share(
            self._content(self.keywords), 1.0, text
        )

    def _holds_share(self, wanted: Sequence[str], share: float, text: str) -> bool:
        return bool(wanted) and len(self._found(wanted, text)) >= share * len(wanted)

    @property
    def correct(self) -> bool:
        """Whether it scores as right, and names no other number and nothing confusing."""
        score = self.row.released
        if self.metric in (metrics.rouge_zh_score, metrics.rouge_zh_score_blacklist):
            return score > CORRECT_ROUGE
        if metrics.normalize(self.truth, self.language) in YES_OR_NO and not self.holds_truth:
            return False
        if not (score > CORRECT_F1 or (score == CORRECT_F1 and self.holds_truth)):
            return False
        true, given = numbers(self.truth), numbers(self.answer)
        other_number = true - given and given - true - numbers(self.question)
        return not other_number and not self.distracted

    @property
    def refused(self) -> bool:
        """Whether it is a refusal, by status or in words, with no truth or guess beside them."""
        if self.row.record.get("status") == "refused":
            return True
        rest = without_refusals(self.answer)
        if rest == self.answer or without_refusals(self.truth) != self.truth:
            return False
        return not self._holds_truth(rest) and not (is_hedged(rest) and self._matches_fact(rest))

    @cached_property
    def distracted(self) -> bool:
        """Whether the answer matches a confusing fact better than the truth."""
        return not self.holds_truth and self._matches_fact(without_refusals(self.answer))

    def _matches_fact(self, text: str) -> bool:
        facts = self.row.confusing_facts
        joined = [[fact] for fact in facts] + [facts]  # an answer may also join all of them
        return any(self._matches(text, some) for some in joined)

    def _matches(self, text: str, facts: Sequence[str]) -> bool:
        """Whether `text` shares more with these facts than with the truth: numbers, then words."""
        figures, true_figures = numbers(text) - numbers(self.question), numbers(self.truth)
        if not figures <= {number for fact in facts for number in numbers(fact)}:
            return False
        if figures and not figures & true_figures:
            return True
        given = [word for word in self._informative(text) if word not in FILLERS]
        true = self._found(given, self.truth)
        matched = given if self._is_part(text, facts) else self._found(given, *facts)
        enough = max(len(true), FACT_SHARE * len(given))
        return bool(set(matched) - set(true)) and len(matched) > enough

    def _is_part(self, text: str, facts: Sequence[str]) -> bool:
        """Whether a Chinese `text` is literally in a fact."""
        whole = metrics.normalize(text, self.language)
        if not self.is_chinese or len(whole) < 2:
            return False
        return any(whole in metrics.normalize(fact, "zh") for fact in facts)


def _finished_first_line(answer: str) -> bool:
    """Whether the first line is whole: one that neither announces nor reasons, then a break."""
    first, broken, _ = answer.strip().partition("\n")
    if not broken or starts_with_reasoning(first):
        return False
    return not first.rstrip().endswith((":", "："))


# --- points lost ---


@dataclass(frozen=True)
class PointsLost:
    """Points lost by cause, of 100; each mapping has all causes as keys, in the order of CAUSES.

    The causes of a file add up to 100 minus its (unrounded) score, those of a level and of a subset
    to 100 minus its mean over the files there are.
    """

    rows: dict[FileKey, dict[Cause, int]]  # of each file: how many rows have the cause
    files: dict[FileKey, dict[Cause, float]]
    levels: dict[str, dict[Cause, float]]  # means over the subsets; by length
    subsets: dict[str, dict[Cause, float]]  # means over the levels

    @property
    def present(self) -> list[Cause]:
        """The causes that cost something."""
        return [cause for cause in CAUSES if any(points[cause] for points in self.files.values())]


def points_lost(rows: Sequence[ScoredRow], found: Sequence[Cause] | None = None) -> PointsLost:
    """Sum up what each cause cost; `found` are the rows' causes where they are known already.

    A row of a file with n rows loses 100 * (1 - released) / n points to its one cause.
    """
    causes = found if found is not None else map(classify_error, rows)
    losses = grouped(
        (row.file, (cause, 100 * (1 - row.released)))
        for row, cause in zip(rows, causes, strict=True)
    )
    counts, files = {}, {}
    for file, of_file in losses.items():
        by_cause = grouped(of_file)
        counts[file] = {cause: len(by_cause.get(cause, ())) for cause in CAUSES}
        files[file] = {cause: fsum(by_cause.get(cause, ())) / len(of_file) for cause in CAUSES}
    by_level = grouped((level, points) for (_, level), points in files.items())
    by_subset = grouped((subset, points) for (subset, _), points in files.items())
    return PointsLost(
        rows=counts,
        files=files,
        levels={level: _means(by_level[level]) for level in sorted(by_level, key=level_length)},
        subsets={subset: _means(group) for subset, group in by_subset.items()},
    )


def _means(group: Sequence[dict[Cause, float]]) -> dict[Cause, float]:
    return {cause: fsum(points[cause] for points in group) / len(group) for cause in CAUSES}
