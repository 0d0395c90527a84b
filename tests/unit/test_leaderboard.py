"""The published scores in the project agree with the means that were published with them."""

import csv
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

from conftest import ROOT

from lveval import config
from lveval.report.leaderboard import read_leaderboards

PUBLISHED = ROOT / "lveval/report/published" / "published.csv"
OVERALL = ROOT / "lveval/report/published" / "published_overall.csv"
OUTLIER = (
    "ChatGLM3-6B-32k",
    "multifieldqa_zh_mixup",
    "mean over levels",
)  # as published: off by 0.014
Means = dict[tuple[str, str, str], Fraction]


def read(path: Path) -> Means:
    """(model, dataset, length) -> score, exact."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = {(row["model"], row["dataset"], row["length"]): Fraction(row["score"]) for row in rows}
    assert len(scores) == len(rows), f"{path.name}: a line stands twice"
    return scores


def recomputed(scores: Means) -> Means:
    """Plain means over the subsets and over the levels of every model."""
    groups = defaultdict(list)
    for (model, subset, level), score in scores.items():
        groups[model, "mean over subsets", level].append(score)
        groups[model, subset, "mean over levels"].append(score)
    return {key: sum(group, Fraction(0)) / len(group) for key, group in groups.items()}


def test_every_model_has_every_subset_at_every_level() -> None:
    scores = read(PUBLISHED)
    models = {model for model, _, _ in scores}
    assert len(models) == 10
    assert set(scores) == {
        (model, subset, level)
        for model in models
        for subset in config.DATASET_ROWS
        for level in ("16k", "32k", "64k", "128k", "256k")
    }
    assert all(0 <= score <= 100 for score in scores.values())
    with (ROOT / "lveval/report/published" / "models.csv").open(
        encoding="utf-8", newline=""
    ) as file:
        assert {row["model"] for row in csv.DictReader(file)} == models


def test_the_published_means_are_those_of_the_published_scores() -> None:
    means, published = recomputed(read(PUBLISHED)), read(OVERALL)
    assert means.keys() == published.keys()
    of_levels = [key for key in means if key[1] == "mean over subsets"]
    assert (len(of_levels), len(means) - len(of_levels)) == (50, 110)
    off = {
        key: abs(means[key] - published[key])
        for key in means
        if abs(means[key] - published[key]) > Fraction("0.01")
    }
    assert list(off) == [OUTLIER], off
    assert off[OUTLIER] == Fraction("0.014")


def test_what_was_published_later_joins_the_first_leaderboard() -> None:
    models = {model.name: model for model in read_leaderboards()["released"].models}
    assert len(models) == 11
    found = models["Qwen2-72B-Instruct"]
    assert set(found.scores) == {(subset, "16k") for subset in config.DATASET_ROWS}
    assert found.level_mean("16k") == round(278.42 / 11, 2)
    assert found.level_mean("32k") is None and "repository" in found.source


def test_the_leaderboard_of_recall_has_every_line_of_the_reports() -> None:
    board = read_leaderboards()["recall"]
    assert len(board.models) == len({model.name for model in board.models}) == 19
    assert all(
        model.source and 0 < mean < 100
        for model in board.models
        for mean in (model.means or {}).values()
    )
    plain = [model for model in board.models if not model.drawn]
    assert len(plain) == 6 and all("without length extrapolation" in each.name for each in plain)
    for model in plain:  # up to 32k no extrapolation was needed
        whole = next(each for each in board.models if each.name == model.name.split(",")[0])
        assert [model.level_mean(level) for level in ("16k", "32k")] == [
            whole.level_mean(level) for level in ("16k", "32k")
        ]
        assert (model.level_mean("256k") or 0) < (whole.level_mean("256k") or 0)
    assert board.why_unranked
