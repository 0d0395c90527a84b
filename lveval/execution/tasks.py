"""What an engine gets and gives back: jobs, tasks, rows made into prompts, and their records.

row = prepare_row(job, backend.tokenizer, backend.native_chat, ("cmrc_mixup", "16k", 0))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lveval import utils
from lveval.backends import load_plugins
from lveval.backends.base import EngineOptions, Generation, Json, RowKey, Tokenizer
from lveval.common.levels import file_name
from lveval.data.controls import controlled
from lveval.data.dataset import load_file
from lveval.data.rows import Row, row_record
from lveval.runs.record import FINAL_STATUSES, Prediction


@dataclass(frozen=True)
class Job:
    """All that a worker must know to answer a row; the same for every task of a run."""

    backend: str  # pinned: a worker refuses another file, or version, of that name
    options: EngineOptions
    model_name: str
    chat_template: str
    templates: Mapping[str, str]
    budgets: Mapping[str, int]
    fingerprints: Mapping[str, str]  # "<subset>_<level>" -> of the data file
    data_path: Path | None
    # What a worker on another machine has to agree with (remote_cluster.environment).
    expected: Mapping[str, Json] = field(default_factory=dict)
    max_concurrent_rows: int = 1  # rows that the engine computes together
    row_hours: float = 6.0  # an engine that finishes no row for so long hangs
    control: str | None = None
    records_depths: bool = True  # not in a run that an older version began


@dataclass(frozen=True)
class Task:
    """Rows of one file, by their position in it."""

    subset: str
    level: str
    indices: tuple[int, ...]

    @property
    def file_name(self) -> str:
        """`<subset>_<level>`."""
        return file_name(self.subset, self.level)

    @property
    def row_keys(self) -> list[RowKey]:
        """(subset, level, index) of each row."""
        return [(self.subset, self.level, index) for index in self.indices]


@dataclass(frozen=True)
class Attempt:
    """A row that got no answer, and why."""

    index: int
    cause: str
    message: str


@dataclass(frozen=True)
class PreparedRow:
    """A row and its prompt as the backend gets it."""

    key: RowKey
    row: Row
    prepared: utils.PreparedPrompt

    @property
    def task(self) -> Task:
        """The task of this row alone."""
        subset, level, index = self.key
        return Task(subset, level, (index,))

    def without_long_text(self) -> "PreparedRow":
        """The same once its prompt is sent: the record needs none of its 256k tokens."""
        row = self.row | {"context": ""}
        return replace(self, row=row, prepared=utils.drop_long_text(self.prepared))


@dataclass
class TaskResult:
    """The records and failed attempts of a task, and what the engine decided while loading."""

    task: Task
    records: list[Prediction] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    effective: Mapping[str, Json] = field(default_factory=dict)
    generated_tokens: int = 0
    # By index: the line of times.jsonl, of answers whose engine tells it. No part of the record.
    times: dict[int, dict[str, Json]] = field(default_factory=dict)

    def add(self, job: Job, row: PreparedRow, answer: Generation) -> None:
        """Take in the answer to one row, or the failure to get one."""
        if answer.status in FINAL_STATUSES:
            self.records.append(make_record(job.model_name, row, answer, job.options.think_tags))
            if answer.times:
                self.times[row.key[2]] = times_line(row, answer)
        else:
            self.attempts.append(Attempt(row.key[2], answer.status, answer.error))
        self.generated_tokens += answer.output_tokens or 0


def prepare_row(job: Job, tokenizer: Tokenizer, native_chat: bool, key: RowKey) -> PreparedRow:
    """Read a row and make its prompt. Raises LVEvalError: other data, no such chat format."""
    subset, level, index = key
    file = load_file(subset, level, job.data_path, job.fingerprints[f"{subset}_{level}"])
    row = controlled(job.control, file.row(index))
    assert row is not None  # such rows are not selected
    prepared = utils.build_prompt(
        row,
        job.templates[subset],
        job.budgets[subset],
        tokenizer,
        job.options.model_max_len,
        job.model_name,
        job.chat_template,
        native_chat,
        key=f"{subset}/{level}/{index}",
        context=load_plugins(job.options).context(row),
    )
    if not job.records_depths:
        prepared = replace(prepared, depths=None, cut=None)
    return PreparedRow(key, row, prepared)


def times_line(item: PreparedRow, answer: Generation) -> dict[str, Json]:
    """Make a row's line of times.jsonl: which row, its tokens, what the engine timed."""
    subset, level, index = item.key
    row: dict[str, Json] = {"dataset": subset, "level": level, "index": index}
    tokens = len(item.prepared.prompt.tokens)
    return {**row, "prompt_tokens": tokens, "new_tokens": answer.output_tokens, **answer.times}


def make_record(
    model_name: str,
    item: PreparedRow,
    answer: Generation,
    think_tags: Sequence[tuple[str, str]] = utils.THINK_TAGS,
) -> Prediction:
    """Make a row's record: the published six keys first, then what the harness adds."""
    row, prepared = item.row, item.prepared
    opened = utils.prompt_opens_thinking(prepared.prompt.formatted, think_tags)
    pred, unfinished = utils.post_process(answer.text, model_name, think_tags, opened=opened)
    status = "length" if unfinished else answer.status
    if status == "refused":
        pred = ""  # a refusal is scored as the empty answer; its words stay in raw_pred
    if status == "ok" and not pred.strip():
        status = "empty"
    own = Prediction(
        status=status,
        prompt_tokens=len(prepared.prompt.tokens),
        prompt_tokens_full=prepared.prompt_tokens_full,
        evidence_kept=prepared.evidence_kept,
    )
    if prepared.depths is not None:
        own["depths"] = prepared.depths
    if prepared.cut is not None:
        own["cut"] = list(prepared.cut)
    if answer.text != pred:
        own["raw_pred"] = answer.text
    if answer.measures:
        own["measures"] = dict(answer.measures)
    if answer.finish_reason is not None:
        own["finish_reason"] = answer.finish_reason
    if answer.usage or answer.output_tokens is not None:
        own["usage"] = dict(answer.usage) or {"completion_tokens": answer.output_tokens or 0}
    return row_record(row, item.key, pred, own)
