"""Subsets of one's own: the tables of `subset.toml`, a file beside their data.

    own = read_own_subsets(Path("my_data")); declare(own)

    [my_qa]
    language = "en"
    metric = "qa_f1_score"
    max_new_tokens = 64
    prompt = "Read this:\\n{context}\\n\\nQuestion: {input}\\nAnswer:"
    group = "single-hop QA"                # may be left out, like metric_described, metric_recall

A declared subset stands in the tables of config.py, of this process alone: workers get what they
need of it with each task. A run keeps the definitions (run.json, "identity", "subsets"), so it is
scored without that file and not resumed under another one.
"""

import inspect
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lveval import config, metrics
from lveval.common.errors import DataError, LVEvalError, UsageError, unknown_name
from lveval.common.text import first_line
from lveval.data.dataset import DataFile
from lveval.data.rows import invalid

FILE = "subset.toml"

# What stands in file names and in the page's tables: nothing that steers one of them.
NAME = re.compile(r"\w[\w-]{0,79}")
GROUP = re.compile(r"\w[\w .,/()+-]{0,59}")

# Name -> function of metrics.py, of those with a metric's parameters.
METRICS: dict[str, Callable[..., float]] = {
    name: found
    for name, found in vars(metrics).items()
    if inspect.isfunction(found)
    and list(inspect.signature(found).parameters) == ["prediction", "ground_truth", "gold_ans"]
}


@dataclass(frozen=True, kw_only=True)
class OwnSubset:
    """What config.py has of a subset; the names are those of the file and of run.json."""

    language: str
    metric: str
    metric_described: str
    metric_recall: str
    max_new_tokens: int
    prompt: str
    group: str = ""  # none

    def as_data(self) -> dict[str, object]:
        """All of it, as run.json has it."""
        return asdict(self)


# By language: the metrics of the other two protocols, where the file names none.
DEFAULTS = {
    "en": {"metric_described": "qa_f1_score_described", "metric_recall": "keyword_recall_score"},
    "zh": {
        "metric_described": "qa_f1_zh_score_described",
        "metric_recall": "keyword_recall_zh_score",
    },
}

_declared: set[str] = set()


def read_own_subsets(data_path: Path | None) -> dict[str, OwnSubset]:
    """Read the definitions beside the data: name -> subset; empty where there is no such file.

    Raises DataError naming file and key, what was found and what was expected.
    """
    path = data_path / FILE if data_path else None
    if path is None or not path.is_file():
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as TOML ({first_line(error)})") from None
    return parse_own_subsets(found, str(path))


def parse_own_subsets(found: object, where: str) -> dict[str, OwnSubset]:
    """Check the definitions that a file or a run.json holds; raises DataError."""
    if not isinstance(found, Mapping):
        raise invalid(where, found, "a table for each subset")
    return {name: _parse(name, table, f"{where}: [{name}]") for name, table in found.items()}


def _parse(name: str, table: object, where: str) -> OwnSubset:
    if not isinstance(table, Mapping):
        raise invalid(where, table, "a table for each subset, as [my_qa]")
    if not NAME.fullmatch(name):
        raise invalid(where, name, 'a name of letters, digits, "_" and "-"')
    if name in config.DATASET_ALIAS or (name in config.DATASET_METRIC and name not in _declared):
        raise DataError(f"{where}: config.py has a subset of that name; expected another name")
    keys = [each.name for each in fields(OwnSubset)]
    for key in table:
        if key not in keys:
            raise unknown_name(key, f"key in {where}", keys)
    values: dict[str, object] = {"group": "", **table}
    language = values.get("language")
    if not isinstance(language, str) or language not in DEFAULTS:
        raise _wrong(where, values, "language", " or ".join(DEFAULTS))
    metric = values.get("metric")
    rouge = {"metric_described": metric} if str(metric).startswith("rouge") else {}
    values = DEFAULTS[language] | rouge | values
    fitting = [name for name in METRICS if ("_zh_" in name) == (language == "zh")]
    for key in ("metric", "metric_described", "metric_recall"):
        if values.get(key) not in fitting:
            raise _wrong(where, values, key, f"one of: {', '.join(fitting)}")
    budget, prompt, group = (values.get(key) for key in ("max_new_tokens", "prompt", "group"))
    if type(budget) is not int or not 1 <= budget < 2**31:
        raise _wrong(where, values, "max_new_tokens", "a whole number from 1")
    if not isinstance(prompt, str) or missing_fields(prompt):
        raise _wrong(where, values, "prompt", "text with {context} and {input}")
    if group != "" and not (isinstance(group, str) and GROUP.fullmatch(group)):
        raise _wrong(where, values, "group", "a short name of letters, digits and spaces")
    return OwnSubset(**values)  # type: ignore[arg-type]  # each was just looked at


def _wrong(where: str, values: Mapping[str, object], key: str, expected: str) -> LVEvalError:
    if key not in values:
        return DataError(f"{where}: no {key} (found: {', '.join(values)}); expected {expected}")
    return invalid(f"{where} {key}", values[key], expected)


def missing_fields(template: str) -> list[str]:
    """The fields that a prompt template lacks."""
    return [name for name in ("{context}", "{input}") if name not in template]


def declare(own: Mapping[str, OwnSubset]) -> None:
    """Let this process know these subsets as it knows those of config.py; the last word counts.

    Their templates stay with the run (PromptSet): the hash of config.py's does not change.
    """
    for name, subset in own.items():
        _declared.add(name)
        config.DATASET_LANGUAGE[name] = subset.language
        config.DATASET_MAXGEN[name] = subset.max_new_tokens
        config.DATASET_METRIC[name] = METRICS[subset.metric]
        config.DATASET_METRIC_DESCRIBED[name] = METRICS[subset.metric_described]
        config.DATASET_METRIC_RECALL[name] = METRICS[subset.metric_recall]
        config.DATASET_GROUP.pop(name, None)
        if subset.group:
            config.DATASET_GROUP[name] = subset.group


def unknown_subset(found: str) -> LVEvalError:
    """The error for a name that is no subset: which there are, and how to add one."""
    known = unknown_name(found, "subset", list(config.DATASET_METRIC)).message
    return UsageError(
        f"{known}; one of your own is a table in {FILE} beside its data (docs/data.md)"
    )


def require_language(file: DataFile) -> None:
    """Raise DataError where rows are of another language than their own subset.

    They were checked one by one as the file's copy was made, perhaps before this declaration.
    """
    if file.subset in _declared:
        expected = config.DATASET_LANGUAGE.get(file.subset)
        for found in file.languages():
            if expected not in (None, found):
                raise invalid(
                    f"{file.origin}: language of a row", found, f"{expected}, as in {FILE}"
                )
