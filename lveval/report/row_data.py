"""A run's rows as the page's row browser has them: what is shown of each, packed as JSON.

    rows = row_views(evaluation, others, contexts)
    RowData.of(rows, "yi-6b", ["yi-6b-chat"], limit=31500).text

All of it is compressed, in three parts: the rows, their texts kept once; the details that only an
opened row needs, where its passages stand and what other runs answered; and the passages themselves
as far as they have room.
"""

import base64
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, TypeVar, cast
from urllib.parse import quote, urlencode

from lveval import config
from lveval.analysis import contexts
from lveval.analysis.causes import FAMILIES, label
from lveval.analysis.contexts import Contexts, Passage
from lveval.analysis.marks import Marks, mark_words
from lveval.analysis.score_breakdown import ScoreBreakdown, explain_score
from lveval.results import CAUSES, HEADLINE, PROTOCOLS, Cause, Evaluation, RowDepths, ScoredRow

MOST_BYTES = 4_000_000  # of the rows' data: with all else the page stays under 5 MB

MOST_UNPACKED = 16_000_000  # characters of the rows that a browser is to hold

# Characters of a text that a page holds: the first that fits.
CAPS = (20_000, 4_000, 1_500, 600, 250, 100, 40)

# Characters of a passage of a context: the first that fits; else they are left out.
REACHES = (contexts.MOST, 160, 100, 60, 30)

WORST, WORST_LENGTH = 20, 400  # rows that the page shows without a script, characters of a text

# What could end the data's element or, in old engines, a line of script. JSON reads the escapes as
# the characters.
ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}

# UTF-8 has no lone surrogate: it is escaped too.
UNSAFE = re.compile(f"[{''.join(ESCAPED)}\ud800-\udfff]")

Key = TypeVar("Key")


@dataclass(frozen=True)
class OtherAnswer:
    """What another run answered to the same row."""

    pred: str
    status: str
    cause: str
    scores: Mapping[str, float]  # protocol -> 0 to 1
    marks: Marks  # of the words that it shares with the truth


class RowView(TypedDict):
    """One row as the row browser shows it."""

    subset: str
    level: str
    index: int
    language: str
    question: str
    recurs: str  # what rows of the same question at other levels have, too
    truths: list[str]
    keywords_text: str | None
    facts: list[str]
    pred: str
    raw_pred: str | None
    status: str
    cause: str
    scores: Mapping[str, float]  # protocol -> 0 to 1
    working: ScoreBreakdown | None
    marks: tuple[Marks, Marks]  # of the words that answer and truth share, in each
    evidence_kept: bool | None
    prompt_tokens: int | None
    prompt_tokens_full: int | None
    finish_reason: str | None
    length: int | None
    depths: RowDepths | None  # where its passages stand
    passages: Sequence[Passage]  # of its context; empty where the data are not here
    others: Sequence[OtherAnswer | None]  # of each compared run; None: it has no answer


def row_views(
    evaluation: Evaluation, others: Sequence[Evaluation], told: Contexts
) -> list[RowView]:
    """What the browser shows of each row, with the answers of the runs it is compared with."""
    asked = [
        {row.key: (row, cause) for row, cause in zip(other.rows, other.causes, strict=True)}
        for other in others
    ]
    views = []
    for row, cause in zip(evaluation.rows, evaluation.causes, strict=True):
        beside = [_other_answer(row, rows.get(row.key)) for rows in asked]
        depths = row.depths or evaluation.depths.get(row.key)
        views.append(_row_view(row, cause, depths, told.passages.get(row.key, ()), beside))
    return views


def _row_view(
    row: ScoredRow,
    cause: Cause,
    depths: RowDepths | None,
    passages: Sequence[Passage],
    others: list[OtherAnswer | None],
) -> RowView:
    truths = [str(truth) for truth in row.record["answers"]]
    keywords = row.text("gold_ans")
    metric = config.DATASET_METRIC[row.subset]
    working = explain_score(metric, row.answer, truths[0], keywords)
    shares = working.overlap if working else row.scores[HEADLINE]
    return RowView(
        subset=row.subset,
        level=row.level,
        index=row.index,
        language=config.DATASET_LANGUAGE[row.subset],
        question=row.text("input") or "",
        recurs=row.question,
        truths=truths,
        keywords_text=keywords,
        facts=row.confusing_facts,
        pred=row.record["pred"],
        raw_pred=row.text("raw_pred"),
        status=row.text("status") or "unrecorded",
        cause=cause,
        scores=row.scores,
        working=working,
        marks=mark_words(row.subset, row.answer, truths[0]) if shares else ((), ()),
        evidence_kept=row.evidence_kept,
        prompt_tokens=row.count("prompt_tokens"),
        prompt_tokens_full=row.count("prompt_tokens_full"),
        finish_reason=row.text("finish_reason"),
        length=row.count("length"),
        depths=depths,
        passages=passages,
        others=others,
    )


def _other_answer(row: ScoredRow, told: tuple[ScoredRow, Cause] | None) -> OtherAnswer | None:
    """None where the other run has no such row, or asked another question there."""
    if told is None or told[0].question != row.question:
        return None
    other, cause = told
    truth = str(row.record["answers"][0])
    marks, _ = mark_words(row.subset, other.answer, truth)
    status = other.text("status") or "unrecorded"
    return OtherAnswer(other.record["pred"], status, cause, other.scores, marks)


def row_label(cause: str) -> str:
    """A cause as a row has it: "correct" may have lost points by wording, or none."""
    return "right" if cause == "correct" else label(cast(Cause, cause))


def rows_link(**chosen: str) -> str:
    """Address the rows of the page that `chosen` tells; rows.js has the form."""
    return f"#rows?{urlencode(chosen)}"


def row_link(row: RowView) -> str:
    """Address one row of the page."""
    return f"#row={quote('_'.join((row['subset'], row['level'])))}:{row['index']}"


def worst_rows(rows: Sequence[RowView]) -> list[RowView]:
    """The rows of the lowest scores; of equal ones the first of every file, then the second, …"""
    return sorted(rows, key=lambda row: (row["scores"][HEADLINE], row["index"]))[:WORST]


@dataclass(frozen=True)
class RowData:
    """The rows as a page holds them, and what had to be cut for its size."""

    text: str
    cap: int | None  # characters that texts were cut to; None: none was
    reach: int | None  # characters that passages were cut to, 0: left out; None: none was

    @classmethod
    def of(
        cls, rows: list[RowView], name: str, others: Sequence[str], limit: int | None
    ) -> "RowData":
        """Write the rows of a page, of the run `name`.

        `others`: names of the compared runs, `limit`: of a prompt, in tokens.
        Passages of the contexts take what room the answers leave.
        """
        packer = RowPacker()
        data: dict[str, object] = {"rows": [packer.row(row) for row in rows]}
        data |= {"protocols": list(PROTOCOLS), "limit": limit, "name": name, "others": list(others)}
        data |= {"labels": {cause: row_label(cause) for cause in CAUSES}, "families": FAMILIES}
        for cap in CAPS:
            content = as_data({**packer.tables(cap), **data})
            if len(content) > MOST_UNPACKED and cap != CAPS[-1]:
                continue
            packed = {"rows": compressed(content), "details": packed_details(rows, cap)}
            room = MOST_BYTES - sum(map(len, packed.values()))
            if room >= 0:
                break
        packed["passages"], reach = packed_passages(rows, room)
        answers = (other.pred for row in rows for other in row["others"] if other)
        longest = max((len(text) for texts in (packer.texts, answers) for text in texts), default=0)
        return cls(as_data(packed), cap if longest > cap else None, reach)


def packed_details(rows: list[RowView], cap: int) -> str:
    """Where the passages of rows stand, and what other runs answered, in at most `cap` characters.

    [evidence, confusing facts, others] of each row, depths in thousandths; see _packed.
    """
    told = {
        number: [
            *_thousandths(row["depths"] or RowDepths()),
            [
                other
                and [
                    other.pred[:cap],
                    len(other.pred),
                    other.status,
                    other.cause,
                    flat(other.marks),
                ]
                for other in row["others"]
            ],
        ]
        for number, row in enumerate(rows)
        if row["depths"] or any(row["others"])
    }
    return _packed(rows, told)


def _thousandths(depths: RowDepths) -> list[list[list[int | None]]]:
    return [
        [[None if at is None else round(1000 * at) for at in pair] for pair in pairs]
        for pairs in (depths.evidence, depths.confusing_facts)
    ]


def packed_passages(rows: list[RowView], room: int) -> tuple[str, int | None]:
    """The passages of all rows' contexts in at most `room` characters, and what they were cut to.

    See _packed.
    """
    if not any(row["passages"] for row in rows):
        return "", None
    for reach in REACHES:
        told = {
            number: [_passage(passage.shortened(reach)) for passage in row["passages"]]
            for number, row in enumerate(rows)
            if row["passages"]
        }
        if len(packed := _packed(rows, told)) <= room:
            return packed, None if reach == REACHES[0] else reach
    return "", 0


def _passage(one: Passage) -> list[object]:
    return [one.kind, round(one.depth, 4), one.in_prompt, one.before, one.text, one.after, one.cut]


def _packed(rows: list[RowView], told: Mapping[int, object]) -> str:
    """What is told of rows, by their numbers, as JSON that is compressed by gzip, in base64.

    The rows of one question follow each other there, for much of what they hold is the same;
    `order` tells which rows they are.
    """
    if not told:
        return ""
    order = sorted(told, key=lambda number: (rows[number]["subset"], rows[number]["index"], number))
    return compressed(as_data({"order": order, "rows": [told[number] for number in order]}))


def compressed(content: str) -> str:
    """Compress text by gzip and write it in base64."""
    return base64.b64encode(gzip.compress(content.encode(), 6, mtime=0)).decode()


def as_data(value: object) -> str:
    """Write JSON for a `<script type="application/json">`: no character can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return UNSAFE.sub(lambda found: ESCAPED.get(found[0]) or f"\\u{ord(found[0]):04x}", text)


def flat(marks: Marks) -> list[int]:
    """Marks as numbers: how far from the last one's end, how long, the length of a blacklisted
    one below 0; characters are Unicode's.
    """
    return list(_flat(marks))


def _flat(marks: Marks) -> Iterator[int]:
    at = 0
    for start, end, blacklisted in marks:
        yield start - at
        yield start - end if blacklisted else end - start
        at = end


class RowPacker:
    """Rows as rows.js reads them: lists of numbers that point to texts, files and questions."""

    def __init__(self) -> None:
        # Each keeps a value once, with its number.
        self.texts: dict[str, int] = {}
        self.words: dict[str, int] = {}  # of statuses, causes and finish reasons: never cut
        self.files: dict[tuple[str, str, str], int] = {}
        self.questions: dict[tuple[str, tuple[object, ...]], int] = {}  # with their subset
        self.recurring: dict[tuple[str, str], int] = {}  # what rows at several levels ask

    def row(self, row: RowView) -> list[object]:
        """Pack one row."""
        work, kept = row["working"], row["evidence_kept"]
        return [
            number(self.files, (row["subset"], row["level"], row["language"])),
            row["index"],
            self._question(row),
            number(self.texts, row["pred"]),
            number(self.texts, row["raw_pred"]),
            number(self.words, row["status"]),
            number(self.words, row["cause"]),
            _scores(row["scores"]),
            work and [work.found, work.overlap, work.prediction_tokens],
            row["prompt_tokens"],
            row["prompt_tokens_full"],
            kept if kept is None else int(kept),
            number(self.words, row["finish_reason"]),
            row["length"],
            number(self.recurring, (row["subset"], row["recurs"])),
            [flat(marks) for marks in row["marks"]] if any(row["marks"]) else 0,
            [other and _scores(other.scores) for other in row["others"]],
        ]

    def _question(self, row: RowView) -> int:
        """What the rows of one question share at all levels."""
        facts = self._numbers(row["facts"])
        asked: tuple[object, ...] = (
            number(self.texts, row["question"]),
            self._numbers(row["truths"]),
            number(self.texts, row["keywords_text"]),
            facts,
        )
        if work := row["working"]:
            keywords = self._numbers(work.keywords)
            asked += (keywords, work.ignored, work.least_recall, work.truth_tokens)
        return number(self.questions, (row["subset"], asked))

    def _numbers(self, texts: Sequence[str]) -> tuple[int, ...]:
        return tuple(number(self.texts, text) for text in texts)

    def tables(self, cap: int) -> dict[str, object]:
        """What the numbers point to, texts cut to `cap` characters; `long`: their full length."""
        return {
            "strings": [text[:cap] for text in self.texts],
            "files": list(self.files),
            "questions": [asked for _, asked in self.questions],
            "words": list(self.words),
            "long": {place: len(text) for text, place in self.texts.items() if len(text) > cap},
        }


def _scores(scores: Mapping[str, float]) -> list[float]:
    return [round(scores[protocol], 4) for protocol in PROTOCOLS]


def number(known: dict[Key, int], value: Key | None) -> int:
    """Number a value, the same each time; -1 for None."""
    return -1 if value is None else known.setdefault(value, len(known))
