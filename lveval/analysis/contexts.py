"""What the data tell of a run's rows: where their passages stand, and the words around them.

    told = contexts.read_contexts(evaluation)
    told.depths["lic_mixup", "16k", 0].evidence, told.passages["lic_mixup", "16k", 0][0].text

The data are those of the run: cached copies by the fingerprints of run.json, or a folder that holds
the same content. Nothing is fetched. A row counts where its question is the data's, too. The
contexts are those that were asked: of a control (data/controls.py) what it leaves of them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from lveval.common.levels import file_name
from lveval.data import dataset
from lveval.data.controls import CONTROLS, controlled
from lveval.data.dataset import DataFile
from lveval.data.positions import Passages, Span, depths, find_passages
from lveval.data.rows import Row
from lveval.results import Evaluation, FileResult, RowDepths, RowKey, ScoredRow

AROUND = 80  # characters on either side of a passage, and of the cut

MOST = 240  # of a passage; of a longer one both ends are shown

Kind = Literal["evidence", "confusing fact", "cut"]


@dataclass(frozen=True)
class Passage:
    """A passage of a context with the words around it; white space is one space."""

    kind: Kind
    depth: float  # in the context, 0 to 1; of a cut, where it begins
    in_prompt: float | None  # its depth there; of a cut, None
    before: str
    text: str  # of a cut, ""
    after: str
    cut: int = 0  # characters that the cut took

    def shortened(self, most: int) -> "Passage":
        """The same with about `most` characters of the passage and a third of that around it."""
        if most >= MOST:
            return self
        around = most // 3
        before = self.before[max(len(self.before) - around, 0) :]
        return replace(
            self, before=before, text=both_ends(self.text, most), after=self.after[:around]
        )


@dataclass
class Contexts:
    """What was read of a run's data."""

    depths: dict[RowKey, RowDepths] = field(default_factory=dict)  # of rows that record none
    passages: dict[RowKey, list[Passage]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # files whose data are not here


def read_contexts(
    evaluation: Evaluation, data_path: Path | None = None, *, with_passages: bool = True
) -> Contexts:
    """Read the data of a run's files, as far as they are needed and here.

    `data_path`: a folder that holds them, for want of cached copies. Raises LVEvalError where its
    content is not the run's.
    """
    from tqdm import tqdm

    told = Contexts()
    files = [
        file
        for file in evaluation.files
        if file.scored and (with_passages or any(row.depths is None for row in file.scored))
    ]
    for file in tqdm(files, desc="reading contexts", unit="file", delay=2, leave=False):
        data = data_of(evaluation, file, data_path)
        if data is None:
            told.missing.append(file.name)
            continue
        for scored, row in rows_of(evaluation.control, file, data):
            found = find_passages(row)
            known = scored.depths
            if known is None:
                known = told.depths[scored.key] = _depths_of(evaluation, scored, row, found)
            if with_passages:
                told.passages[scored.key] = list(_passages_of(scored, row["context"], found, known))
    return told


def data_of(evaluation: Evaluation, file: FileResult, data_path: Path | None) -> DataFile | None:
    """Find the data of a file, in `data_path` or a cached copy; None where they are not here.

    Raises LVEvalError where `data_path` holds other content than the run's.
    """
    recorded = evaluation.identity.get("data", {}).get(file_name(file.subset, file.level))
    fingerprint = recorded if isinstance(recorded, str) else None
    if data_path is not None:
        return dataset.load_file(file.subset, file.level, data_path, fingerprint)
    return dataset.cached_file(file.subset, file.level, fingerprint) if fingerprint else None


def rows_of(
    control: str | None, file: FileResult, data: DataFile
) -> Iterator[tuple[ScoredRow, Row]]:
    """Yield each scored row with what was asked, as far as the data have its question."""
    if control and control not in CONTROLS:  # of another version: what it asked is not known here
        return
    for scored in file.scored:
        if scored.index < len(data):
            row = controlled(control, data.row(scored.index))
            if row and row["input"] == scored.text("input"):
                yield scored, row


def _depths_of(evaluation: Evaluation, scored: ScoredRow, row: Row, found: Passages) -> RowDepths:
    """Compute a row's depths; those in a prompt that was cut, or made by a plugin, nobody knows."""
    told = RowDepths.read(depths(found, len(row["context"]))) or RowDepths()
    tokens, limit = scored.count("prompt_tokens_full"), evaluation.identity.get("model_max_len")
    is_whole = tokens is not None and type(limit) is int and tokens <= limit
    if is_whole and "plugins" not in evaluation.identity.get("given", {}):
        return told
    return RowDepths(
        tuple((depth, None) for depth, _ in told.evidence),
        tuple((depth, None) for depth, _ in told.confusing_facts),
    )


# --- passages ---


def _passages_of(
    scored: ScoredRow, context: str, found: Passages, known: RowDepths
) -> Iterator[Passage]:
    kinds: tuple[tuple[Kind, tuple[Span, ...], tuple[tuple[float, float | None], ...]], ...] = (
        ("evidence", found.evidence, known.evidence),
        ("confusing fact", found.confusing_facts, known.confusing_facts),
    )
    for kind, spans, pairs in kinds:
        # A record that was edited may tell of more or fewer passages than the data have.
        for (start, end), (depth, in_prompt) in zip(spans, pairs, strict=False):
            text = both_ends(_plain(context[start:end]), MOST)
            around = _before(context, start), text, _after(context, end)
            yield Passage(kind, depth, in_prompt, *around)
    if cut := _recorded_cut(scored, len(context)):
        around = _before(context, cut[0]), "", _after(context, cut[1])
        yield Passage("cut", cut[0] / len(context), None, *around, cut[1] - cut[0])


def _recorded_cut(scored: ScoredRow, size: int) -> Span | None:
    match scored.record.get("cut"):
        case [int(start), int(end)] if 0 <= start < end <= size:
            return start, end
    return None


def both_ends(text: str, most: int) -> str:
    """The text, or its two ends where it is longer than `most` characters."""
    half = most // 2
    return text if len(text) <= most + 3 else f"{text[:half]} … {text[len(text) - half :]}"


def _before(context: str, place: int) -> str:
    return _plain(context[max(place - AROUND, 0) : place])


def _after(context: str, place: int) -> str:
    return _plain(context[place : place + AROUND])


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)
