"""What the exports of a run have in common: its model's name, when it ended, hashes of contexts.

Contexts are not exported, for their licences: a row has the SHA-256 of its own.
"""

import hashlib
import time
from calendar import timegm
from contextlib import suppress
from pathlib import Path

from lveval.analysis.contexts import data_of, rows_of
from lveval.results import Evaluation, FileResult, RowKey, ScoredRow


def model_name(evaluation: Evaluation) -> str:
    """The model as the run names it; of a folder without run.json the folder's name."""
    return str(evaluation.identity.get("model_name") or evaluation.folder.resolve().name)


def ended_at(evaluation: Evaluation) -> int:
    """When the run's last command ended, in Unix seconds; without run.json, its newest file."""
    with suppress(KeyError, TypeError, ValueError, IndexError):
        return timegm(time.strptime(evaluation.manifest["log"][-1]["time"], "%Y-%m-%dT%H:%M:%SZ"))
    paths = evaluation.folder.glob("*.jsonl")
    return int(max((path.stat().st_mtime for path in paths), default=0))


def hash_contexts(evaluation: Evaluation, data_path: Path | None) -> dict[RowKey, str]:
    """Hash the context that each row was asked with, of the files whose data are here.

    Raises LVEvalError where `data_path` holds other content than the run's.
    """
    hashes = {}
    for file in evaluation.files:
        if data := data_of(evaluation, file, data_path):
            for scored, row in rows_of(evaluation.control, file, data):
                hashes[scored.key] = sha256(row["context"])
    return hashes


def sha256(text: str) -> str:
    """The SHA-256 of a text in UTF-8, in hexadecimal digits."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def raw_output(row: ScoredRow) -> str:
    """The answer as the model gave it, before anything was cut off."""
    return row.text("raw_pred") or row.text("pred") or ""


def budget_of(evaluation: Evaluation, file: FileResult) -> int | None:
    """How many new tokens an answer might have; None where run.json does not tell."""
    budget = evaluation.identity.get("budgets", {}).get(file.subset)
    return budget if type(budget) is int and budget > 0 else None
