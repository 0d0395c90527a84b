"""What a report says, whatever form it takes: one `Page`, built from an evaluation.

    page = page_of(evaluation.evaluate(folder), published=leaderboard.read_published())

Scores, intervals and points lost are on the scale of 0 to 100. What an analysis adds (intervals, causes, a
comparison, lengths) is an argument that may be left out; the page then goes without.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from statistics import median
from typing import TypedDict, cast

import config
import metrics
import store
from analysis import ScoredRow
from evaluation import PROTOCOLS, SUBSETS, Evaluation, means
from report_page.leaderboard import PublishedModel, Standing, standing

Pair = tuple[str, str]  # (subset, level)
RowKey = tuple[str, str, int]  # (subset, level, index)
Interval = tuple[float, float]  # low, high; 0 to 100
PROTOCOL = "released"  # of every score on the page but the described means


@dataclass(frozen=True)
class Score:
    """A score and, where known, its interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Intervals:
    """What analysis/intervals.py found; any of them may be missing."""

    files: Mapping[Pair, Interval] = field(default_factory=dict)
    levels: Mapping[str, Interval] = field(default_factory=dict)
    subsets: Mapping[str, Interval] = field(default_factory=dict)
    note: str = "95 % intervals"  # how they were made, in a sentence


@dataclass(frozen=True)
class Evidence:
    """What truncation did to one file."""

    kept: int = 0
    cut: int = 0
    unknown: int = 0  # rows that do not tell
    score_kept: float | None = None  # of the rows whose evidence was kept
    score_cut: float | None = None
    tokens: float | None = None  # median tokens of the prompts
    tokens_full: float | None = None  # the same before the cut


@dataclass(frozen=True)
class ComparisonLine:
    """One thing compared between this run and another."""

    what: str  # a level, a subset, all
    this: float
    other: float
    low: float | None = None  # of this - other
    high: float | None = None
    p: float | None = None  # adjusted
    verdict: str = ""


@dataclass(frozen=True)
class Comparison:
    """This run against one other."""

    other: str
    lines: Sequence[ComparisonLine]
    warnings: Sequence[str] = ()  # where data, prompts or protocol differ
    note: str = ""


class BrowserRow(TypedDict):
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
    cause: str | None
    released: float  # 0 to 1, as `described` is
    described: float
    working: metrics.Working | None
    evidence_kept: bool | None
    prompt_tokens: int | None
    prompt_tokens_full: int | None
    finish_reason: str | None
    length: int | None


@dataclass
class Page:
    """All that a report says."""

    name: str
    levels: list[str]
    subsets: list[str]
    recipe: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what keeps the numbers from being the whole truth
    scores: dict[Pair, Score] = field(default_factory=dict)
    level_means: dict[str, Score] = field(default_factory=dict)
    subset_means: dict[str, Score] = field(default_factory=dict)
    described_means: dict[str, float] = field(default_factory=dict)  # by level
    interval_note: str = ""
    comparable: list[str] = field(default_factory=list)  # levels whose mean is the leaderboard's overall score
    published: list[PublishedModel] = field(default_factory=list)
    standing: Standing | None = None
    evidence: dict[Pair, Evidence] = field(default_factory=dict)
    causes: list[str] = field(default_factory=list)  # in the order of the tables
    lost: dict[Pair, dict[str, float]] = field(default_factory=dict)  # (subset, level) -> cause -> points of the file
    lengths: list[tuple[str, str]] = field(default_factory=list)  # effective length and the like, in words
    comparisons: list[Comparison] = field(default_factory=list)
    rows: list[BrowserRow] = field(default_factory=list)

    def lost_by(self, part: int) -> dict[str, dict[str, float]]:
        """Points lost by subset (part 0) or level (part 1), by cause: means over the files, as the score's mean is."""
        groups: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
        for pair, lost in self.lost.items():
            groups[pair[part]].append(lost)
        order = self.levels if part else self.subsets
        return {
            name: {
                cause: fsum(lost.get(cause, 0.0) for lost in groups[name]) / len(groups[name]) for cause in self.causes
            }
            for name in order
            if name in groups
        }

    def evidence_by_level(self) -> dict[str, Evidence]:
        """The files of each level together; scores are means over rows, tokens medians of the files' medians."""
        groups: defaultdict[str, list[Evidence]] = defaultdict(list)
        for (_, level), evidence in self.evidence.items():
            groups[level].append(evidence)
        return {level: together(groups[level]) for level in self.levels if level in groups}


def together(parts: Sequence[Evidence]) -> Evidence:
    """Several files' evidence as one."""

    def mean(pairs: Sequence[tuple[float | None, int]]) -> float | None:
        weights = sum(count for score, count in pairs if score is not None)
        return fsum(score * count for score, count in pairs if score is not None) / weights if weights else None

    def middle(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return median(known) if known else None

    return Evidence(
        kept=sum(part.kept for part in parts),
        cut=sum(part.cut for part in parts),
        unknown=sum(part.unknown for part in parts),
        score_kept=mean([(part.score_kept, part.kept) for part in parts]),
        score_cut=mean([(part.score_cut, part.cut) for part in parts]),
        tokens=middle([part.tokens for part in parts]),
        tokens_full=middle([part.tokens_full for part in parts]),
    )


# --- building -------------------------------------------------------------------------------------------------------


def scored_rows(evaluation: Evaluation) -> list[ScoredRow]:
    """Every scored answer of a run with its record, file by file in the order of the tables."""
    rows = []
    for file in evaluation.files:
        records = store.read_records(evaluation.folder, file.subset, file.level)
        for place, ((record, _), released, described) in enumerate(
            zip(records, file.scores["released"], file.scores["described"], strict=True)
        ):
            index = cast(int, record.get("index", place))
            rows.append(ScoredRow(file.subset, file.level, index, released, described, record))
    return rows


def page_of(
    evaluation: Evaluation,
    rows: Sequence[ScoredRow] | None = None,
    *,
    published: Sequence[PublishedModel] = (),
    rank: bool = False,
    intervals: Intervals | None = None,
    causes: Mapping[RowKey, str] | None = None,
    cause_order: Sequence[str] = (),
    lengths: Sequence[tuple[str, str]] = (),
    comparisons: Sequence[Comparison] = (),
) -> Page:
    """Everything that is known of a run as a Page; `rows` are read from its folder where they are not given.

    `published` are drawn beside the run's curve; with `rank` the run is placed among them, or apart with the reasons.
    `causes`: a cause a row; `cause_order`: how the tables list them. `lengths`: names and values, in words.
    """
    rows = scored_rows(evaluation) if rows is None else rows
    found, intervals = evaluation.scores(PROTOCOL), intervals or Intervals()
    by_level, by_subset = means(found, 1), means(found, 0)
    page = Page(
        name=evaluation.folder.resolve().name,
        levels=[level for level in evaluation.levels if level in by_level],
        subsets=[subset for subset in SUBSETS if subset in by_subset],
        recipe=recipe(evaluation),
        notes=notes(evaluation),
        scores={pair: Score(value, *intervals.files.get(pair, ())) for pair, value in found.items()},
        level_means={level: Score(value, *intervals.levels.get(level, ())) for level, value in by_level.items()},
        subset_means={subset: Score(value, *intervals.subsets.get(subset, ())) for subset, value in by_subset.items()},
        described_means=means(evaluation.scores("described"), 1),
        interval_note=intervals.note if intervals.files or intervals.levels or intervals.subsets else "",
        comparable=evaluation.comparable_levels,
        published=list(published),
        standing=standing(evaluation, by_level, published) if rank else None,
        lengths=list(lengths),
        comparisons=list(comparisons),
        rows=[browser_row(row, (causes or {}).get((row.subset, row.level, row.index))) for row in rows],
    )
    files: defaultdict[Pair, list[BrowserRow]] = defaultdict(list)
    for row in page.rows:
        files[row["subset"], row["level"]].append(row)
    page.evidence = {pair: evidence_of(file) for pair, file in files.items()}
    if causes is not None:
        page.lost = {pair: points_lost(file) for pair, file in files.items()}
        named = {cause for lost in page.lost.values() for cause in lost}
        page.causes = [*(cause for cause in cause_order if cause in named), *sorted(named - set(cause_order))]
    return page


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
            ", ".join(f"{key} {value}" for key, value in engine.items() if key != "model" and value is not None),
        ),
        ("prompts", prompts and f"{prompts.get('name')}, sha256 {prompts.get('sha256')}"),
        ("official prompts", prompts and ("yes" if prompts.get("official") else "no")),
        ("chat template", identity.get("chat_template")),
        ("longest prompt (tokens)", identity.get("model_max_len")),
        ("rows", f"{sum(file.rows for file in evaluation.files)}/{sum(file.selected for file in evaluation.files)}"),
        *(("signature, " + protocol, evaluation.signature(protocol)) for protocol in PROTOCOLS),
    ]
    return [(name, str(value)) for name, value in lines if value not in (None, "", {})]


def notes(evaluation: Evaluation) -> list[str]:
    """What a reader must know before quoting a number."""
    found = []
    if unfinished := evaluation.unfinished:
        missing = sum(file.selected - file.rows for file in unfinished)
        found.append(f"Incomplete: {missing} rows of {len(unfinished)} files have no answer; scores are of the others.")
    limited = [file for file in evaluation.files if file.rows and not file.whole and file not in unfinished]
    if limited:
        found.append(f"Limited: {len(limited)} files are scored on a part of their data file's rows.")
    if built := sum(file.constructed for file in evaluation.files):
        found.append(f"{built} files hold constructed data, not the published questions.")
    refused = sum(file.statuses["refused"] for file in evaluation.files)
    if refused:
        found.append(f"{refused} answers are refusals; they are scored as the empty answer.")
    return found


def browser_row(row: ScoredRow, cause: str | None) -> BrowserRow:
    """A recorded row as the browser shows it; values of a wrong type, which other programs may write, are left out."""
    record = row.record

    def number(key: str) -> int | None:
        value = record.get(key)
        return value if type(value) is int else None

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
    return BrowserRow(
        subset=row.subset,
        level=row.level,
        index=row.index,
        language=config.DATASET_LANGUAGE[row.subset],
        question=text("input") or "",
        truths=truths,
        keywords_text=keywords,
        facts=[str(fact) for fact in (facts if isinstance(facts, list) else [facts] if facts else [])],
        pred=pred,
        raw_pred=text("raw_pred"),
        status=status,
        cause=cause,
        released=row.released,
        described=row.described,
        working=metrics.working(config.DATASET_METRIC[row.subset], scored, truths[0], keywords),
        evidence_kept=kept if isinstance(kept, bool) else None,
        prompt_tokens=number("prompt_tokens"),
        prompt_tokens_full=number("prompt_tokens_full"),
        finish_reason=text("finish_reason"),
        length=number("length"),
    )


def evidence_of(rows: Sequence[BrowserRow]) -> Evidence:
    """What truncation did to the rows of one file."""
    kept = [row["released"] for row in rows if row["evidence_kept"] is True]
    cut = [row["released"] for row in rows if row["evidence_kept"] is False]
    tokens = [row["prompt_tokens"] for row in rows if row["prompt_tokens"] is not None]
    full = [row["prompt_tokens_full"] for row in rows if row["prompt_tokens_full"] is not None]
    return Evidence(
        kept=len(kept),
        cut=len(cut),
        unknown=len(rows) - len(kept) - len(cut),
        score_kept=100 * fsum(kept) / len(kept) if kept else None,
        score_cut=100 * fsum(cut) / len(cut) if cut else None,
        tokens=median(tokens) if tokens else None,
        tokens_full=median(full) if full else None,
    )


def points_lost(rows: Sequence[BrowserRow]) -> dict[str, float]:
    """cause -> points that one file lost by it; together with the file's score they make 100."""
    lost: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["released"] < 1:
            lost[row["cause"] or "unknown"].append(1 - row["released"])
    return {cause: 100 * fsum(parts) / len(rows) for cause, parts in lost.items()}
