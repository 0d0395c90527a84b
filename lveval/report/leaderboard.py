"""Published models, and where a run stands among them, if it may stand there.

    models = read_published()
    standing(evaluation, level_means, models).table

leaderboard/published.csv has the scores (Yuan et al., "LV-Eval", arXiv 2402.05136), models.csv the windows. A run is
ranked only if it is complete, was made with --published and decoded as the published runs were.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import cast

from lveval import config
from lveval.common.errors import UsageError
from lveval.common.files import disk_errors
from lveval.results import PUBLISHED, PUBLISHED_LEVELS, Evaluation

FOLDER = Path(__file__).resolve().parent / "published"

SHORT_ANSWER = ("factrecall_en", "factrecall_zh")  # 16 new tokens; the others 64


@dataclass(frozen=True)
class PublishedModel:
    """One model of the published leaderboard; `released` protocol, official prompts."""

    name: str
    context_tokens: int | None
    scores: Mapping[tuple[str, str], float]  # (subset, level) -> 0 to 100

    def level_mean(self, level: str, subsets: Sequence[str] = PUBLISHED) -> float | None:
        """The plain mean of `subsets` at a level: with all 11, the published overall score. None: not all are there."""
        values = [self.scores.get((subset, level)) for subset in subsets]
        known = [value for value in values if value is not None]
        return fsum(known) / len(known) if known and len(known) == len(values) else None


@dataclass(frozen=True)
class RankLine:
    """One line of the leaderboard."""

    rank: int | None  # None: shown apart
    name: str
    context_tokens: int | None
    levels: tuple[float | None, ...]  # as PUBLISHED_LEVELS
    mean: float | None
    this_run: bool = False


@dataclass(frozen=True)
class Ranking:
    """The leaderboard with the run in it, or beside it with the reasons."""

    table: Sequence[RankLine]
    apart: RankLine | None
    reasons: Sequence[str]  # why the run is not ranked; empty: it is


def read_published(folder: Path = FOLDER) -> list[PublishedModel]:
    """The published models in the order of the file. HarnessError naming file and line where it is not as expected."""
    windows: dict[str, int] = {}
    for where, line in _lines(folder / "models.csv", ("model", "context_tokens")):
        windows[line["model"]] = int(_number(where, line["context_tokens"]))
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for where, line in _lines(folder / "published.csv", ("model", "dataset", "length", "score")):
        subset = config.DATASET_ALIAS.get(line["dataset"], line["dataset"])
        scores.setdefault(line["model"], {})[subset, line["length"]] = _number(where, line["score"])
    return [PublishedModel(name, windows.get(name), found) for name, found in scores.items()]


def _lines(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    with disk_errors("reading", path):
        text = path.read_text(encoding="utf-8")
    reader = csv.DictReader(text.splitlines())
    if missing := set(columns) - set(reader.fieldnames or ()):
        raise UsageError(
            f"{path}:1: no column {', '.join(sorted(missing))}; expected {', '.join(columns)}"
        )
    lines = [(f"{path}:{number}", line) for number, line in enumerate(reader, 2)]
    for where, line in lines:
        if any(line[column] is None for column in columns):
            raise UsageError(f"{where}: too few values; expected {', '.join(columns)}")
    return lines


def _number(where: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{where}: found {text!r}; expected a number") from None


def rank_run(
    evaluation: Evaluation, level_means: Mapping[str, float], published: Sequence[PublishedModel]
) -> Ranking:
    """Rank by the mean of the five levels' overall scores; equal means share a rank."""
    lines = []
    for model in published:
        levels = tuple(_rounded(model.level_mean(level)) for level in PUBLISHED_LEVELS)
        lines.append(RankLine(None, model.name, model.context_tokens, levels, _mean(levels)))
    name = evaluation.folder.resolve().name
    limit = evaluation.identity.get("model_max_len")
    levels = tuple(level_means.get(level) for level in PUBLISHED_LEVELS)
    own = RankLine(
        None, name, limit if isinstance(limit, int) else None, levels, _mean(levels), this_run=True
    )
    reasons = reasons_unranked(evaluation)
    if not reasons:
        lines.append(own)
    lines.sort(key=lambda line: -(line.mean or 0.0))
    ranked = [
        RankLine(1 + sum((other.mean or 0) > (line.mean or 0) for other in lines), *_rest(line))
        for line in lines
    ]
    return Ranking(ranked, own if reasons else None, reasons)


def _rounded(mean: float | None) -> float | None:
    """To two places, as the run's own means are."""
    return None if mean is None else round(mean, 2)


def _rest(line: RankLine) -> tuple[str, int | None, tuple[float | None, ...], float | None, bool]:
    return line.name, line.context_tokens, line.levels, line.mean, line.this_run


def _mean(levels: Sequence[float | None]) -> float | None:
    known = [level for level in levels if level is not None]
    return fsum(known) / len(known) if len(known) == len(PUBLISHED_LEVELS) else None


def reasons_unranked(evaluation: Evaluation) -> list[str]:
    """Why a run cannot be ranked among the published models, reason by reason; empty where it can."""
    reasons = []
    if evaluation.missing:
        reasons.append(f"{evaluation.missing} selected rows have no answer yet")
    built = [file.name for file in evaluation.files if file.constructed]
    if built:
        reasons.append(f"{len(built)} files hold constructed data ({built[0]} …)")
    if own := sorted({file.subset for file in evaluation.files} - set(PUBLISHED)):
        reasons.append(f"subsets that are not published: {', '.join(own)}")
    incomplete = [level for level in PUBLISHED_LEVELS if level not in evaluation.comparable_levels]
    if incomplete:
        rows = sum(config.DATASET_ROWS.values()) * len(PUBLISHED_LEVELS)
        reasons.append(
            f"not over just the {len(PUBLISHED)} published subsets with all their rows ({rows:,} at the five levels): "
            f"{', '.join(incomplete)}"
        )
    if not evaluation.manifest:
        return [*reasons, "no run.json, which would tell the prompts and the decoding"]
    if not evaluation.prompts.get("official"):
        reasons.append("not the official prompts (--published)")
    if evaluation.identity.get("chat_template") != "published":
        reasons.append("not the published chat formats (--published)")
    return reasons + _other_decoding(evaluation)


def _other_decoding(evaluation: Evaluation) -> list[str]:
    """How the run's decoding differs from the published runs': greedy, the model's shipped settings, short budgets."""
    identity = evaluation.identity
    engine = cast(dict[str, object], identity.get("engine", {}))
    reasons = []
    if identity.get("backend") == "echo":
        reasons.append("the echo backend is no model")
    if engine.get("pure_greedy"):
        reasons.append(
            "--pure-greedy: the published runs kept the generation settings that a model ships"
        )
    if engine.get("request_args"):
        fields = ", ".join(sorted(cast(dict[str, object], engine["request_args"])))
        reasons.append(f"--request-args changes the request: {fields}")
    if engine.get("system_message"):
        reasons.append("a system message goes before the prompts")
    budgets = cast(dict[str, object], identity.get("budgets", {}))
    changed = [
        name for name, budget in budgets.items() if budget != (16 if name in SHORT_ANSWER else 64)
    ]
    if changed:
        reasons.append(f"other answer budgets than the published: {', '.join(sorted(changed))}")
    return reasons
