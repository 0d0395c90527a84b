"""Whether two runs can be compared at all, and in what they differ beyond the model.

mismatches.mismatches(identity_a, identity_b)   # how the settings of two run.json differ
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lveval.results import PROTOCOLS, Evaluation
from lveval.runs.spec import differences

LETTERS = ("A", "B")  # two runs that have no names


@dataclass(frozen=True)
class Mismatch:
    """A setting other than the model in which two runs differ."""

    text: str  # one sentence
    refuses: bool  # whether a comparison is meaningless; else it is only to be read with care


def version_mismatches(run: Evaluation) -> list[Mismatch]:
    """Refuse a run whose own results are of another version of a protocol than is compared."""
    return [
        Mismatch(
            f"its results are of {recorded} and this comparison would be of "
            f"{PROTOCOLS[name].label}, another version of the protocol; score it again with "
            f"evaluation.py --input-dir {run.folder}",
            True,
        )
        for name, recorded in run.recorded_protocols.items()
        if name in PROTOCOLS and recorded != PROTOCOLS[name].label
    ]


# Options that say which model it is.
OF_THE_MODEL = {"revision", "backend_file", "backend_package"}

THE_CONTROL = "different control"  # how the mismatch begins that a contrast is about


def model_differences(
    identity_a: Mapping[str, object], identity_b: Mapping[str, object]
) -> list[Mismatch]:
    """Flag another model or engine, which a contrast with a control does not allow for.

    Left out is what mismatches() tells, and the run's name.
    """
    told = {"engine.request_args", "engine.system_message", "engine.pure_greedy"}
    parts = [
        {
            **{name: each.get(name) for name in ("backend", "engine", "backend_args", "tables")},
            "given": {name: section(each, "given").get(name) for name in OF_THE_MODEL},
        }
        for each in (identity_a, identity_b)
        if each
    ]
    if len(parts) < 2:
        return []
    unlike = [name for name, *_ in differences(*parts) if not name.startswith(tuple(told))]
    more = ", …" if len(unlike) > 3 else ""
    text = f"different models or engines ({', '.join(unlike[:3])}{more}): no contrast of one model"
    return [Mismatch(text, False)] if unlike else []


def _short(text: str) -> str:
    return "none" if text == "null" else text if len(text) <= 60 else f"{text[:57]}…"


def mismatches(
    identity_a: Mapping[str, object],
    identity_b: Mapping[str, object],
    names: tuple[str, str] = LETTERS,
) -> list[Mismatch]:
    """List what differs beyond the model in the `identity` of two run.json; refusals come first.

    Refused: data of a common file that differ, no file in common. Flagged: other settings, and what
    a run did not record (folders of the published harness have no run.json: pass an empty mapping).
    """
    found = data_mismatches(section(identity_a, "data"), section(identity_b, "data"), names)
    found += setting_mismatches(identity_a, identity_b, names)
    return sorted(found, key=lambda mismatch: not mismatch.refuses)


def setting_mismatches(
    identity_a: Mapping[str, object], identity_b: Mapping[str, object], names: tuple[str, str]
) -> list[Mismatch]:
    """Flag other prompts, chat format, limit of tokens, budgets or decoding, as `mismatches`."""
    both = identity_a, identity_b

    def noted(words: str, values: Sequence[object], shown: Sequence[object] = ()) -> list[Mismatch]:
        return difference_notes(words, values, shown, names)

    prompts = [section(each, "prompts") for each in both]
    hashes = [each.get("sha256") for each in prompts]
    templates = [f"{each.get('name', 'unnamed')}-{str(each.get('sha256'))[:8]}" for each in prompts]
    found = noted("prompts", hashes, templates)
    for field, words in (("chat_template", "chat format"), ("model_max_len", "limit of tokens")):
        found += noted(words, [each.get(field) for each in both])
    engines = [section(each, "engine") for each in both]
    for field, words in (
        ("request_args", "--request-args"),
        ("system_message", "system message"),
        ("pure_greedy", "--pure-greedy"),
    ):
        found += noted(words, [engine.get(field) or "none" for engine in engines])
    given = [section(each, "given") for each in both]
    for field in sorted({*given[0], *given[1]} - OF_THE_MODEL):
        values = [json.dumps(each.get(field), sort_keys=True) for each in given]
        found += noted(field, values, [_short(value) for value in values])
    budgets = [section(each, "budgets") for each in both]
    if not all(budgets):
        found += noted("budgets of answers", [each or None for each in budgets])
    for subset in sorted(budgets[0].keys() & budgets[1].keys()):
        found += noted(f"budget of {subset} answers", [each[subset] for each in budgets])
    own = [section(each, "subsets") for each in both]
    for subset in sorted(own[0].keys() & own[1].keys()):
        found += _own_mismatches(subset, section(own[0], subset), section(own[1], subset), names)
    return found


# Of the definition of a user's own subset: what its scores depend on, beside the answers.
SCORED_BY = ("language", "metric", "metric_described", "metric_recall")


def _own_mismatches(
    subset: str, a: Mapping[str, object], b: Mapping[str, object], names: tuple[str, str]
) -> list[Mismatch]:
    """Compare two definitions of one subset: refused where they are scored in two ways."""
    found = [
        Mismatch(
            f"{subset} has the {field} {a.get(field)} in {names[0]}, {b.get(field)} in {names[1]}",
            True,
        )
        for field in SCORED_BY
        if a.get(field) != b.get(field)
    ]
    prompts = [_short(json.dumps(each.get("prompt"))) for each in (a, b)]
    values = [each.get("prompt") for each in (a, b)]
    return found + difference_notes(f"prompt of {subset}", values, prompts, names)


def data_mismatches(
    a: Mapping[str, object], b: Mapping[str, object], names: tuple[str, str] = LETTERS
) -> list[Mismatch]:
    """Compare two "data" sections, <subset>_<level> -> fingerprint of the file."""
    if not a or not b:
        return difference_notes("fingerprints of the data", [a or None, b or None], (), names)
    common = sorted(a.keys() & b.keys())
    if not common:
        return [Mismatch("the runs have no data file in common", True)]
    unlike = "differ: not the same questions, or not the same contexts"
    return [Mismatch(f"the data of {name} {unlike}", True) for name in common if a[name] != b[name]]


def difference_notes(
    words: str,
    values: Sequence[object],
    shown: Sequence[object] = (),
    names: tuple[str, str] = LETTERS,
) -> list[Mismatch]:
    """Flag values of two runs that differ or are None; `shown` stand in place of the values."""
    missing = [run for run, value in zip(names, values, strict=True) if value is None]
    if missing:
        runs = " and ".join(missing)
        return [Mismatch(f"{words}: cannot be compared, not recorded in {runs}", False)]
    if values[0] == values[1]:
        return []
    a, b = shown or values
    return [Mismatch(f"different {words}: {a} in {names[0]}, {b} in {names[1]}", False)]


def section(identity: Mapping[str, object], field: str) -> Mapping[str, object]:
    """A part of an identity that is a mapping; empty where it is missing."""
    found = identity.get(field)
    return found if isinstance(found, Mapping) else {}
