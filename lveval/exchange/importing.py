"""Answers made elsewhere become a run: joined to the data's rows, every one accounted for.

    folder = import_answers("lm-eval", [Path("samples_lveval_lic_mixup_16k_….jsonl")], data, folder)

A row of the run has its question, truths and keywords from the data and its answer from the file.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lveval import utils
from lveval.common.errors import DataError, UsageError, unknown_name
from lveval.common.files import disk_errors
from lveval.common.levels import FileKey, file_name
from lveval.common.logs import log
from lveval.data.dataset import DataFile, allow_unverified, load_file
from lveval.data.own_subsets import declare, read_own_subsets
from lveval.data.rows import Row, row_record
from lveval.exchange.foreign_answers import FORMATS, ForeignAnswer
from lveval.runs.record import IMPORTED, Prediction
from lveval.runs.store import RunStore

TOLD = 10  # faults of one kind that are printed; -v prints all


@dataclass
class Joined:
    """The answers of each file by row, and those that found none."""

    files: dict[FileKey, DataFile] = field(default_factory=dict)
    answers: dict[FileKey, dict[int, ForeignAnswer]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)  # what is said of each
    doubled: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows have an answer."""
        return sum(map(len, self.answers.values()))

    @property
    def missing(self) -> Iterator[str]:
        """What is said of each row of these files that has no answer."""
        for key, answers in self.answers.items():
            for index in range(len(self.files[key])):
                if index not in answers:
                    yield f"{file_name(*key)}: row {index} has no answer"


def import_answers(
    form: str,
    paths: Sequence[Path],
    data_path: Path | None,
    folder: Path,
    *,
    model_name: str = "",
    allow_unverified_data: bool = False,
    overwrite: bool = False,
) -> None:
    """Write the run of the answers in `paths`, which are in the format `form`, into `folder`.

    Raises UsageError or DataError where a file is not in that format or answers no row of the
    data, SettingsMismatch where the folder holds another run, StorageError where the disk fails.
    """
    if form not in FORMATS:
        raise unknown_name(form, "--import", list(FORMATS))
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path}: found no file; expected one of the format {form}")
    own = read_own_subsets(data_path)
    declare(own)
    joined = join(FORMATS[form](paths), data_path)
    unverified = allow_unverified(joined.files.values(), {}, allowed=allow_unverified_data)
    missing = list(joined.missing)
    kinds = {"unknown": joined.unknown, "doubled": joined.doubled, "missing": missing}
    for name, told in kinds.items():
        _tell(name, told)
    if not joined.rows:
        raise DataError(f"{paths[0]}: no answer in it is to a row of the data")
    identity: dict[str, object] = {
        "backend": IMPORTED,
        "engine": {"format": form, "files": sorted(map(_sha256, paths))},
        "model_name": model_name or folder.name,
        "data": {file_name(*key): file.fingerprint for key, file in joined.files.items()},
    }
    if used := {name: own[name].as_data() for name, _ in joined.files if name in own}:
        identity["subsets"] = used
    rows = {file_name(*key): len(file) for key, file in joined.files.items()}
    with RunStore.open(
        folder, identity, rows, rows, unverified=unverified, overwrite=overwrite
    ) as store:
        for record in _records(joined, model_name):
            store.append(record)
        for key in joined.files:
            store.export_predictions(*key)
        counts = {name: len(told) for name, told in kinds.items()}
        names = [str(path) for path in paths]
        store.log({"event": "import", "files": names, "rows": joined.rows, **counts})
    log.info(
        "%s: %d answers of %d rows imported; %d without a row, %d doubled, %d rows without one",
        folder,
        joined.rows,
        sum(rows.values()),
        *counts.values(),
    )


def _tell(kind: str, told: Sequence[str]) -> None:
    for number, what in enumerate(told):
        (log.warning if number < TOLD else log.debug)("%s: %s", kind, what)
    if len(told) > TOLD:
        log.warning("%s: %d more (-v names them)", kind, len(told) - TOLD)


def _sha256(path: Path) -> str:
    with disk_errors("reading", path), path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


# --- Which row an answer is to ------------------------------------------------------------------


def join(answers: Iterator[ForeignAnswer], data_path: Path | None) -> Joined:
    """Find the row of each answer; the first answer to a row counts.

    Raises DataError as data.load_file does.
    """
    from tqdm import tqdm

    joined = Joined()
    questions: dict[FileKey, list[str]] = {}
    for answer in tqdm(answers, desc="reading answers", unit="row", delay=1, leave=False):
        key = answer.key
        if key not in joined.files:
            joined.files[key] = load_file(key[0], key[1], data_path)
            questions[key] = joined.files[key].questions()
            joined.answers[key] = {}
        found = _row_of(answer, questions[key])
        if isinstance(found, str):
            joined.unknown.append(f"{answer.where}: {found}")
        elif first := joined.answers[key].get(found):
            same = "the same" if first.text == answer.text else "another"
            joined.doubled.append(
                f"{answer.where}: row {found} of {file_name(*key)} has {same} answer already, at "
                f"{first.where}, which counts"
            )
        else:
            joined.answers[key][found] = answer
    return joined


def _row_of(answer: ForeignAnswer, questions: Sequence[str]) -> int | str:
    """The row that is answered, or why there is none."""
    index, name = answer.index, file_name(*answer.key)
    if answer.question is not None:
        found = [row for row, question in enumerate(questions) if question == answer.question]
        if index is not None and index in found:
            return index
        if len(found) == 1:  # a tool may have shuffled the rows, or left some out
            return found[0]
        if not found:
            return f"no row of {name} asks its question"
        return f"{len(found)} rows of {name} ask its question; its index tells none of them"
    if index is None:
        return "it tells neither the index nor the question of its row"
    if not 0 <= index < len(questions):
        return f"{name} has {len(questions)} rows; there is no row {index}"
    if answer.prompt is not None and questions[index] not in answer.prompt:
        return f"its prompt does not hold the question of row {index} of {name}"
    return index


def _records(joined: Joined, model_name: str) -> Iterator[Prediction]:
    """Make the records, file by file, in the order of the rows."""
    from tqdm import tqdm

    with tqdm(total=joined.rows, desc="importing", unit="row", delay=1, leave=False) as bar:
        for key, answers in joined.answers.items():
            for index, answer in sorted(answers.items()):
                yield _record(key, index, joined.files[key].row(index), answer.text, model_name)
                bar.update()


def _record(key: FileKey, index: int, row: Row, text: str, model_name: str) -> Prediction:
    """The row's record: of its prompt nothing is known, of the answer's end neither."""
    pred, unfinished = utils.post_process(text, model_name)
    status = "length" if unfinished else "ok" if pred.strip() else "empty"
    own = Prediction(status=status, evidence_kept=None)
    if text != pred:
        own["raw_pred"] = text
    return row_record(row, (*key, index), pred, own)
