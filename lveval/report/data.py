"""What a report shows, whatever form it takes: built from an evaluation and its analysis.

    found = run_analysis.analyze_run(evaluation)
    page = build_report(evaluation, found, published=leaderboard.read_published())

Scores, intervals and points lost are on the scale of 0 to 100, of the released protocol but for the
described means.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from lveval import config
from lveval.analysis.causes import PointsLost
from lveval.analysis.comparison import Comparison
from lveval.analysis.evidence import Evidence
from lveval.analysis.intervals import Interval
from lveval.analysis.length_effect import LengthCurve, LengthEffect
from lveval.analysis.measures import Reasoning, Spread
from lveval.analysis.run_analysis import RunAnalysis
from lveval.analysis.score_breakdown import ScoreBreakdown, explain_score
from lveval.analysis.sweep import Sweep
from lveval.analysis.times import Times
from lveval.common.levels import FileKey
from lveval.report.leaderboard import PublishedModel, Ranking, rank_run
from lveval.report.text import control_note
from lveval.results import (
    PROTOCOLS,
    Cause,
    Evaluation,
    ScoredRow,
    level_means,
    subset_means,
    table_order,
)

INTERVAL_NOTE = (
    "95 % intervals by a bootstrap over questions, each with its rows at all lengths; in "
    "factrecall, which has one question, over contexts"
)


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
    working: ScoreBreakdown | None
    evidence_kept: bool | None
    prompt_tokens: int | None
    prompt_tokens_full: int | None
    finish_reason: str | None
    length: int | None


@dataclass
class ReportData:
    """Everything that a report shows. Scores are table scores, so rounded, with their interval."""

    name: str
    levels: list[str]
    subsets: list[str]
    recipe: list[tuple[str, str]]
    notes: list[str]  # what to know before quoting a number
    scores: dict[FileKey, Interval]
    level_means: dict[str, Interval]
    subset_means: dict[str, Interval]
    described_means: dict[str, float]  # by level
    leaderboard_levels: list[str]  # whose mean is the leaderboard's overall score
    published: list[PublishedModel]
    standing: Ranking | None
    evidence_by_file: Mapping[FileKey, Evidence]
    evidence_by_level: Mapping[str, Evidence]
    lost: PointsLost
    lengths: LengthEffect
    reasoning: Mapping[str, Reasoning]  # by level; empty where no answer has any
    measures: Mapping[str, Mapping[str, Spread]]  # of plugins, by name and level
    times: Mapping[str, Times]  # by level; empty where times.jsonl tells none
    facts: list[tuple[str, str]]  # what length costs the mean of the subsets, as names and values
    compared: Mapping[str, Comparison]  # by the other run's folder; this run is A
    sweep: Sweep | None  # of a method, with this run as the dense one
    rows: list[RowView]
    control: str | None  # what was asked instead of the benchmark
    interval_note: str
    limit: int | None  # the longest prompt, in tokens without the chat format


def build_report(
    evaluation: Evaluation,
    found: RunAnalysis,
    *,
    published: Sequence[PublishedModel] = (),
    rank: bool = False,
    compared: Mapping[str, Comparison] | None = None,
    sweep: Sweep | None = None,
) -> ReportData:
    """Collect everything that is known of a run.

    `published` are drawn beside the run's curve; with `rank` the run is placed among them, or
    listed unranked with the reasons.
    """
    scores = evaluation.scores("released")
    limit = evaluation.identity.get("model_max_len")
    by_level, by_subset = level_means(scores), subset_means(scores)
    intervals = found.intervals["released"]
    return ReportData(
        name=evaluation.name,
        levels=[level for level in evaluation.levels if level in by_level],
        subsets=table_order(by_subset),
        recipe=recipe(evaluation),
        notes=notes(evaluation),
        scores={
            file: replace(intervals.files[file], value=score) for file, score in scores.items()
        },
        level_means={
            level: replace(intervals.levels[level], value=mean) for level, mean in by_level.items()
        },
        subset_means={
            subset: replace(intervals.subsets[subset], value=mean)
            for subset, mean in by_subset.items()
        },
        described_means=level_means(evaluation.scores("described")),
        leaderboard_levels=evaluation.leaderboard_levels,
        published=list(published),
        standing=rank_run(evaluation, by_level, published) if rank else None,
        evidence_by_file=found.evidence_by_file,
        evidence_by_level=found.evidence_by_level,
        lost=found.lost,
        lengths=found.lengths,
        reasoning=found.reasoning,
        measures=found.measures,
        times=found.times,
        facts=length_summary(found.lengths.overall),
        compared=compared or {},
        sweep=sweep,
        control=evaluation.control,
        limit=limit if type(limit) is int else None,
        interval_note="; ".join((INTERVAL_NOTE, *found.interval_notes)),
        rows=list(map(row_view, evaluation.rows, evaluation.causes)),
    )


def length_summary(curve: LengthCurve) -> list[tuple[str, str]]:
    """Say what length costs, as names and values."""
    levels = list(curve.scores)
    changes = []
    if curve.drop is not None:
        changes.append((f"drop, {levels[0]} to {levels[-1]}", curve.drop))
    if curve.slope is not None:
        changes.append(("slope per doubling of the length", curve.slope))
    found = [
        (name, f"{change.value:+.2f} points ({between})")
        for name, change in changes
        if (between := change.between("+"))
    ]
    if curve.effective_length is not None:
        kept = f"{100 * curve.effective_length.fraction:.0f} % of the score at {levels[0]} kept"
        found.append((f"effective length ({kept})", str(curve.effective_length)))
    return found


def recipe(evaluation: Evaluation) -> list[tuple[str, str]]:
    """List what decided the numbers, as names and values."""
    identity, prompts = evaluation.identity, evaluation.prompts
    engine = dict(identity.get("engine", {}))
    model = engine.pop("model", None)
    settings = (f"{key} {value}" for key, value in engine.items() if value is not None)
    lines = [
        ("model", identity.get("model_name") or "not recorded (no run.json)"),
        ("model's files or id", model),
        ("backend", identity.get("backend")),
        ("engine", ", ".join(settings)),
        ("control", evaluation.control),
        ("prompts", prompts and f"{prompts.get('name')}, sha256 {prompts.get('sha256')}"),
        ("official prompts", prompts and ("yes" if prompts.get("official") else "no")),
        ("chat template", identity.get("chat_template")),
        ("longest prompt (tokens)", identity.get("model_max_len")),
        ("rows", evaluation.row_counts),
        *(("signature, " + protocol, evaluation.signature(protocol)) for protocol in PROTOCOLS),
    ]
    return [(name, str(value)) for name, value in lines if value not in (None, "", {})]


def notes(evaluation: Evaluation) -> list[str]:
    """Say what a reader must know before quoting a number."""
    found = [note] if (note := control_note(evaluation)) else []
    files, unfinished = evaluation.files, evaluation.unfinished
    if unfinished:
        missing = f"{evaluation.missing} rows of {len(unfinished)} files"
        found.append(f"Incomplete: {missing} have no answer; scores are of the others.")
    limited = [file for file in files if 0 < file.rows >= file.selected and not file.is_complete]
    if limited:
        part = "are scored on a part of their data file's rows"
        found.append(f"Limited: {len(limited)} files {part}.")
    if synthetic := sum(file.is_synthetic for file in files):
        found.append(f"{synthetic} files hold constructed data, not the published questions.")
    if refused := sum(file.statuses["refused"] for file in files):
        found.append(f"{refused:,} answers are refusals; they are scored as the empty answer.")
    return found


def row_view(row: ScoredRow, cause: Cause) -> RowView:
    """Pick what the browser shows of a row."""
    truths = [str(truth) for truth in row.record["answers"]]
    keywords = row.text("gold_ans")
    metric = config.DATASET_METRIC[row.subset]
    return RowView(
        subset=row.subset,
        level=row.level,
        index=row.index,
        language=config.DATASET_LANGUAGE[row.subset],
        question=row.text("input") or "",
        truths=truths,
        keywords_text=keywords,
        facts=row.confusing_facts,
        pred=row.record["pred"],
        raw_pred=row.text("raw_pred"),
        status=row.text("status") or "unrecorded",
        cause=cause,
        released=row.released,
        described=row.described,
        working=explain_score(metric, row.answer, truths[0], keywords),
        evidence_kept=row.evidence_kept,
        prompt_tokens=row.count("prompt_tokens"),
        prompt_tokens_full=row.count("prompt_tokens_full"),
        finish_reason=row.text("finish_reason"),
        length=row.count("length"),
    )
