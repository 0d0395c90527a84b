"""A comparison as the page shows it: the runs by their names, its parts by size, what flipped.

(one,) = compared.compared_runs(page, "released")
one.sentence, one.subsets[0].difference, one.flips[0].rows
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lveval.analysis.comparison import Comparison, Difference
from lveval.analysis.intervals import Interval
from lveval.common.levels import level_length
from lveval.report.data import ReportData
from lveval.report.row_data import RowView, row_link, rows_link
from lveval.report.summary import comparison_sentence
from lveval.results import LANGUAGES, table_order

FLIP = 0.5  # of a score of 1: from here on a row counts as flipped; rows.js has the same

MOST_FLIPS = 8  # that are listed to each side


@dataclass(frozen=True)
class Part:
    """One part of two runs: all, a level, a language or a subset."""

    name: str
    href: str  # of its rows; blank: they have no address
    scores: tuple[float, float]  # of the two columns
    difference: Interval
    adjusted: float  # p-value
    better: str  # the run that is shown to be better; blank: no difference is shown
    leads: bool  # whether that is the one which positive differences favour


@dataclass(frozen=True)
class Flip:
    """A row that one run answered and the other did not."""

    question: str
    file: str
    href: str
    scores: tuple[float, float]  # of this run and of the other, 0 to 100


@dataclass(frozen=True)
class Flips:
    """The rows on which one of the runs is better by far."""

    better: str  # the run
    count: int
    href: str  # of all of them
    rows: list[Flip]  # the first, by size


@dataclass(frozen=True)
class ComparedRun:
    """This run against another one."""

    names: tuple[str, str]  # its own and the other's
    sentence: str
    about: str  # what the difference is, where that is not plain; may be ""
    columns: tuple[str, str, str]  # the names of two scores and of their difference
    favours: tuple[str, str]  # the runs that differences below and above 0 favour
    overall: Part
    levels: list[Part]  # these three by size
    languages: list[Part]
    subsets: list[Part]
    caveats: list[str]
    note: str  # what was compared
    interval_notes: list[str]
    flips: list[Flips]

    @property
    def parts(self) -> list[Part]:
        """All of them, as a table has them."""
        by_name = {part.name: part for part in self.subsets}
        subsets = [by_name[name] for name in table_order(by_name)]
        levels = sorted(self.levels, key=lambda part: level_length(part.name))
        return [self.overall, *levels, *self.languages, *subsets]


def compared_runs(page: ReportData, protocol: str) -> list[ComparedRun]:
    """Each comparison of a page under one protocol, in the order that it has them."""
    comparisons = page.protocols[protocol].compared.values()
    return [
        _compared(page.rows, protocol, number, found) for number, found in enumerate(comparisons)
    ]


def _compared(rows: list[RowView], protocol: str, number: int, found: Comparison) -> ComparedRun:
    runs = dict(zip("AB", found.names, strict=True))
    parts = found.parts
    contrast = found.contrast
    # The columns are the full run and its control, or this run and the other.
    first = contrast.full if contrast else "A"
    second = "B" if first == "A" else "A"
    positive = first if not contrast or contrast.kind.from_full else second
    negative = "B" if positive == "A" else "A"

    def part(label: str, of: Difference, **chosen: str) -> Part:
        better = of.verdict[0] if of.verdict in ("A better", "B better") else ""
        return Part(
            label,
            rows_link(**chosen) if chosen else "",
            contrast.scores(of) if contrast else (of.a, of.b),
            contrast.of(of) if contrast else of.interval,
            of.adjusted,
            runs.get(better, ""),
            better == positive,
        )

    def by_size(each: Mapping[str, Difference], kind: str) -> list[Part]:
        told = [
            part(label, of, **({kind: label} if kind != "language" else {}))
            for label, of in each.items()
        ]
        return sorted(told, key=lambda one: -one.difference.value)

    languages = {LANGUAGES[name]: of for name, of in found.languages.items()}
    minus = f"{runs[positive]} minus {runs[negative]}"
    return ComparedRun(
        names=found.names,
        sentence=comparison_sentence(*found.names, found),
        about=contrast.words if contrast else "",
        columns=(runs[first], runs[second], contrast.name if contrast else minus),
        favours=(runs[negative], runs[positive]),
        overall=part("all", parts.overall),
        levels=by_size(parts.levels, "level"),
        languages=by_size(languages, "language") if len(languages) > 1 else [],  # one is all
        subsets=by_size(parts.subsets, "subset"),
        caveats=[f"{found.beyond.capitalize()}: {flag}" for flag in found.flags],
        note=found.counts_text,
        interval_notes=found.interval_notes,
        flips=_flips(rows, protocol, number, found.names),
    )


def _flips(rows: list[RowView], protocol: str, number: int, names: tuple[str, str]) -> list[Flips]:
    """What one run answered and the other did not, for each of the two."""
    led = []
    for row in rows:
        other = row["others"][number] if number < len(row["others"]) else None
        if other:
            # Rounded as rows.js has them, for the same rows there.
            own, against = (round(each[protocol], 4) for each in (row["scores"], other.scores))
            led.append((own - against, row, other.scores))
    flips = []
    for sign, name in zip((1, -1), names, strict=True):
        far = [each for each in led if sign * each[0] >= FLIP - 1e-9]
        far.sort(key=lambda each: (-sign * each[0], each[1]["index"]))
        # A question that flipped at several lengths is listed once.
        once: dict[tuple[str, str], tuple[RowView, Mapping[str, float]]] = {}
        for _, row, scores in far:
            once.setdefault((row["subset"], row["recurs"]), (row, scores))
        listed = [
            Flip(
                row["question"],
                f"{row['subset']} · {row['level']} · {row['index']}",
                row_link(row),
                (100 * row["scores"][protocol], 100 * scores[protocol]),
            )
            for row, scores in [*once.values()][:MOST_FLIPS]
        ]
        link = rows_link(flip=str(sign * (number + 1)))
        flips.append(Flips(name, len(far), link, listed))
    return flips
