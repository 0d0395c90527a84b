"""A run as Every Eval Ever has one, schema 0.3.0: an aggregate JSON and its samples, a line each.

    every_eval_ever.write(evaluation, Path("exported"), hashes, "Qwen/Qwen2.5-7B-Instruct")

They go where its datastore has them, `data/lveval/<developer>/<model>/<uuid>.json` and
`<uuid>_samples.jsonl`. A result is a file of the benchmark, or the mean of a level, under one
protocol, 0 to 100; a sample is a row under one protocol, since the schema wants a line for each
result. Imports numpy at once: import this module where it is used.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from lveval import __version__, config, metrics
from lveval.analysis.intervals import CONFIDENCE, Interval, score_intervals
from lveval.common import jieba_dictionary
from lveval.common.errors import DataError, UsageError
from lveval.common.files import disk_errors, durable_mkdir, write_atomic
from lveval.common.jsonl import encode
from lveval.data.sources import HUB_REPO
from lveval.exchange.exporting import budget_of, ended_at, model_name, raw_output, sha256
from lveval.results import PROTOCOLS, Evaluation, FileResult, RowKey, ScoredRow, level_means

SCHEMA = "0.3.0"
COLLECTION = "lveval"  # the datastore's folder of this benchmark

PART = r"[A-Za-z0-9](?:[\w.-]*[\w-])?"  # of a path, on any system
MODEL_ID = re.compile(rf"{PART}(?:/{PART})+", re.ASCII)


def write(
    evaluation: Evaluation,
    folder: Path,
    hashes: Mapping[RowKey, str],
    model_id: str | None = None,
    organization: str = "unknown",
) -> list[Path]:
    """Write the two files of a run below `folder`, the same ones each time; returns them.

    `organization` is who made the run. Raises UsageError for a model's name that is not ORG/NAME,
    DataError where the run has no row, StorageError where the disk fails.
    """
    name = model_id or model_name(evaluation)
    if not MODEL_ID.fullmatch(name):
        raise UsageError(
            f'--model-id: found "{name}"; expected the model\'s name as ORG/NAME, such as '
            "Qwen/Qwen2.5-7B-Instruct"
        )
    if not evaluation.rows:
        raise DataError(f"{evaluation.folder}: found no scored row; expected at least one")
    developer, _, model = name.partition("/")
    target = Path("data", COLLECTION, developer, model.replace("/", "_"))
    ended = str(ended_at(evaluation))
    identity = f"{COLLECTION}/{name}/{ended}"
    lines = b"".join(
        encode(sample) + b"\n"
        for protocol in PROTOCOLS
        for row in evaluation.rows
        for sample in [_sample(row, protocol, identity, name, hashes.get(row.key))]
    )
    digest = hashlib.sha256(lines).digest()
    stem = target / str(UUID(bytes=digest[:16], version=4))
    samples = stem.with_name(f"{stem.name}_samples.jsonl")
    aggregate = {
        "schema_version": SCHEMA,
        "evaluation_id": identity,
        "evaluation_timestamp": ended,
        "retrieved_timestamp": ended,
        "source_metadata": {
            "source_name": "LV-Eval harness",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": "other",
        },
        "eval_library": {
            "name": "lveval",
            "version": __version__,
            "additional_details": {
                "jieba": jieba_dictionary.JIEBA_VERSION,
                "rouge": metrics.ROUGE_VERSION,
                **{f"signature_{each}": evaluation.signature(each) for each in PROTOCOLS},
            },
        },
        "model_info": _model(evaluation, name),
        "evaluation_results": [
            result for protocol in PROTOCOLS for result in _results(evaluation, protocol)
        ],
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": samples.as_posix(),
            "hash_algorithm": "sha256",
            "checksum": digest.hex(),
            "total_rows": len(PROTOCOLS) * len(evaluation.rows),
        },
    }
    with disk_errors("making the folder", folder / target):
        durable_mkdir(folder / target)
    write_atomic(folder / samples, lines)
    text = json.dumps(aggregate, indent=2) + "\n"
    write_atomic(folder / f"{stem}.json", text)
    return [folder / samples, folder / f"{stem}.json"]


def _model(evaluation: Evaluation, name: str) -> dict[str, Any]:
    identity, engine = evaluation.identity, evaluation.identity.get("engine", {})
    details = {
        "deployment_type": "unknown",
        "model_availability": "unknown",
        "run_name": model_name(evaluation),
        **_texts({f"engine_{key}": value for key, value in engine.items()}),
    }
    found: dict[str, Any] = {"name": name, "id": name, "additional_details": details}
    if backend := identity.get("backend"):
        found["inference_engine"] = {"name": str(backend)}
        if version := engine.get("version"):
            found["inference_engine"]["version"] = str(version)
    return found


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    """Details as the schema takes them: all texts; what is unknown is left out."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in values.items()
        if value is not None
    }


# --- Aggregate results --------------------------------------------------------------------------


def _result_id(name: str, protocol: str) -> str:
    return f"{name}/{protocol}"


def _results(evaluation: Evaluation, protocol: str) -> Iterator[dict[str, Any]]:
    """Each file's score and each level's mean under one protocol."""
    scores = evaluation.scores(protocol)
    found = score_intervals(evaluation.rows, protocol)
    for file in evaluation.files:
        if not file.scored:
            continue
        key = file.subset, file.level
        metric = PROTOCOLS[protocol].metrics[file.subset].__name__
        yield {
            **_result(file.name, protocol, metric, scores[key], found.files[key], file.rows),
            "source_data": _source(file),
            "generation_config": _generation(evaluation, file),
        }
    for level, mean in level_means(scores).items():
        files = [file for file in evaluation.files if file.level == level and file.scored]
        rows, metric = sum(file.rows for file in files), "mean of the subsets"
        yield {
            **_result(f"mean_{level}", protocol, metric, mean, found.levels[level], rows),
            "source_data": _source(*files),
        }


def _result(
    name: str, protocol: str, metric: str, score: float, interval: Interval, rows: int
) -> dict[str, Any]:
    uncertainty: dict[str, Any] = {"num_samples": rows}
    if interval.low is not None and interval.high is not None:
        uncertainty["confidence_interval"] = {
            "lower": interval.low,
            "upper": interval.high,
            "confidence_level": CONFIDENCE,
            "method": f"BCa bootstrap {interval.label}",
        }
    return {
        "evaluation_result_id": _result_id(name, protocol),
        "evaluation_name": name,
        "metric_config": {
            "evaluation_description": f"LV-Eval, protocol {PROTOCOLS[protocol].label}: "
            f"{PROTOCOLS[protocol].about}",
            "metric_id": f"{COLLECTION}.{protocol}",
            "metric_name": metric,
            "metric_unit": "percent",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0,
            "max_score": 100,
        },
        "score_details": {"score": score, "uncertainty": uncertainty},
    }


def _source(*files: FileResult) -> dict[str, Any]:
    """Where the rows came from: the Hub, as far as that can be told from their number."""
    name = files[0].name if len(files) == 1 else COLLECTION
    if all(file.is_published_file for file in files):
        number = sum(file.rows for file in files)
        return {
            "dataset_name": name,
            "source_type": "hf_dataset",
            "hf_repo": HUB_REPO,
            "hf_split": "test",
            "samples_number": number,
        }
    return {"dataset_name": name, "source_type": "other"}


def _generation(evaluation: Evaluation, file: FileResult) -> dict[str, Any]:
    """What run.json tells of the prompts and the decoding."""
    budget, identity, prompts = budget_of(evaluation, file), evaluation.identity, evaluation.prompts
    details = {
        "model_max_len": identity.get("model_max_len"),
        "chat_template": identity.get("chat_template"),
        "prompts": prompts.get("name"),
        "prompts_sha256": prompts.get("sha256"),
        "data": identity.get("data", {}).get(file.name),
        "given": identity.get("given"),
    }
    return {
        "generation_args": {"max_tokens": budget} if budget else {},
        "additional_details": _texts(details),
    }


# --- Samples ------------------------------------------------------------------------------------


def _sample(
    row: ScoredRow, protocol: str, identity: str, name: str, context: str | None
) -> dict[str, Any]:
    file = f"{row.subset}_{row.level}"
    question, truths = row.text("input") or "", [str(each) for each in row.record["answers"]]
    raw, status = raw_output(row), row.text("status")
    answer_tokens, prompt_tokens = row.answer_tokens, row.count("prompt_tokens")
    sample: dict[str, Any] = {
        "schema_version": SCHEMA,
        "evaluation_id": identity,
        "model_id": name,
        "evaluation_name": file,
        "evaluation_result_id": _result_id(file, protocol),
        "sample_id": f"{file}:{row.index}",
        "sample_hash": sha256("\n".join((question, *truths))),
        "interaction_type": "single_turn",
        "input": {"raw": question, "reference": truths},
        "output": {"raw": [raw]},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": row.answer,
                "extraction_method": "none" if row.answer == raw else "post-processing",
                "is_terminal": True,
            }
        ],
        "evaluation": {
            "score": 100 * row.scores[protocol],
            "is_correct": row.scores[protocol] == 1,
        },
        "metadata": _texts(
            {
                "language": config.DATASET_LANGUAGE.get(row.subset),
                "level": row.level,
                "index": row.index,
                "status": status,
                "context_sha256": context,
                "evidence_kept": row.evidence_kept,
            }
        ),
    }
    if answer_tokens is not None and prompt_tokens is not None:
        sample["token_usage"] = {
            "input_tokens": prompt_tokens,
            "output_tokens": answer_tokens,
            "total_tokens": prompt_tokens + answer_tokens,
        }
    if status == "refused":
        sample["error"] = "refusal"
    return sample
