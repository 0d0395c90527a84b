"""A run as lm-eval keeps one: `results_<date>.json` and a `samples_<task>_<date>.jsonl` per file.

    lm_eval.write(evaluation, Path("exported"), hashes)

A task is a file of the benchmark, `lveval_<subset>_<level>`, a metric one of our protocols, 0 to 1.
The prompts of a run are not kept: a sample's argument is the question, its `doc` has the context's
SHA-256 in place of the context.
"""

import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lveval import __version__
from lveval.common.errors import DataError
from lveval.common.files import disk_errors, durable_mkdir, write_atomic
from lveval.common.jsonl import encode
from lveval.data.sources import HUB_REPO
from lveval.exchange.exporting import budget_of, ended_at, model_name, raw_output, sha256
from lveval.results import PROTOCOLS, Evaluation, FileResult, RowKey, ScoredRow
from lveval.runs.folder import run_folder

METRICS = {protocol: f"lveval_{protocol}" for protocol in PROTOCOLS}
FILTER = "none"  # lm-eval's name for an answer that is scored as it came

# Fields of a sample's "doc", and what they are called in a record.
DOC = {
    "input": "input",
    "answers": "answers",
    "answer_keywords": "gold_ans",
    "confusing_facts": "confusing_facts",
    "length": "length",
    "language": "language",
    "question_id": "question_id",
}


def write(
    evaluation: Evaluation, folder: Path, hashes: Mapping[RowKey, str], model_id: str | None = None
) -> list[Path]:
    """Write the files of a run into `<folder>/<model>/`; returns them, that of the scores last.

    Raises DataError where the run has no row, UsageError for a model's name that is no folder's,
    StorageError where the disk fails.
    """
    files = [file for file in evaluation.files if file.scored]
    if not files:
        raise DataError(f"{evaluation.folder}: found no scored row; expected at least one")
    target = run_folder(folder, model_id or model_name(evaluation))
    with disk_errors("making the folder", target):
        durable_mkdir(target)
    ended = ended_at(evaluation)
    date = time.strftime("%Y-%m-%dT%H-%M-%S.000000", time.gmtime(ended))
    written = []
    for file in files:
        written.append(target / f"samples_{_task(file)}_{date}.jsonl")
        lines = [encode(sample) + b"\n" for sample in _samples(evaluation, file, hashes)]
        write_atomic(written[-1], b"".join(lines))
    written.append(target / f"results_{date}.json")
    results = _results(evaluation, files, ended, model_id or model_name(evaluation))
    write_atomic(written[-1], json.dumps(results, indent=2) + "\n")
    return written


def _task(file: FileResult) -> str:
    return f"lveval_{file.name}"


def _settings(evaluation: Evaluation, file: FileResult) -> dict[str, Any]:
    """What is known of the decoding, in lm-eval's words."""
    budget = budget_of(evaluation, file)
    return {"max_gen_toks": budget} if budget else {}


def _samples(
    evaluation: Evaluation, file: FileResult, hashes: Mapping[RowKey, str]
) -> Iterator[dict[str, Any]]:
    settings = _settings(evaluation, file)
    for row in file.scored:
        doc = {name: row.record[ours] for name, ours in DOC.items() if ours in row.record}
        doc |= {"dataset": row.subset, "level": row.level, "context_sha256": hashes.get(row.key)}
        question, target = row.text("input") or "", str(row.record["answers"][0])
        yield {
            "doc_id": row.index,
            "doc": doc,
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": question, "arg_1": settings}},
            "resps": [[raw_output(row)]],
            "filtered_resps": [row.answer],
            "filter": FILTER,
            "metrics": list(METRICS.values()),
            # As lm-eval makes them.
            "doc_hash": sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": sha256(question),
            "target_hash": sha256(target),
            **{METRICS[protocol]: score for protocol, score in row.scores.items()},
        }


def _results(
    evaluation: Evaluation, files: list[FileResult], ended: int, name: str
) -> dict[str, Any]:
    tasks = {_task(file): file for file in files}
    identity = evaluation.identity
    return {
        "results": {
            task: {
                "name": task,
                "alias": task,
                "sample_len": file.rows,
                **_metrics(evaluation, file),
            }
            for task, file in tasks.items()
        },
        "group_subtasks": {},
        "configs": {task: _config(evaluation, file) for task, file in tasks.items()},
        "versions": dict.fromkeys(tasks, __version__),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {task: dict.fromkeys(METRICS.values(), True) for task in tasks},
        "n-samples": {
            task: {"original": file.available or file.selected, "effective": file.rows}
            for task, file in tasks.items()
        },
        "config": {
            "model": identity.get("backend", "unknown"),
            "model_args": {"pretrained": name},
            "limit": None,
            "gen_kwargs": {},
        },
        "git_hash": None,
        "date": ended,
        "lm_eval_version": None,
        "lveval_version": __version__,
        "max_length": identity.get("model_max_len"),
        "task_hashes": {},
        "model_source": identity.get("backend", "unknown"),
        "model_name": name,
        "model_name_sanitized": name.replace("/", "__"),
    }


def _metrics(evaluation: Evaluation, file: FileResult) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for protocol, metric in METRICS.items():
        found[f"{metric},{FILTER}"] = evaluation.scores(protocol)[file.subset, file.level] / 100
        found[f"{metric}_stderr,{FILTER}"] = _standard_error(file.scored, protocol)
    return found


def _standard_error(rows: list[ScoredRow], protocol: str) -> float | str:
    """Of the mean, as lm-eval has it; of a single row none can be told."""
    if len(rows) < 2:
        return "N/A"
    return statistics.stdev(row.scores[protocol] for row in rows) / math.sqrt(len(rows))


def _config(evaluation: Evaluation, file: FileResult) -> dict[str, Any]:
    return {
        "task": _task(file),
        "dataset_path": HUB_REPO if file.is_published_file else "json",
        "dataset_name": file.name,
        "test_split": "test",
        "output_type": "generate_until",
        "generation_kwargs": _settings(evaluation, file),
        "num_fewshot": 0,
        "repeats": 1,
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in METRICS.values()
        ],
        "metadata": {"signature": {name: evaluation.signature(name) for name in PROTOCOLS}},
    }
