"""TODO lveval.execution.tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lveval import utils
from lveval.backends.base import EngineOptions, Generation, Json, Tokenizer
from lveval.data.dataset import load_file
from lveval.data.rows import Row
from lveval.execution import remote_cluster
from lveval.runs.record import Prediction


@dataclass(frozen=True)
class Job:
    """All that a worker must know to answer a row; the same for every task of a run."""

    backend: str
    options: EngineOptions
    model_name: str
    chat_template: str
    templates: Mapping[str, str]
    budgets: Mapping[str, int]
    fingerprints: Mapping[str, str]  # "<subset>_<level>" -> of the data file
    data_path: Path | None
    expected: remote_cluster.Environment = field(
        default_factory=dict
    )  # what a worker on another machine has to agree with
    max_concurrent_rows: int = 1  # rows that the engine computes together
    row_hours: float = 6.0  # an engine that finishes no row for so long hangs


@dataclass(frozen=True)
class Task:
    """Rows of one file, by their position in it."""

    subset: str
    level: str
    indices: tuple[int, ...]

    @property
    def file_name(self) -> str:
        """`<subset>_<level>`."""
        return f"{self.subset}_{self.level}"


@dataclass(frozen=True)
class Attempt:
    """A row that got no answer: why."""

    index: int
    cause: str
    message: str


@dataclass(frozen=True)
class TaskResult:
    """What a task came to: final records, failed attempts, and what the backend decided while loading."""

    task: Task
    records: tuple[Prediction, ...]
    attempts: tuple[Attempt, ...]
    effective: Mapping[str, Json]
    generated_tokens: int = 0


def prepare_row(
    job: Job, tokenizer: Tokenizer, native_chat: bool, subset: str, level: str, index: int
) -> tuple[Row, utils.PreparedPrompt]:
    """A row, and its prompt as a backend with this tokenizer and `own_chat` gets it. Raises HarnessError."""
    row = load_file(subset, level, job.data_path, job.fingerprints[f"{subset}_{level}"]).row(index)
    prepared = utils.build_prompt(
        row,
        job.templates[subset],
        job.budgets[subset],
        tokenizer,
        job.options.model_max_len,
        job.model_name,
        job.chat_template,
        native_chat,
    )
    key = f"{subset}/{level}/{index}"
    return row, replace(prepared, prompt=replace(prepared.prompt, key=key))


def make_record(
    row: Row,
    task: Task,
    index: int,
    prepared: utils.PreparedPrompt,
    answer: Generation,
    model_name: str,
) -> Prediction:
    """The row as it goes to disk: the published six keys first, then what the harness adds."""
    opened = utils.prompt_opens_thinking(prepared.prompt.formatted)
    pred, unfinished = utils.post_process(answer.text, model_name, reasoning_opened=opened)
    status = "length" if unfinished else answer.status
    if status == "ok" and not pred.strip():
        status = "empty"
    record = Prediction(
        pred=pred,
        answers=row["answers"],
        gold_ans=row["answer_keywords"],
        input=row["input"],
        all_classes=row["all_classes"],
        length=row["length"],
        dataset=task.subset,
        level=task.level,
        index=index,
        language=row["language"],
        status=status,
        prompt_tokens=len(prepared.prompt.tokens),
        prompt_tokens_full=prepared.prompt_tokens_full,
        evidence_kept=prepared.evidence_kept,
    )
    if answer.text != pred:
        record["raw_pred"] = answer.text
    if answer.finish_reason is not None:
        record["finish_reason"] = answer.finish_reason
    if answer.usage or answer.output_tokens is not None:
        record["usage"] = dict(answer.usage) or {"completion_tokens": answer.output_tokens or 0}
    if row["confusing_facts"] is not None:
        record["confusing_facts"] = row["confusing_facts"]
    if row["question_id"] is not None:
        record["question_id"] = row["question_id"]
    return record
