"""Scores by task group and by language: means of the files' scores, with intervals.

    drawn = intervals.draw_together(clusters.score_tables(rows, ["released"]))
    found = groups.measure_groups(evaluation.scores("released"), drawn, "released")
    found.tasks["multi-hop QA"].levels["64k"].value, found.languages["en"].overall.low

Which subset is in which group says config.DATASET_GROUP; subsets without a line there are in none.
A group's score at a level is the plain mean of its subsets there, its overall score the mean of
its levels: as the tables of scores have it, from rounded scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lveval import config
from lveval.analysis.clusters import measure_parts
from lveval.analysis.intervals import DrawnTables, Interval
from lveval.results import LANGUAGES, Scores, by_language, level_means, mean, table_order


@dataclass(frozen=True)
class GroupMeans:
    """The means of some subsets, in points."""

    subsets: Sequence[str]  # that the run has, in the order of the tables
    levels: Mapping[str, Interval]  # by length
    overall: Interval  # of the levels' means


@dataclass(frozen=True)
class Groups:
    """The means of each task group and of each language that a run has."""

    tasks: Mapping[str, GroupMeans]  # in the order of config.DATASET_GROUP
    languages: Mapping[str, GroupMeans]  # "en", "zh"

    @property
    def named(self) -> dict[str, GroupMeans]:
        """All of them by the names that tables show."""
        spoken = {LANGUAGES[language]: means for language, means in self.languages.items()}
        return {**self.tasks, **spoken}


def measure_groups(scores: Scores, drawn: DrawnTables, protocol: str) -> Groups:
    """Average a run's scores under one protocol; `drawn` has the tables of that name."""
    subsets = table_order({subset for subset, _ in scores})

    def means(members: Mapping[str, Sequence[str]]) -> dict[str, GroupMeans]:
        return {
            name: _group_means(own, scores, drawn, protocol) for name, own in members.items() if own
        }

    tasks = {
        task: [subset for subset in subsets if config.DATASET_GROUP.get(subset) == task]
        for task in dict.fromkeys(config.DATASET_GROUP.values())
    }
    return Groups(means(tasks), means(by_language(subsets)))


def _group_means(
    subsets: Sequence[str], scores: Scores, drawn: DrawnTables, protocol: str
) -> GroupMeans:
    tables = [table for table in drawn.tables[protocol] if table.subset in subsets]
    weights = measure_parts(tables, lambda weights: weights)
    values = level_means({file: score for file, score in scores.items() if file[0] in subsets})
    levels = {
        level: replace(drawn.interval(protocol, weights.levels[level]), value=value)
        for level, value in values.items()
    }
    overall = drawn.interval(protocol, weights.overall)
    return GroupMeans(subsets, levels, replace(overall, value=mean([*values.values()])))
