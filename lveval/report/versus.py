"""Several runs side by side, and each two of them: the tables that a comparison begins with.

versus.runs_table([evaluation, *others], compared["released"])
versus.pairs_table(compared["released"])
"""

from collections.abc import Mapping, Sequence

from lveval.analysis.comparison import Comparison, Difference, Pair
from lveval.common.levels import FileKey, level_length
from lveval.report.tables import Table, number
from lveval.results import HEADLINE, Evaluation, level_means, overall_mean, run_names, shortened

MEAN = "mean"  # the last column: of the level means

RUN_WIDTH, PAIR_WIDTH = 36, 16  # characters of a name


def runs_table(runs: Sequence[Evaluation], found: Mapping[Pair, Comparison]) -> Table:
    """The level means of each run, with the best marked and what is shown to be lower than it.

    Only numbers over the same files are set against each other.
    """
    names = shortened(run_names(runs), RUN_WIDTH)
    columns = [_means(run) for run in runs]
    levels = sorted({each for means in columns for each in means if each != MEAN}, key=level_length)
    marks: dict[tuple[int, str], str] = {}
    unlike = []
    for column in (*levels, MEAN):
        having = [place for place, means in enumerate(columns) if column in means]
        if len({_files(runs[place], column) for place in having}) > 1:
            unlike.append(column)
            continue
        best = max(having, key=lambda place: columns[place][column])
        for place in having:
            if columns[place][column] == columns[best][column]:
                marks[place, column] = "*"
            elif _is_lower(runs[place], runs[best], column, found):
                marks[place, column] = "<"
    lines = [
        [
            name,
            *(
                f"{number(means.get(each))}{marks.get((place, each), ' ')}"
                for each in (*levels, MEAN)
            ),
        ]
        for place, (name, means) in enumerate(zip(names, columns, strict=True))
    ]
    note = "*: the best; <: shown to be lower than the best."
    if unlike:
        note += f" No marks at {', '.join(unlike)}, where the runs have other files."
    title = f"means of the levels, 0 to 100 ({HEADLINE})"
    return Table(title, ["run", *(f"{each} " for each in (*levels, MEAN))], lines, note=note)


def _means(run: Evaluation) -> dict[str, float]:
    scores = run.scores(HEADLINE)
    return {**level_means(scores), MEAN: overall_mean(scores)} if scores else {}


def _files(run: Evaluation, column: str) -> frozenset[FileKey]:
    return frozenset(file for file in run.scores(HEADLINE) if column in (MEAN, file[1]))


def _is_lower(
    run: Evaluation, best: Evaluation, column: str, found: Mapping[Pair, Comparison]
) -> bool:
    for pair, verdict in (
        ((best.place, run.place), "A better"),
        ((run.place, best.place), "B better"),
    ):
        part = _part(found[pair], column) if pair in found else None
        if part and part.verdict == verdict:
            return True
    return False


def _part(found: Comparison, column: str) -> Difference | None:
    return found.parts.overall if column == MEAN else found.parts.levels.get(column)


def pairs_table(found: Mapping[Pair, Comparison]) -> Table:
    """The differences of each pair of runs by level, with those marked that are shown."""
    levels = sorted(
        {level for each in found.values() for level in each.parts.levels}, key=level_length
    )
    signs = {"A better": ">", "B better": "<"}
    lines = []
    for each in found.values():
        parts = [_part(each, column) for column in (*levels, MEAN)]
        cells = (
            f"{part.interval.value:+.2f}{signs.get(part.verdict, ' ')}" if part else ""
            for part in parts
        )
        lines.append([" - ".join(shortened(each.names, PAIR_WIDTH)), *cells])
    note = ">: the first is shown to be better; <: the second."
    title = "differences in points, over the questions of both"
    return Table(title, ["pair", *(f"{each} " for each in (*levels, MEAN))], lines, note=note)
