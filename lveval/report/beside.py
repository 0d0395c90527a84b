"""This run beside others: what compared runs and published models scored in its subsets and groups.

    lines = beside.model_lines(page.name, page.headline)
    lines[0].subsets["lic_mixup"]              # this run; then compared runs, then published models
    beside.drawn_models(lines)                 # those that charts show

Another model counts over the files that this run has: where it lacks one of them, the subset or
group has no value.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lveval.common.levels import FileKey
from lveval.report.leaderboard import complete_mean
from lveval.results import grouped

if TYPE_CHECKING:  # numpy is behind it
    from lveval.report.data import ProtocolScores

# Colours in the style of those that are drawn beside this run; more could not be told apart. The
# second of the sweep's is this run's own.
HUES = ("s0", "s2", "s3", "s4")


@dataclass(frozen=True)
class ModelLine:
    """What a model or run scored over the files of this run, in points; None: it lacks one."""

    name: str
    kind: str  # "this run", "compared" or "published"
    subsets: Mapping[str, float | None]  # means of the levels
    groups: Mapping[str, float | None]  # means of the levels' means, by task group

    @property
    def is_complete(self) -> bool:
        """Whether it has every file of this run."""
        return None not in self.subsets.values()

    @property
    def mean(self) -> float | None:
        """The plain mean of the subsets; None where it lacks one."""
        return complete_mean(list(self.subsets.values()))


def model_lines(name: str, found: "ProtocolScores", level: str | None = None) -> list[ModelLine]:
    """List this run, then compared runs, then published models, best first; of one level or all."""
    own = {file: score.value for file, score in found.scores.items() if level in (None, file[1])}
    tasks = {task: means.subsets for task, means in found.groups.tasks.items()}
    compared = [_line(run.name, "compared", run.scores, own, tasks) for run in found.other_runs]
    published = [
        _line(model.name, "published", model.scores, own, tasks) for model in found.published
    ]
    published.sort(key=lambda line: -(line.mean or 0))
    # Models that have none of these files would be lines of blanks.
    others = [line for line in (*compared, *published) if set(line.subsets.values()) != {None}]
    return [_line(name, "this run", own, own, tasks), *others]


def _line(
    name: str,
    kind: str,
    scores: Mapping[FileKey, float],
    files: Iterable[FileKey],
    tasks: Mapping[str, Sequence[str]],
) -> ModelLine:
    by_subset = grouped((subset, scores.get((subset, level))) for subset, level in files)
    groups = {}
    for task, members in tasks.items():
        by_level = grouped((file[1], scores.get(file)) for file in files if file[0] in members)
        if by_level:
            groups[task] = complete_mean([complete_mean(each) for each in by_level.values()])
    subsets = {subset: complete_mean(each) for subset, each in by_subset.items()}
    return ModelLine(name, kind, subsets, groups)


@dataclass(frozen=True)
class DrawnModel:
    """A line that charts show, and its class in the style."""

    name: str
    css: str  # "own", or a hue
    subsets: Mapping[str, float]
    groups: Mapping[str, float]


def drawn_models(lines: Sequence[ModelLine]) -> list[DrawnModel]:
    """Pick this run and the first others that have all its files, as many as there are hues."""
    others = (line for line in lines[1:] if line.is_complete)
    drawn = [("own", lines[0]), *zip(HUES, others, strict=False)]
    return [
        DrawnModel(line.name, css, _known(line.subsets), _known(line.groups)) for css, line in drawn
    ]


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
