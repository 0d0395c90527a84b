"""What a report shows, whatever form it takes: built from an evaluation and its analysis.

    found = run_analysis.analyze_run(evaluation)
    page = build_report(evaluation, found, published=leaderboard.read_leaderboards())

Scores, intervals and points lost are on the scale of 0 to 100. `protocols` has the scores under
each; all else is of the headline, the published scorer's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from lveval.analysis.ablation import Ablation
from lveval.analysis.causes import PointsLost
from lveval.analysis.comparison import Comparison
from lveval.analysis.contexts import Contexts
from lveval.analysis.evidence import Evidence
from lveval.analysis.groups import Groups
from lveval.analysis.intervals import Interval
from lveval.analysis.length_effect import LengthEffect
from lveval.analysis.measures import Reasoning, Spread
from lveval.analysis.misled import Misled
from lveval.analysis.positions import Positions
from lveval.analysis.run_analysis import RunAnalysis
from lveval.analysis.sweep import Sweep
from lveval.analysis.times import Times
from lveval.common.levels import FileKey
from lveval.report.leaderboard import Leaderboard, ModelScores, Ranking, rank_run
from lveval.report.row_data import RowView, row_views
from lveval.report.summary import comparison_sentence, run_sentence
from lveval.report.text import control_note
from lveval.results import (
    HEADLINE,
    PROTOCOLS,
    Evaluation,
    level_means,
    overall_mean,
    run_names,
    subset_means,
    table_order,
)

INTERVAL_NOTE = (
    "95 % intervals by a bootstrap over questions, each with its rows at all lengths; in "
    "factrecall, which has one question, over contexts"
)


NOT_HERE = "their data are not on this machine (--data-path FOLDER)"

Key = TypeVar("Key")


@dataclass
class ProtocolScores:
    """The run under one protocol. Scores are table scores, so rounded, with their interval."""

    name: str
    about: str  # what the protocol is
    scores: dict[FileKey, Interval]
    level_means: dict[str, Interval]
    subset_means: dict[str, Interval]
    overall: Interval  # the mean of the level means
    groups: Groups  # the same scores by task group and language
    note: str  # what the intervals are
    published: Sequence[ModelScores]  # models whose scores in this unit are known
    standing: Ranking | None  # of the run among them
    compared: Mapping[str, Comparison]  # by the other run's folder; this run is A
    other_runs: Sequence[ModelScores]  # all that the runs of `compared` scored


@dataclass(frozen=True)
class Badge:
    """What a reader sees of a run before any number."""

    text: str
    is_warning: bool = False  # whether the scores are not comparable as they stand


@dataclass
class ReportData:
    """Everything that a report shows."""

    name: str
    levels: list[str]
    subsets: list[str]
    recipe: list[tuple[str, str]]
    notes: list[str]  # what to know before quoting a number
    badges: list[Badge]
    sentence: str  # the run in plain words
    verdicts: list[str]  # its rank or why it has none, and each comparison, as sentences
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
    sweep: Sweep | None  # of a method, with this run as the dense one
    rows: list[RowView]
    others: Sequence[str]  # names of the compared runs, as in `other_runs` and each row
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
        badges=badges(evaluation),
        sentence=run_sentence(evaluation, found),
        verdicts=verdicts(protocols[HEADLINE]),
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
        depths_note=depths_note(evaluation),
        passages_note=passages_note(evaluation, contexts),
        times=found.times,
        sweep=sweep,
        control=evaluation.control,
        limit=limit if type(limit) is int else None,
        rows=row_views(evaluation, others, told),
        others=[run.name for run in protocols[HEADLINE].other_runs],
    )


def protocol_scores(evaluation: Evaluation, found: RunAnalysis, name: str) -> ProtocolScores:
    """Collect a run's scores under one protocol, with no published model and no other run yet."""
    scores, intervals = evaluation.scores(name), found.intervals[name]
    means = level_means(scores)
    return ProtocolScores(
        name=name,
        about=PROTOCOLS[name].about,
        scores=_with_values(intervals.files, scores),
        level_means=_with_values(intervals.levels, means),
        subset_means=_with_values(intervals.subsets, subset_means(scores)),
        overall=replace(intervals.overall, value=overall_mean(scores)),
        groups=found.groups[name],
        note="; ".join((INTERVAL_NOTE, *found.interval_notes(name))),
        published=(),
        standing=None,
        compared={},
        other_runs=(),
    )


def run_scores(runs: Sequence[Evaluation], protocol: str) -> list[ModelScores]:
    """What runs scored, to be shown beside each other."""
    return [
        ModelScores(name, None, run.scores(protocol))
        for name, run in zip(run_names(runs), runs, strict=True)
    ]


def _with_values(
    intervals: Mapping[Key, Interval], values: Mapping[Key, float]
) -> dict[Key, Interval]:
    """The intervals around the tables' rounded values."""
    return {key: replace(intervals[key], value=value) for key, value in values.items()}


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
        ("own subsets", own_subsets_in_words(identity.get("subsets", {}))),
        ("official prompts", prompts and ("yes" if prompts.get("official") else "no")),
        ("chat template", identity.get("chat_template")),
        ("longest prompt (tokens)", identity.get("model_max_len")),
        ("rows", evaluation.row_counts),
        *(("signature, " + protocol, evaluation.signature(protocol)) for protocol in PROTOCOLS),
    ]
    return [(name, str(value)) for name, value in lines if value not in (None, "", {})]


def own_subsets_in_words(own: Mapping[str, Mapping[str, object]]) -> str:
    """Say how the user's own subsets of a run are scored, and what their answers may take."""
    return "; ".join(
        f"{name}: {found['metric']}, {found['max_new_tokens']} new tokens"
        for name, found in own.items()
    )


def verdicts(found: ProtocolScores) -> list[str]:
    """Say how the run stands among the published models and against each compared run."""
    said = [found.standing.in_words] if found.standing else []
    said += [comparison_sentence(*each.names, each) for each in found.compared.values()]
    return said


def badges(evaluation: Evaluation) -> list[Badge]:
    """Tell prompts, rows, limit and control in a few words each."""
    prompts, identity = evaluation.prompts, evaluation.identity
    if evaluation.is_official:
        found = [Badge("official prompts")]
    elif prompts:
        official = "official prompts, other chat format"
        said = official if prompts.get("official") else f"own prompts ({prompts.get('name')})"
        found = [Badge(said, is_warning=True)]
    else:
        found = [Badge("prompts not recorded", is_warning=True)]
    rows, selected = (
        sum(getattr(file, name) for file in evaluation.files) for name in ("rows", "selected")
    )
    found.append(Badge(f"{rows:,} of {selected:,} rows", is_warning=rows < selected))
    if type(limit := identity.get("model_max_len")) is int:
        found.append(Badge(f"prompts of at most {limit:,} tokens"))
    if backend := identity.get("backend"):
        found.append(Badge(f"backend {backend}", is_warning=backend == "echo"))
    if evaluation.control:
        found.append(Badge(f"control {evaluation.control}", is_warning=True))
    if evaluation.edited:
        found.append(Badge(f"edited: {evaluation.edited_rows:,} rows", is_warning=True))
    if evaluation.unverified:
        found.append(Badge("unverified data", is_warning=True))
    return found


def notes(evaluation: Evaluation) -> list[str]:
    """Say what a reader must know before quoting a number."""
    told = (evaluation.edited_note, evaluation.unverified_note, control_note(evaluation))
    found = [note for note in told if note]
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


def depths_note(evaluation: Evaluation) -> str:
    """Say which depths the run did not record, and what became of them."""
    rows = evaluation.rows
    unrecorded = [row for row in rows if row.depths is None]
    if not unrecorded:
        return ""
    computed = sum(row.key in evaluation.depths for row in unrecorded)
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
