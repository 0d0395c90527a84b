"""What a run's answers scored: rows, files, the whole run, and the means that tables show.

    evaluation = lveval.evaluation.evaluate(Path("outputs/chatglm3"))
    results.level_means(evaluation.scores("released"))["16k"]
    evaluation.to_frame().groupby("cause").size()

Nothing here reads or writes a file.
"""

import html
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

from lveval import config, metrics
from lveval.common import jieba_dictionary
from lveval.common.errors import unknown_name
from lveval.common.levels import PUBLISHED_LEVELS, FileKey, level_length
from lveval.common.text import one_line, printable, storable

if TYPE_CHECKING:
    from pandas import DataFrame

Cause = Literal[
    "correct",
    "verbose",
    "evidence_cut",
    "refused",
    "empty",
    "loop",
    "wrong_language",
    "distracted",
    "length",
    "gated",
    "wrong",
]

CAUSES: tuple[Cause, ...] = get_args(Cause)  # in the order in which they are tried


@dataclass(frozen=True)
class Protocol:
    """One way of scoring the answers of a run."""

    name: str
    table: str  # of config.py: the metric of each subset
    stem: str  # of its result files
    about: str  # what it is, as the page and the manuals say it
    version: int = 1  # grows when the same answers get other scores

    @property
    def metrics(self) -> dict[str, Callable[..., float]]:
        """The metric of each subset."""
        return cast(dict[str, Callable[..., float]], getattr(config, self.table))

    @property
    def label(self) -> str:
        """Name and version, as signatures have it; a first version goes without its number."""
        return self.name if self.version == 1 else f"{self.name}-{self.version}"


# Every protocol, the headline first: all that lists, writes, tests or shows scores goes by this.
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("released", "DATASET_METRIC", "results", "the published scorer"),
        Protocol(
            "described",
            "DATASET_METRIC_DESCRIBED",
            "results_described",
            "the two stages as the paper has them",
            version=2,  # the paper's gates; 1 had those of the published scorer
        ),
        Protocol(
            "recall",
            "DATASET_METRIC_RECALL",
            "results_recall",
            "keyword recall, the unit of the reports on Qwen2 and Qwen2.5",
        ),
    )
}

HEADLINE = next(iter(PROTOCOLS))

PUBLISHED = [subset for subset in config.DATASET_METRIC if subset in config.DATASET_ROWS]

LANGUAGES = {"en": "English", "zh": "Chinese"}  # of the subsets, with their names

# Subsets whose rows all ask the same question: there contexts are the sample, not questions.
ONE_QUESTION = ("factrecall_en", "factrecall_zh")

LARGEST_INTEGER = 2**53  # exclusive; a script's numbers are exact up to here

Scores = dict[FileKey, float]  # the score of each file, 0 to 100

RowKey = tuple[str, str, int]  # (subset, level, index)

DepthPair = tuple[float, float | None]  # a passage's depth in the context, and in the prompt

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class RowDepths:
    """Where the passages of one row stand, 0 to 1; None in the prompt: not whole in it."""

    evidence: tuple[DepthPair, ...] = ()
    confusing_facts: tuple[DepthPair, ...] = ()

    @classmethod
    def read(cls, told: object) -> "RowDepths | None":
        """Read what a record holds of them; None where it holds none, other parts passed over."""
        if not isinstance(told, Mapping):
            return None
        return cls(_pairs(told.get("evidence")), _pairs(told.get("confusing_facts")))


def _pairs(told: object) -> tuple[DepthPair, ...]:
    return tuple(
        (pair[0], pair[1] if _is_depth(pair[1]) else None)
        for pair in (told if isinstance(told, list) else [])
        if isinstance(pair, list) and len(pair) == 2 and _is_depth(pair[0])
    )


def _is_depth(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


@dataclass(frozen=True)
class ScoredRow:
    """One scored answer. Fields of its record that are of a wrong type read as missing."""

    subset: str
    level: str  # like "16k"
    index: int  # position in the data file
    scores: Mapping[str, float]  # protocol -> 0 to 1
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)  # as prediction.py wrote

    @property
    def file(self) -> FileKey:
        """The file that the row belongs to."""
        return self.subset, self.level

    @property
    def key(self) -> RowKey:
        """What tells it from all other rows of the run."""
        return self.subset, self.level, self.index

    @cached_property
    def question(self) -> str:
        """What recurs at every level: the question's id or text; in ONE_QUESTION the context."""
        if self.subset in ONE_QUESTION:
            return f"{self.record.get('input', '')} context {self.index}"
        return str(self.record.get("question_id") or self.record.get("input", self.index))

    @property
    def answer(self) -> str:
        """What was scored: a refusal counts as the empty answer, whatever its wording."""
        return "" if self.record.get("status") == "refused" else self.text("pred") or ""

    @property
    def evidence_kept(self) -> bool | None:
        """Whether the prompt still held the evidence; None where that is unknown."""
        kept = self.record.get("evidence_kept")
        return kept if isinstance(kept, bool) else None

    @property
    def answer_tokens(self) -> int | None:
        """The new tokens, reasoning among them, where the engine or service counted them."""
        usage = self.record.get("usage")
        found = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
        return found if type(found) is int and 0 <= found < LARGEST_INTEGER else None

    @property
    def depths(self) -> RowDepths | None:
        """Where its passages stand, if its record tells; an older version recorded none."""
        return RowDepths.read(self.record.get("depths"))

    @property
    def confusing_facts(self) -> list[str]:
        """The recorded distractors, one or a list of them."""
        facts = self.record.get("confusing_facts")
        every = facts if isinstance(facts, list) else [facts]
        return [fact for fact in every if isinstance(fact, str)]

    @property
    def released(self) -> float:
        """0 to 1, by the published scorer's protocol."""
        return self.scores["released"]

    def text(self, name: str) -> str | None:
        """A field of the record, if it is a string."""
        value = self.record.get(name)
        return value if isinstance(value, str) else None

    def count(self, name: str) -> int | None:
        """A field of the record, if it is a whole number of usable size."""
        value = self.record.get(name)
        return value if type(value) is int and 0 <= value < LARGEST_INTEGER else None


@dataclass
class FileResult:
    """The scores of one prediction file."""

    subset: str
    level: str
    selected: int  # rows that the run is to answer
    available: int | None  # rows of the data file, where known
    scored: list[ScoredRow] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)  # of each scored row
    variants: list[Mapping[str, float]] = field(default_factory=list)  # of it too, see ablation.py
    left_out: int = 0  # rows, beside the selected ones, that the run's control does not apply to
    edited: Mapping[str, int] = field(default_factory=dict)  # place in the run's folder -> rows

    @property
    def name(self) -> str:
        """As in results.json."""
        return f"{self.subset}_{self.level}"

    @property
    def rows(self) -> int:
        """How many rows have an answer."""
        return len(self.scored)

    @property
    def statuses(self) -> Counter[str]:
        """How many rows have which status."""
        return Counter(str(row.record.get("status", "unrecorded")) for row in self.scored)

    @property
    def is_synthetic(self) -> bool:
        """Whether its rows have question ids, which construct gives and published data lack."""
        return any("question_id" in row.record for row in self.scored)

    @property
    def is_complete(self) -> bool:
        """Whether every row of the data file that can be asked is scored, as far as is known."""
        return self.rows >= max(self.selected, (self.available or 0) - self.left_out)

    @property
    def is_published_file(self) -> bool:
        """Whether it may be the published file of its name: all rows scored, none synthetic."""
        rows = config.DATASET_ROWS.get(self.subset)
        return self.level in PUBLISHED_LEVELS and self.rows == rows and not self.is_synthetic


@dataclass
class Evaluation:
    """All files of one folder, in the order of the tables, and the run.json they came with."""

    folder: Path
    manifest: Mapping[str, Any]  # empty for a folder of the published harness
    files: list[FileResult]
    # (subset, level, index) -> the row's line of times.jsonl; no score depends on it.
    times: Mapping[RowKey, Mapping[str, Any]] = field(default_factory=dict)
    # Of rows that record no depths: where their passages stand, computed from the data.
    depths: Mapping[RowKey, RowDepths] = field(default_factory=dict)
    # Protocol -> its label in the results that the folder had: another version than now, or none.
    recorded_protocols: Mapping[str, str] = field(default_factory=dict)

    @property
    def unfinished(self) -> list[FileResult]:
        """The files of which selected rows have no answer."""
        return [file for file in self.files if file.rows < file.selected]

    @property
    def missing(self) -> int:
        """How many selected rows have no answer."""
        return sum(file.selected - file.rows for file in self.unfinished)

    @property
    def rows(self) -> list[ScoredRow]:
        """Every scored row, file by file."""
        return [row for file in self.files for row in file.scored]

    @property
    def causes(self) -> list[Cause]:
        """The cause of each of `rows`."""
        return [cause for file in self.files for cause in file.causes]

    @property
    def variants(self) -> list[Mapping[str, float]]:
        """The variants of the metric for each of `rows`."""
        return [variants for file in self.files for variants in file.variants]

    @property
    def levels(self) -> list[str]:
        """The published levels and any other that the run has, by length."""
        return sorted({*PUBLISHED_LEVELS, *(file.level for file in self.files)}, key=level_length)

    @property
    def leaderboard_levels(self) -> list[str]:
        """The levels whose mean is comparable with the leaderboard's; none of a control's run."""
        return [] if self.control else self.published_levels

    @property
    def published_levels(self) -> list[str]:
        """The levels that have just the published subsets, complete."""
        expected = {(subset, True) for subset in PUBLISHED}
        by_level = grouped(
            (file.level, (file.subset, file.is_published_file)) for file in self.files if file.rows
        )
        return [level for level in PUBLISHED_LEVELS if set(by_level.get(level, ())) == expected]

    @property
    def row_counts(self) -> str:
        """Such as "8645/8645": rows scored and rows selected."""
        selected = sum(file.selected for file in self.files)
        return f"{sum(file.rows for file in self.files)}/{selected}"

    @property
    def identity(self) -> dict[str, Any]:
        """What decided the answers, as run.json has it."""
        return cast(dict[str, Any], self.manifest.get("identity", {}))

    @property
    def control(self) -> str | None:
        """What was asked instead of the benchmark (data/controls.py); None: the benchmark."""
        control = self.identity.get("given", {}).get("control")
        return control if isinstance(control, str) else None

    @property
    def edited(self) -> dict[str, int]:
        """How many rows were edited after they were written: place in the folder -> rows."""
        return {place: rows for file in self.files for place, rows in file.edited.items()}

    @property
    def edited_rows(self) -> int:
        """How many rows were edited, in all places."""
        return sum(self.edited.values())

    @property
    def edited_note(self) -> str:
        """Say which rows were edited; blank where none was."""
        places = ", ".join(f"{rows} rows of {place}" for place, rows in self.edited.items())
        return f"Edited: {places}; scored as they stand." if places else ""

    @property
    def unverified(self) -> dict[str, int]:
        """Data files of the run that have not the published rows: name -> rows."""
        names = self.manifest.get("unverified", ())
        return {file.name: file.available or 0 for file in self.files if file.name in names}

    @property
    def unverified_note(self) -> str:
        """Say which files that are; blank where all are as published."""
        found = [f"{name} has {rows} rows" for name, rows in self.unverified.items()]
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"Unverified data: {', '.join(found[:3])}{more}, not as published." if found else ""

    @property
    def sample_seed(self) -> int | None:
        """By what the rows were drawn; None where they are all, or the first ones."""
        seed = (self.identity.get("given", {}).get("sample") or {}).get("seed")
        return seed if type(seed) is int else None

    @property
    def part(self) -> tuple[int, int] | None:
        """(number, of how many) where the folder holds one part of a run."""
        part = self.manifest.get("part")
        return (part[0], part[1]) if part else None

    @property
    def name(self) -> str:
        """The folder's own name, with the run's control."""
        return self._with_control(self.folder.resolve().name)

    @property
    def place(self) -> str:
        """The folder as it was named, with the run's control."""
        return self._with_control(str(self.folder))

    def _with_control(self, name: str) -> str:
        known = not self.control or self.control in Path(name).name
        return name if known else f"{name} ({self.control})"

    @property
    def prompts(self) -> dict[str, Any]:
        """The run's templates: name, sha256, official; empty where run.json lacks them."""
        return cast(dict[str, Any], self.identity.get("prompts", {}))

    @property
    def is_official(self) -> bool:
        """Whether the templates were the benchmark's own and in its chat formats."""
        published = self.identity.get("chat_template") == "published"
        return bool(self.prompts.get("official")) and published

    def scores(self, protocol: str = HEADLINE) -> Scores:
        """The score of every file that has rows. Raises UsageError for an unknown protocol."""
        if protocol not in self._scores:
            raise unknown_name(protocol, "protocol", list(PROTOCOLS))
        return dict(self._scores[protocol])

    def to_frame(self) -> "DataFrame":
        """Every scored row as a line of a pandas DataFrame; scores are 0 to 1, by protocol.

        `truth` is the first of the accepted answers, the one that is scored; `answer` is what was
        scored.
        """
        from pandas import DataFrame

        rows = self.rows
        columns: dict[str, list[object]] = {
            "subset": [row.subset for row in rows],
            "level": [row.level for row in rows],
            "index": [row.index for row in rows],
            "question": [
                None if (asked := row.text("input")) is None else storable(asked) for row in rows
            ],
            "truth": [storable(row.record["answers"][0]) for row in rows],
            "answer": [storable(row.answer) for row in rows],
            "status": [row.text("status") or "unrecorded" for row in rows],
            "cause": [*self.causes],
            **{protocol: [row.scores[protocol] for row in rows] for protocol in PROTOCOLS},
            "prompt_tokens": [row.count("prompt_tokens") for row in rows],
            "prompt_tokens_full": [row.count("prompt_tokens_full") for row in rows],
            "answer_tokens": [row.answer_tokens for row in rows],
            "evidence_kept": [row.evidence_kept for row in rows],
        }
        # Nullable types: a count that a row lacks makes no fractions of the others.
        types = {name: "Int64" for name in columns if "tokens" in name}
        return DataFrame(columns).astype(types | {"evidence_kept": "boolean"})

    def _repr_html_(self) -> str:
        """The headline's scores as a notebook shows them; pandas escapes each cell."""
        from pandas import DataFrame

        scores, levels = self.scores(), level_means(self.scores())
        means = subset_means(scores)
        lines: list[list[object]] = [
            [subset, *(scores.get((subset, level)) for level in levels), means[subset]]
            for subset in table_order(means)
        ]
        if levels:
            lines.append(["mean", *levels.values(), overall_mean(scores)])
        table = DataFrame(lines, columns=["subset", *levels, "mean"])
        missing = f"; {self.missing} rows have no answer yet" if self.missing else ""
        title = f"{self.name}: scores of the {HEADLINE} protocol, 0 to 100, {self.row_counts} rows"
        title += f", {self.edited_rows} of them edited" if self.edited else ""
        shown = table.to_html(index=False, float_format="{:.2f}".format, na_rep="", border=0)
        return f"<p>{html.escape(printable(title + missing))}</p>{shown}"

    @cached_property
    def _scores(self) -> dict[str, Scores]:
        """By protocol: tables, means and analyses ask for them many times."""
        return {
            protocol: {
                (file.subset, file.level): metrics.file_score(
                    [row.scores[protocol] for row in file.scored]
                )
                for file in self.files
                if file.rows
            }
            for protocol in PROTOCOLS
        }

    @property
    def thinking_budget(self) -> int | None:
        """The tokens after which reasoning was closed; None where the run has no such budget."""
        budget = self.identity.get("given", {}).get("thinking_budget")
        return budget if type(budget) is int else None

    def signature(self, protocol: str) -> str:
        """All that decides the numbers, in one line."""
        recipe = {
            "protocol": PROTOCOLS[protocol].label,
            "jieba": jieba_dictionary.JIEBA_VERSION,
            "rouge": metrics.ROUGE_VERSION,
            "prompts": "unrecorded",
            **{
                name: self.identity.get(name, "unrecorded")
                for name in ("chat_template", "backend", "model_max_len")
            },
            "rows": self.row_counts,
        }
        if self.control:
            recipe["control"] = self.control
        if self.edited:
            recipe["edited"] = self.edited_rows
        if self.unverified:
            recipe["data"] = "unverified"
        if self.sample_seed is not None:
            recipe["sample"] = f"seed-{self.sample_seed}"
        if prompts := self.prompts:
            recipe["prompts"] = f"{prompts.get('name')}-{str(prompts.get('sha256'))[:8]}"
        return "|".join(f"{name}:{value}" for name, value in recipe.items())


def run_names(runs: Sequence[Evaluation]) -> list[str]:
    """Name runs side by side, safe for a terminal and on one line: those of one name by place."""
    names = Counter(run.name for run in runs)
    return [one_line(run.name if names[run.name] == 1 else run.place) for run in runs]


def shortened(names: Sequence[str], most: int) -> list[str]:
    """Fit names into `most` characters, at least 8, by leaving out their middle; all unlike."""
    found: list[str] = []
    for name in names:
        end = (most - 1) // 2
        short = name if len(name) <= most else f"{name[: most - 1 - end]}…{name[-end:]}"
        number = 2
        while short in found:
            mark = f"#{number}"
            short, number = f"{name[: most - len(mark)]}{mark}", number + 1
        found.append(short)
    return found


def grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """Collect the values of each key, both in the order of their coming."""
    groups: defaultdict[K, list[V]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return dict(groups)


def by_language(subsets: Iterable[str]) -> dict[str, list[str]]:
    """Collect the subsets of each language, as LANGUAGES has them; those without one are out."""
    found = grouped((config.DATASET_LANGUAGE.get(subset, ""), subset) for subset in subsets)
    return {language: found[language] for language in LANGUAGES if language in found}


def rows_by_level(rows: Iterable[ScoredRow]) -> dict[str, list[ScoredRow]]:
    """Group rows by level, the levels by length."""
    groups = grouped((row.level, row) for row in rows)
    return {level: groups[level] for level in sorted(groups, key=level_length)}


def subset_means(scores: Scores) -> dict[str, float]:
    """Average the files of each subset, to two places."""
    return _means((subset, score) for (subset, _), score in scores.items())


def level_means(scores: Scores) -> dict[str, float]:
    """Average the files of each level, to two places; by length."""
    means = _means((level, score) for (_, level), score in scores.items())
    return {level: means[level] for level in sorted(means, key=level_length)}


def overall_mean(scores: Scores) -> float:
    """Average the level means, to two places."""
    return mean([*level_means(scores).values()])


def _means(named_scores: Iterable[tuple[str, float]]) -> dict[str, float]:
    return {name: mean(group) for name, group in grouped(named_scores).items()}


def mean(values: Sequence[float]) -> float:
    """Average scores, to two places: the one way from scores that are shown to their means.

    As the published overall scores are had from the published scores of the files.
    """
    return round(fsum(values) / len(values), 2)


def table_order(subsets: Iterable[str]) -> list[str]:
    """Sort subsets as every table does: in the order of config.py, others last."""
    order = {subset: place for place, subset in enumerate(config.DATASET_METRIC)}
    return sorted(subsets, key=lambda subset: order.get(subset, len(order)))
