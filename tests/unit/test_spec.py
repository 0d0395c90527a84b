"""The run spec: what of two identities differs, what may, and what a run of before did not tell."""

from pathlib import Path
from typing import Any

import pytest
from support.stores import IDENTITY, refusal

from lveval.common.errors import ExitCode
from lveval.runs.spec import (
    RunSpec,
    differences,
    grow,
    is_identity,
    require_no_secret,
    require_same_spec,
)

SPEC: dict[str, Any] = {
    "backend": "echo",
    "engine": {"version": 1},
    "backend_args": {},
    "model_name": "dry",
    "model_max_len": 300,
    "batch_size": 1,
    "prompts": {"name": "builtin"},
    "chat_template": "auto",
    "tables": {},
    "budgets": {"lic_mixup": 64},
    "data": {},
    "given": {},
    "subsets": {},
}


def test_an_identity_is_the_spec_in_json_without_what_most_runs_lack() -> None:
    plain = RunSpec(**SPEC).as_identity()
    assert plain == {name: each for name, each in SPEC.items() if name not in ("given", "subsets")}
    given = RunSpec(**SPEC | {"given": {"stop": ("a", "b")}}).as_identity()
    assert given == plain | {"given": {"stop": ["a", "b"]}}
    subsets = RunSpec(**SPEC | {"subsets": {"mine": {"prompt": "{input}"}}}).as_identity()
    assert subsets == plain | {"subsets": {"mine": {"prompt": "{input}"}}}


def test_a_refusal_names_each_field_on_its_line_and_what_to_do() -> None:
    with refusal(ExitCode.IDENTITY) as caught:
        require_same_spec(Path("run"), IDENTITY, IDENTITY | {"seed": 1, "backend": "hf"})
    assert caught.value.message == (
        "run: this run was made with other settings; its answers would be mixed with different ones"
        '\n  backend: recorded "echo", asked "hf"'
        "\n  seed: recorded null, asked 1"
        "\nuse the recorded settings, another --output-dir or --model-name, or --overwrite to move "
        "the run aside"
    )


def test_an_engines_file_may_be_renamed_and_no_other() -> None:
    def identity(backend: str, **given: object) -> dict[str, object]:
        return {"backend": backend, "given": given}

    require_same_spec(
        Path(), identity("a.py", backend_file="1"), identity("b.py", backend_file="1")
    )
    for recorded, asked in (
        (identity("a.py", backend_file="1"), identity("b.py", backend_file="2")),
        (identity("a"), identity("b")),
        (identity("a.py", backend_file="1"), identity("hf")),
        ({"backend": "a"}, {"backend": "b"}),
        ({"backend": "a", "given": None}, {"backend": "b", "given": None}),
    ):
        with refusal(ExitCode.IDENTITY, "backend: recorded"):
            require_same_spec(Path(), recorded, asked)
    moved = identity("b.py", backend_file="1", stop=["a"])
    with refusal(ExitCode.IDENTITY, 'given.stop: recorded nothing, asked ["a"]') as caught:
        require_same_spec(Path(), identity("a.py", backend_file="1"), moved)
    assert "backend" not in caught.value.message


@pytest.mark.parametrize("field", ["engine.custom_generate", "tables.think_tags"])
def test_what_only_one_run_tells_since_a_later_version_is_no_difference(field: str) -> None:
    part, _, name = field.partition(".")
    before: dict[str, object] = {part: {"version": 1}}
    since: dict[str, object] = {part: {"version": 1, name: "sha256:1"}}
    other: dict[str, object] = {part: {"version": 1, name: None}}
    assert not [*differences(before, since)] and not [*differences(since, before)]
    assert [*differences(since, other)] == [(field, '"sha256:1"', "null")]
    new: dict[str, object] = {part: {"version": 1, "newer": 1}}
    assert [*differences(before, new)] == [(f"{part}.newer", "nothing", "1")]


def test_only_entries_per_file_or_subset_are_added_to_a_recorded_identity() -> None:
    recorded: dict[str, Any] = {"data": {"a": 1}, "engine": {"version": 1}, "seed": 1}
    grow(
        recorded,
        {
            "data": {"b": 2},
            "budgets": {"b": 3},
            "subsets": {"b": {}},
            "engine": {"newer": 1},
            "seed": 2,
            "database": {"b": 1},
        },
    )
    assert recorded == {
        "data": {"a": 1, "b": 2},
        "budgets": {"b": 3},
        "subsets": {"b": {}},
        "engine": {"version": 1},
        "seed": 1,
    }
    text: dict[str, Any] = {}
    grow(text, {"data": "no mapping"})
    assert text == {}


def test_a_key_is_refused_by_its_name_or_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-0123456789abcdef"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    require_no_secret({"seed": 7, "engine": {"api_key": "", "token": None, "secret": 3, "a": "b"}})
    for identity, field in (
        ({"engine": {"args": {"API_Key": "x"}}}, "engine.args.API_Key"),
        ({"token": "x"}, "token"),
        ({"engine": {"suffix": f"with {key} in it"}}, "engine.suffix"),
    ):
        with refusal(ExitCode.USAGE) as caught:
            require_no_secret(identity)
        assert caught.value.message == (
            f"{field}: found a key in it, which run.json would keep; expected it in a variable of "
            "the environment, or for a service in --header 'NAME: $VARIABLE'"
        )


def test_what_has_not_the_kinds_of_a_spec_is_none() -> None:
    assert is_identity({}) and is_identity(SPEC) and is_identity(SPEC | {"effective": {}})
    assert is_identity({"engine": 1})  # a backend's own business
    assert not is_identity([]) and not is_identity(SPEC | {"effective": []})
    for field in SPEC.keys() - {"engine"}:
        assert not is_identity(SPEC | {field: ["neither text nor number nor mapping"]}), field
