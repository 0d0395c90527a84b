"""What a report shows, whatever form it takes: built from an evaluation and its analysis.

    found = run_analysis.analyze_run(evaluation)
    page = build_report(evaluation, found, published=leaderboard.read_leaderboards())

Scores, intervals and points lost are on the scale of 0 to 100. `protocols` has the scores under
each; all else is of the headline, the published scorer's.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, TypeVar

from lveval import config
from lveval.analysis.ablation import Ablation
from lveval.analysis.causes import PointsLost
from lveval.analysis.comparison import Comparison
from lveval.analysis.contexts import Contexts, Passage
from lveval.analysis.evidence import Evidence
from lveval.analysis.groups import Groups
from lveval.analysis.intervals import Interval
from lveval.analysis.length_effect import LengthCurve, LengthEffect
from lveval.analysis.measures import Reasoning, Spread
from lveval.analysis.misled import Misled
from lveval.analysis.positions import Positions
from lveval.analysis.run_analysis import RunAnalysis
from lveval.analysis.score_breakdown import ScoreBreakdown, explain_score
from lveval.analysis.sweep import Sweep
from lveval.analysis.times import Times
from lveval.common.levels import FileKey
from lveval.report.leaderboard import Leaderboard, ModelScores, Ranking, rank_run
from lveval.report.text import control_note
from lveval.results import (
    HEADLINE,
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


NOT_HERE = "their data are not on this machine (--data-path FOLDER)"

Key = TypeVar("Key")


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
    scores: Mapping[str, float]  # protocol -> 0 to 1
    working: ScoreBreakdown | None
    evidence_kept: bool | None
    prompt_tokens: int | None
    prompt_tokens_full: int | None
    finish_reason: str | None
    length: int | None
    passages: Sequence[Passage]  # of its context; empty where the data are not here


@dataclass
class ProtocolScores:
    """The run under one protocol. Scores are table scores, so rounded, with their interval."""

    name: str
    about: str  # what the protocol is
    scores: dict[FileKey, Interval]
    level_means: dict[str, Interval]
    subset_means: dict[str, Interval]
    groups: Groups  # the same scores by task group and language
    note: str  # what the intervals are
    published: Sequence[ModelScores]  # models whose scores in this unit are known
    standing: Ranking | None  # of the run among them
    compared: Mapping[str, Comparison]  # by the other run's folder; this run is A
    other_runs: Sequence[ModelScores]  # all that the runs of `compared` scored


@dataclass
class ReportData:
    """Everything that a report shows."""

    name: str
    levels: list[str]
    subsets: list[str]
    recipe: list[tuple[str, str]]
    notes: list[str]  # what to know before quoting a number
    protocols: dict[str, ProtocolScores]  # the headline first
    leaderboard_levels: list[str]  # whose mean is the leaderboard's overall score
    evidence_by_file: Mapping[FileKey, Evidence]
    evidence_by_level: Mapping[str, Evidence]
    ceiling: Mapping[str, float]  # level -> the score that the evidence kept allows
    misled: Misled | None  # None where no row tells of a confusing fact
    lost: PointsLost
    ablation: Ablation
    lengths: LengthEffect
    reasoning: Mapping[str, Reasoning]  # by level; empty where no answer has any
    measures: Mapping[str, Mapping[str, Spread]]  # of plugins, by name and level
    positions: Positions | None  # None where no row tells where its evidence stands
    depths_note: str  # what is not known of the depths, or how they are known; may be ""
    passages_note: str  # why rows have no passages of their contexts; may be ""
    times: Mapping[str, Times]  # by level; empty where times.jsonl tells none
    facts: list[tuple[str, str]]  # what length costs the mean of the subsets, as names and values
    sweep: Sweep | None  # of a method, with this run as the dense one
    rows: list[RowView]
    control: str | None  # what was asked instead of the benchmark
    limit: int | None  # the longest prompt, in tokens without the chat format

    @property
    def headline(self) -> ProtocolScores:
        """The scores of the published scorer's protocol."""
        return self.protocols[HEADLINE]


def build_report(
    evaluation: Evaluation,
    found: RunAnalysis,
    *,
    published: Mapping[str, Leaderboard] | None = None,
    rank: bool = False,
    compared: Mapping[str, Mapping[str, Comparison]] | None = None,
    others: Sequence[Evaluation] = (),
    sweep: Sweep | None = None,
    contexts: Contexts | None = None,
) -> ReportData:
    """Collect everything that is known of a run.

    `published` and `compared` are by protocol. Published models are drawn beside the run's curve;
    with `rank` the run is placed among them, or listed unranked with the reasons. `others`: the
    runs that it is compared with, to be drawn beside it, too. Without `contexts` the page has no
    passages of them.
    """
    told = contexts or Contexts()
    limit = evaluation.identity.get("model_max_len")
    protocols = {name: protocol_scores(evaluation, found, name) for name in PROTOCOLS}
    for name, board in (published or {}).items():
        of_unit = protocols[name]
        of_unit.published = board.models
        if rank:
            means = {level: mean.value for level, mean in of_unit.level_means.items()}
            of_unit.standing = rank_run(evaluation, means, board)
    for name, comparisons in (compared or {}).items():
        protocols[name].compared = comparisons
    for name, of_protocol in protocols.items():
        of_protocol.other_runs = run_scores((evaluation, *others), name)[1:]
    return ReportData(
        name=evaluation.name,
        levels=list(protocols[HEADLINE].level_means),
        subsets=table_order(protocols[HEADLINE].subset_means),
        recipe=recipe(evaluation),
        notes=notes(evaluation),
        protocols=protocols,
        leaderboard_levels=evaluation.leaderboard_levels,
        evidence_by_file=found.evidence_by_file,
        evidence_by_level=found.evidence_by_level,
        ceiling=found.ceiling,
        misled=found.misled,
        lost=found.lost,
        ablation=found.ablation,
        lengths=found.lengths,
        reasoning=found.reasoning,
        measures=found.measures,
        positions=found.positions,
        depths_note=depths_note(evaluation, told),
        passages_note=passages_note(evaluation, contexts),
        times=found.times,
        facts=length_summary(found.lengths.overall),
        sweep=sweep,
        control=evaluation.control,
        limit=limit if type(limit) is int else None,
        rows=[
            row_view(row, cause, told.passages.get(row.key, ()))
            for row, cause in zip(evaluation.rows, evaluation.causes, strict=True)
        ],
    )


def protocol_scores(evaluation: Evaluation, found: RunAnalysis, name: str) -> ProtocolScores:
    """Collect a run's scores under one protocol, with no published model and no other run yet."""
    scores, intervals = evaluation.scores(name), found.intervals[name]
    return ProtocolScores(
        name=name,
        about=PROTOCOLS[name].about,
        scores=_with_values(intervals.files, scores),
        level_means=_with_values(intervals.levels, level_means(scores)),
        subset_means=_with_values(intervals.subsets, subset_means(scores)),
        groups=found.groups[name],
        note="; ".join((INTERVAL_NOTE, *found.interval_notes(name))),
        published=(),
        standing=None,
        compared={},
        other_runs=(),
    )


def run_scores(runs: Sequence[Evaluation], protocol: str) -> list[ModelScores]:
    """What runs scored, to be shown beside each other: those of one name by their folders."""
    names = Counter(run.name for run in runs)
    return [
        ModelScores(run.name if names[run.name] == 1 else run.place, None, run.scores(protocol))
        for run in runs
    ]


def _with_values(
    intervals: Mapping[Key, Interval], values: Mapping[Key, float]
) -> dict[Key, Interval]:
    """The intervals around the tables' rounded values."""
    return {key: replace(intervals[key], value=value) for key, value in values.items()}


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
        part, seed = "are scored on a part of their data file's rows", evaluation.sample_seed
        drawn = "" if seed is None else f", drawn at random (seed {seed})"
        found.append(f"Limited: {len(limited)} files {part}{drawn}.")
    if synthetic := sum(file.is_synthetic for file in files):
        found.append(f"{synthetic} files hold constructed data, not the published questions.")
    if refused := sum(file.statuses["refused"] for file in files):
        found.append(f"{refused:,} answers are refusals; they are scored as the empty answer.")
    return found


def depths_note(evaluation: Evaluation, contexts: Contexts) -> str:
    """Say which depths the run did not record, and what became of them."""
    rows = evaluation.rows
    unrecorded = [row for row in rows if row.depths is None]
    if not unrecorded:
        return ""
    computed = sum(row.key in contexts.depths for row in unrecorded)
    said = f"{len(unrecorded):,} of {len(rows):,} rows do not record where their passages stand"
    if computed:
        said += f"; for {computed:,} it is computed from the data"
        said += " (in the prompt, where nothing was cut)"
    if computed < len(unrecorded):
        said += f"; for {len(unrecorded) - computed:,} it is not known, for {NOT_HERE}"
    return f"{said}."


def passages_note(evaluation: Evaluation, contexts: Contexts | None) -> str:
    """Say why rows are shown without passages of their contexts."""
    if contexts is None:
        return "Passages of the contexts were left out of this page."
    if missing := len(contexts.missing):
        files = f"{missing} of {len(evaluation.files)} files"
        return f"Passages of the contexts are not shown for {files}: {NOT_HERE}."
    return ""


def row_view(row: ScoredRow, cause: Cause, passages: Sequence[Passage] = ()) -> RowView:
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
        scores=row.scores,
        working=explain_score(metric, row.answer, truths[0], keywords),
        evidence_kept=row.evidence_kept,
        prompt_tokens=row.count("prompt_tokens"),
        prompt_tokens_full=row.count("prompt_tokens_full"),
        finish_reason=row.text("finish_reason"),
        length=row.count("length"),
        passages=passages,
    )
