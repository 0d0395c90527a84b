"""Published models, and the rank of a run among them, if it may have one.

    board = read_leaderboards()["released"]
    rank_run(evaluation, level_means(evaluation.scores("released")), board).ranked

The files are in published/. published.csv has the scores of the benchmark's paper (Yuan et al.,
"LV-Eval", arXiv 2402.05136), published_more.csv those that its repository added, models.csv the
context windows. A run is ranked among them only if it is complete, was made with --published and
decoded as the published runs were. recall_overall.csv has what reports of other models quote, in
keyword recall by a rule that they do not publish: no run is ranked among those.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lveval import config
from lveval.common.errors import UsageError
from lveval.common.files import disk_errors
from lveval.common.levels import PUBLISHED_LEVELS, FileKey
from lveval.results import PUBLISHED, Evaluation, mean

FOLDER = Path(__file__).resolve().parent / "published"

PUBLISHED_BUDGETS = {"factrecall_en": 16, "factrecall_zh": 16}  # max_new_tokens; the others 64


@dataclass(frozen=True)
class ModelScores:
    """What a model or another run scored: each file, or no more than the means of levels."""

    name: str
    context_tokens: int | None
    scores: Mapping[FileKey, float]  # 0 to 100
    source: str = ""  # where the scores were published, if not with the others
    means: Mapping[str, float] | None = None  # level -> overall score, all that is published
    drawn: bool = True  # among the curves

    def level_mean(self, level: str, subsets: Sequence[str] = PUBLISHED) -> float | None:
        """Average `subsets` at a level; None where one is missing. Over all 11: overall score."""
        if self.means is not None:
            return self.means.get(level)
        return complete_mean([self.scores.get((subset, level)) for subset in subsets])


@dataclass(frozen=True)
class Leaderboard:
    """Models whose scores are known in the unit of one protocol."""

    models: Sequence[ModelScores]
    note: str  # what a reader of the table must know
    why_unranked: Sequence[str] = ()  # why no run can be ranked here


@dataclass(frozen=True)
class RankLine:
    """One line of a leaderboard."""

    name: str
    context_tokens: int | None
    levels: tuple[float | None, ...]  # as PUBLISHED_LEVELS
    source: str = ""  # where a model's scores were published, if not with the others
    rank: int | None = None  # None: unranked
    this_run: bool = False

    @property
    def mean(self) -> float | None:
        """The mean of the five levels; None where one is missing."""
        return complete_mean(self.levels)


@dataclass(frozen=True)
class Ranking:
    """The leaderboard with the run in it, or beside it with the reasons."""

    ranked: Sequence[RankLine]
    unranked: Sequence[RankLine]  # models without a score at each level; the run, if not ranked
    reasons: Sequence[str]  # why the run is not ranked; empty: it is
    note: str

    @property
    def in_words(self) -> str:
        """The run's rank among the published models, or why it has none."""
        for line in self.ranked:
            if line.this_run:
                others = len(self.ranked) - 1
                return f"It ranks {line.rank} of {others + 1}, among {others} published models."
        first, *more = self.reasons
        counted = "one more reason" if len(more) == 1 else f"{len(more)} more reasons"
        return f"Not ranked: {first}{f', and {counted}' if more else ''}."

    @property
    def lines(self) -> list[RankLine]:
        """Every line, the unranked ones last."""
        return [*self.ranked, *self.unranked]


def complete_mean(values: Sequence[float | None]) -> float | None:
    """Average the values as tables do; None where one is missing, or all."""
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None


RULE_UNKNOWN = (
    "the reports do not say their exact rule; this run's is the share of the answer keywords' "
    "words, or the first truth's where a row has no keywords, that the answer holds, without the "
    "blacklisted ones"
)


def read_leaderboards(folder: Path = FOLDER) -> dict[str, Leaderboard]:
    """Read the leaderboard of each protocol that has one; UsageError as read_published."""
    return {
        "released": Leaderboard(
            read_published(folder),
            "Published scores: Yuan et al., arXiv 2402.05136. Ranked by the mean of the five "
            "lengths. Only this run’s mean has an interval: of the others no rows are published.",
        ),
        "recall": Leaderboard(
            read_recall(folder),
            "Scores as the reports on Qwen2, Qwen2.5 and Qwen2.5-1M quote them, in keyword recall. "
            "They do not say their exact rule, prompts or subsets' weights: read them and this "
            "run's beside each other, not against each other. Ranked by the mean of the five "
            "lengths.",
            (RULE_UNKNOWN,),
        ),
    }


def read_recall(folder: Path = FOLDER) -> list[ModelScores]:
    """Read what reports quote in keyword recall; UsageError as read_published."""
    path, models = folder / "recall_overall.csv", []
    columns = ("model", "source", "without_extrapolation", *PUBLISHED_LEVELS)
    for where, line in _lines(path, columns):
        drawn = line["without_extrapolation"] == "no"
        name = line["model"] if drawn else f"{line['model']}, without length extrapolation"
        means = {level: _number(where, line[level]) for level in PUBLISHED_LEVELS if line[level]}
        models.append(ModelScores(name, None, {}, line["source"], means, drawn))
    return models


def read_published(folder: Path = FOLDER) -> list[ModelScores]:
    """Read the published models in the order of the files; UsageError names a bad file and line."""
    windows = {
        line["model"]: int(_number(where, line["context_tokens"]))
        for where, line in _lines(folder / "models.csv", ("model", "context_tokens"))
    }
    scores: dict[str, dict[FileKey, float]] = {}
    for where, line in _lines(folder / "published.csv", ("model", "dataset", "length", "score")):
        subset = config.DATASET_ALIAS.get(line["dataset"], line["dataset"])
        scores.setdefault(line["model"], {})[subset, line["length"]] = _number(where, line["score"])
    sources: dict[str, str] = {}
    columns = ("model", "source", "subset", "level", "score")
    for where, line in _lines(folder / "published_more.csv", columns):
        sources.setdefault(line["model"], line["source"])
        score = _number(where, line["score"])
        scores.setdefault(line["model"], {})[line["subset"], line["level"]] = score
    return [
        ModelScores(name, windows.get(name), found, sources.get(name, ""))
        for name, found in scores.items()
    ]


def _lines(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    with disk_errors("reading", path):
        text = path.read_text(encoding="utf-8")
    reader = csv.DictReader(text.splitlines())
    expected = f"expected {', '.join(columns)}"
    if missing := set(columns) - set(reader.fieldnames or ()):
        raise UsageError(f"{path}:1: no column {', '.join(sorted(missing))}; {expected}")
    lines = [(f"{path}:{number}", line) for number, line in enumerate(reader, 2)]
    for where, line in lines:
        if any(line[column] is None for column in columns):
            raise UsageError(f"{where}: too few values; {expected}")
    return lines


def _number(where: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{where}: found {text!r}; expected a number") from None


def rank_run(
    evaluation: Evaluation, level_means: Mapping[str, float], board: Leaderboard
) -> Ranking:
    """Rank by the mean of the five levels' overall scores; equal means share a rank."""
    lines = []
    for model in board.models:
        levels = tuple(model.level_mean(level) for level in PUBLISHED_LEVELS)
        lines.append(RankLine(model.name, model.context_tokens, levels, model.source))
    limit = evaluation.identity.get("model_max_len")
    own = RankLine(
        evaluation.name,
        limit if isinstance(limit, int) else None,
        tuple(level_means.get(level) for level in PUBLISHED_LEVELS),
        this_run=True,
    )
    reasons = [*board.why_unranked, *reasons_unranked(evaluation)]
    if not reasons:
        lines.append(own)
    # A model that was not scored at every level has no mean to be ranked by.
    complete = [(line.mean, line) for line in lines if line.mean is not None]
    order = sorted((of_line for of_line, _ in complete), reverse=True)
    ranked = [replace(line, rank=1 + order.index(of_line)) for of_line, line in complete]
    ranked.sort(key=lambda line: line.rank or 0)
    unranked = [line for line in lines if line.mean is None]
    return Ranking(ranked, [*unranked, *([own] if reasons else [])], reasons, board.note)


# Options of a run that the published runs had no like of; others say what the model is.
NOT_AS_PUBLISHED = {"plugins", "stop", "thinking_budget", "generate_args", "think_tags"}


def reasons_unranked(evaluation: Evaluation) -> list[str]:
    """List why a run cannot be ranked among the published models; empty where it can."""
    reasons = _selection_reasons(evaluation)
    if not evaluation.manifest:
        return [*reasons, "no run.json, which would tell the prompts and the decoding"]
    if evaluation.control:
        reasons.append(f"the control {evaluation.control} asks something else than the benchmark")
    if not evaluation.prompts.get("official"):
        reasons.append("not the official prompts (--published)")
    if evaluation.identity.get("chat_template") != "published":
        reasons.append("not the published chat formats (--published)")
    return reasons + _decoding_reasons(evaluation)


def _selection_reasons(evaluation: Evaluation) -> list[str]:
    """How the scored rows differ from the published data."""
    reasons = []
    if evaluation.missing:
        reasons.append(f"{evaluation.missing} selected rows have no answer yet")
    if evaluation.edited:
        reasons.append(f"{evaluation.edited_rows} rows were edited after they were answered")
    if synthetic := [file.name for file in evaluation.files if file.is_synthetic]:
        reasons.append(f"{len(synthetic)} files hold constructed data ({synthetic[0]} …)")
    if own := sorted({file.subset for file in evaluation.files} - set(PUBLISHED)):
        reasons.append(f"subsets that are not published: {', '.join(own)}")
    complete = evaluation.published_levels
    if incomplete := [level for level in PUBLISHED_LEVELS if level not in complete]:
        rows = sum(config.DATASET_ROWS.values()) * len(PUBLISHED_LEVELS)
        reasons.append(
            f"not over just the {len(PUBLISHED)} published subsets with all their rows "
            f"({rows:,} at the five levels): {', '.join(incomplete)}"
        )
    return reasons


def _decoding_reasons(evaluation: Evaluation) -> list[str]:
    """How the decoding differs: published is greedy, with shipped settings and short budgets."""
    identity = evaluation.identity
    engine = identity.get("engine", {})
    reasons = []
    if identity.get("backend") == "echo":
        reasons.append("the echo backend is no model")
    if engine.get("pure_greedy"):
        reasons.append(
            "--pure-greedy: the published runs kept the generation settings that a model ships"
        )
    given = identity.get("given", {})
    if changes := sorted(NOT_AS_PUBLISHED & given.keys()):
        reasons.append(f"the answers were made with {', '.join(changes)}")
    if engine.get("request_args"):
        fields = ", ".join(sorted(engine["request_args"]))
        reasons.append(f"--request-args changes the request: {fields}")
    if engine.get("system_message"):
        reasons.append("a system message goes before the prompts")
    changed = [
        subset
        for subset, budget in identity.get("budgets", {}).items()
        if budget != PUBLISHED_BUDGETS.get(subset, 64)
    ]
    if changed:
        reasons.append(f"other answer budgets than the published: {', '.join(sorted(changed))}")
    return reasons
