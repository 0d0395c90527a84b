"""What a report says, whatever form it takes: one `Page`, built from an evaluation and what the analyses found.

    page = page_of(evaluation, findings.of(evaluation.rows, evaluation.causes), published=leaderboard.read_published())

Scores, intervals and points lost are on the scale of 0 to 100, of the released protocol but for the described means.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

from lveval import config
from lveval.analysis import score_breakdown
from lveval.analysis.causes import PointsLost
from lveval.analysis.comparison import Comparison
from lveval.analysis.evidence import Evidence
from lveval.analysis.intervals import Interval
from lveval.analysis.length_effect import LengthCurve, LengthEffect, effective_text
from lveval.analysis.run_analysis import RunAnalysis
from lveval.common.levels import FileKey
from lveval.report.leaderboard import PublishedModel, Ranking, rank_run
from lveval.results import PROTOCOLS, Cause, Evaluation, ScoredRow, means, table_order

PROTOCOL = "released"

INTERVAL_NOTE = (
    "95 % intervals by a bootstrap over questions, each with its rows at all lengths; in factrecall, which has one "
    "question, over contexts"
)


@dataclass(frozen=True)
class Score:
    """A score and, where there is one, its interval."""

    value: float
    low: float | None = None
    high: float | None = None


class RowView(TypedDict):
    """One row as the row browser shows it."""

    subset: str
    level: str
    index: int
    language: str
    question: str
    truths: list[str]
    keywords_text: str | None
    facts: list[str]
    pred: str
    raw_pred: str | None
    status: str
    cause: str
    released: float  # 0 to 1, as `described` is
    described: float
    working: score_breakdown.ScoreBreakdown | None
    evidence_kept: bool | None
    prompt_tokens: int | None
    prompt_tokens_full: int | None
    finish_reason: str | None
    length: int | None


@dataclass
class ReportData:
    """All that a report says."""

    name: str
    levels: list[str]
    subsets: list[str]
    recipe: list[tuple[str, str]]
    notes: list[str]  # what keeps the numbers from being the whole truth
    scores: dict[FileKey, Score]
    level_means: dict[str, Score]
    subset_means: dict[str, Score]
    described_means: dict[str, float]  # by level
    comparable: list[str]  # levels whose mean is the leaderboard's overall score
    published: list[PublishedModel]
    standing: Ranking | None
    evidence_by_file: Mapping[FileKey, Evidence]
    evidence_by_level: Mapping[str, Evidence]
    lost: PointsLost
    lengths: LengthEffect
    facts: list[tuple[str, str]]  # what length costs the mean of the subsets, as names and values
    compared: Mapping[str, Comparison]  # by the other run's folder; this run is A
    rows: list[RowView]
    interval_note: str
    limit: int | None  # the longest prompt, in tokens without the chat format


def build_report(
    evaluation: Evaluation,
    found: RunAnalysis,
    *,
    published: Sequence[PublishedModel] = (),
    rank: bool = False,
    compared: Mapping[str, Comparison] | None = None,
) -> ReportData:
    """Everything that is known of a run as a Page.

    `published` are drawn beside the run's curve; with `rank` the run is placed among them, or apart with the reasons.
    """
    scores = evaluation.scores(PROTOCOL)
    limit = evaluation.identity.get("model_max_len")
    by_level, by_subset, intervals = means(scores, 1), means(scores, 0), found.intervals[PROTOCOL]
    return ReportData(
        name=evaluation.folder.resolve().name,
        levels=[level for level in evaluation.levels if level in by_level],
        subsets=table_order(by_subset),
        recipe=recipe(evaluation),
        notes=notes(evaluation),
        scores={pair: score_of(value, intervals.files[pair]) for pair, value in scores.items()},
        level_means={
            level: score_of(value, intervals.levels[level]) for level, value in by_level.items()
        },
        subset_means={
            subset: score_of(value, intervals.subsets[subset])
            for subset, value in by_subset.items()
        },
        described_means=means(evaluation.scores("described"), 1),
        comparable=evaluation.comparable_levels,
        published=list(published),
        standing=rank_run(evaluation, by_level, published) if rank else None,
        evidence_by_file=found.evidence_by_file,
        evidence_by_level=found.evidence_by_level,
        lost=found.lost,
        lengths=found.lengths,
        facts=facts(found.lengths.overall),
        compared=compared or {},
        limit=limit if type(limit) is int else None,
        interval_note="; ".join((INTERVAL_NOTE, *found.interval_notes)),
        rows=[
            row_view(row, cause)
            for row, cause in zip(evaluation.rows, evaluation.causes, strict=True)
        ],
    )


def score_of(value: float, interval: Interval) -> Score:
    """A score of the tables, which are rounded, with its interval."""
    return Score(value, interval.low, interval.high)


def facts(curve: LengthCurve) -> list[tuple[str, str]]:
    """What length costs, in words."""
    shortest, longest = [*curve.scores][:1], [*curve.scores][-1:]
    found = [
        (name, f"{measure.value:+.2f} points ({measure.between('+')})" if measure.between() else "")
        for name, measure in (
            (f"drop, {''.join(shortest)} to {''.join(longest)}", curve.drop),
            ("slope per doubling of the length", curve.slope),
        )
        if measure is not None
    ]
    if curve.effective is not None:
        name = f"effective length ({100 * curve.effective.fraction:.0f} % of the score at {''.join(shortest)} kept)"
        found.append((name, effective_text(curve.effective)))
    return [(name, value) for name, value in found if value]


def recipe(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What decided the numbers, as names and values."""
    identity = evaluation.identity
    engine, prompts = cast(dict[str, object], identity.get("engine", {})), evaluation.prompts
    lines: list[tuple[str, object]] = [
        ("model", identity.get("model_name") or "not recorded (no run.json)"),
        ("model's files or id", engine.get("model")),
        ("backend", identity.get("backend")),
        (
            "engine",
            ", ".join(
                f"{key} {value}"
                for key, value in engine.items()
                if key != "model" and value is not None
            ),
        ),
        ("prompts", prompts and f"{prompts.get('name')}, sha256 {prompts.get('sha256')}"),
        ("official prompts", prompts and ("yes" if prompts.get("official") else "no")),
        ("chat template", identity.get("chat_template")),
        ("longest prompt (tokens)", identity.get("model_max_len")),
        (
            "rows",
            f"{sum(file.rows for file in evaluation.files)}/{sum(file.selected for file in evaluation.files)}",
        ),
        *(("signature, " + protocol, evaluation.signature(protocol)) for protocol in PROTOCOLS),
    ]
    return [(name, str(value)) for name, value in lines if value not in (None, "", {})]


def notes(evaluation: Evaluation) -> list[str]:
    """What a reader must know before quoting a number."""
    found = []
    if unfinished := evaluation.unfinished:
        missing = f"{evaluation.missing} rows of {len(unfinished)} files"
        found.append(f"Incomplete: {missing} have no answer; scores are of the others.")
    limited = [
        file for file in evaluation.files if file.rows and not file.whole and file not in unfinished
    ]
    if limited:
        found.append(
            f"Limited: {len(limited)} files are scored on a part of their data file's rows."
        )
    if built := sum(file.constructed for file in evaluation.files):
        found.append(f"{built} files hold constructed data, not the published questions.")
    refused = sum(file.statuses["refused"] for file in evaluation.files)
    if refused:
        found.append(f"{refused:,} answers are refusals; they are scored as the empty answer.")
    return found


def row_view(row: ScoredRow, cause: Cause) -> RowView:
    """A recorded row as the browser shows it; values of a wrong type, which other programs may write, are left out."""
    record = row.record

    def number(key: str) -> int | None:
        value = record.get(key)
        return (
            value if type(value) is int and 0 <= value < 2**53 else None
        )  # as far as a script counts

    def text(key: str) -> str | None:
        value = record.get(key)
        return value if isinstance(value, str) else None

    pred, keywords, facts, kept = (
        str(record["pred"]),
        text("gold_ans"),
        record.get("confusing_facts"),
        record.get("evidence_kept"),
    )
    truths = [str(truth) for truth in cast(list[object], record["answers"])]
    status = text("status") or "unrecorded"
    scored = "" if status == "refused" else pred
    return RowView(
        subset=row.subset,
        level=row.level,
        index=row.index,
        language=config.DATASET_LANGUAGE[row.subset],
        question=text("input") or "",
        truths=truths,
        keywords_text=keywords,
        facts=[
            str(fact) for fact in (facts if isinstance(facts, list) else [facts] if facts else [])
        ],
        pred=pred,
        raw_pred=text("raw_pred"),
        status=status,
        cause=cause,
        released=row.released,
        described=row.described,
        working=score_breakdown.explain_score(
            config.DATASET_METRIC[row.subset], scored, truths[0], keywords
        ),
        evidence_kept=kept if isinstance(kept, bool) else None,
        prompt_tokens=number("prompt_tokens"),
        prompt_tokens_full=number("prompt_tokens_full"),
        finish_reason=text("finish_reason"),
        length=number("length"),
    )
