"""construct --fresh: keyed, answerable, with one right answer, and new for each seed.

python -m pytest tests/unit/test_fresh.py
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.construct_parts import articles
from support.fresh_solver import Solver, things

from lveval import config, metrics
from lveval.common.errors import LVEvalError, StorageError
from lveval.construct import fresh, write
from lveval.construct.build import BuildSpec, build_row
from lveval.construct.sources import SAMPLES, read_sources
from lveval.construct.synthetic import SLOT, seeded
from lveval.results import ONE_QUESTION, PROTOCOLS

__all__ = ["articles"]  # fixtures

ROWS = 10
SUBSETS = list(config.DATASET_ROWS)
SOLVERS = {language: Solver(language) for language in ("en", "zh")}
Row = Mapping[str, Any]


@pytest.fixture(scope="module")
def rows(articles: Path) -> dict[str, list[Row]]:
    """Some rows of every subset, as they are and with four confusing facts each."""
    metrics.qa_f1_zh_score("一", "二")  # reads the dictionary, which no one test is to pay for
    recipes = [
        BuildSpec(7, distractors=articles, fresh=7),
        BuildSpec(8, distractors=articles, fresh=8, most_facts=4),
    ]
    return {
        subset: [
            build_row(recipe, subset, "1k", index)
            for recipe in recipes
            for index in range(2 if subset in ONE_QUESTION else ROWS)
        ]
        for subset in SUBSETS
    }


def answers(row: Row, context: str = "") -> set[frozenset[str]]:
    return SOLVERS[row["language"]].answers(row["input"], context or row["context"])


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_reader_of_the_context_finds_one_answer_the_right_one(
    rows: dict[str, list[Row]], subset: str
) -> None:
    for row in rows[subset]:
        assert answers(row) == {things(row)}, row["input"]


@pytest.mark.parametrize("subset", SUBSETS)
def test_every_document_is_needed_and_no_confusing_fact_is(
    rows: dict[str, list[Row]], subset: str
) -> None:
    for row in rows[subset]:
        context, offsets = row["context"], row["offsets"]
        for start, end in offsets["evidence"]:
            assert things(row) not in answers(row, context[:start] + context[end:]), row["input"]
        for start, end in sorted(offsets["confusing_facts"], reverse=True):
            context = context[:start] + context[end:]
        assert answers(row, context) == {things(row)}


def test_the_reader_sees_a_second_truth(rows: dict[str, list[Row]]) -> None:
    """Else the tests above would prove nothing."""
    solver, world = SOLVERS["en"], fresh.World("en", seeded("another"))
    seen = 0
    for row in rows["loogle_SD_mixup"]:
        for relation in fresh.grammar_of("en")["relations"].values():
            for asked in relation["ask"]:
                if match := re.fullmatch(solver.pattern(asked, {"s": "(?P<s>.+)"}), row["input"]):
                    other = world.make(relation["to"]).name
                    lie = world.fact(relation, match["s"], other)
                    found = answers(row, f"{row['context']} {lie}")
                    seen += found == {things(row), frozenset([other.casefold()])}
    assert seen >= ROWS


# --- New for each seed ------------------------------------------------------------------------------------------------


def questions(seed: int, subset: str, number: int) -> set[str]:
    return {fresh.fresh_source(seed, subset, index).question for index in range(number)}


@pytest.mark.parametrize("subset", [name for name in SUBSETS if name not in ONE_QUESTION])
def test_seeds_share_no_question_and_ask_none_twice(subset: str) -> None:
    number = 60
    asked = [questions(seed, subset, number) for seed in (0, 1, 2, 20261129, 2**62)]
    assert [len(each) for each in asked] == [number] * len(asked)
    together = {question for each in asked for question in each}
    assert len(together) == number * len(asked)
    assert not together & {source.question for source in read_sources(SAMPLES, subset)}


def test_one_question_subsets_ask_one_question_a_seed() -> None:
    for subset in ONE_QUESTION:
        asked = {fresh.fresh_source(seed, subset, 0).question for seed in range(60)}
        assert len(asked) == 60
        assert {BuildSpec(1, fresh=1).number(subset, index) for index in range(200)} == {0}


def ways(template: str, words: Mapping[str, list[str]], own: set[str]) -> int:
    """How many texts a template can become, slots of `own` being given."""
    found = 1
    for low, high, name, options in SLOT.findall(template):
        if low:
            found *= int(high) - int(low) + 1
        elif name not in own:
            found *= sum(ways(each, words, own) for each in words.get(name) or options.split("|"))
    return found


def names_of(form: Mapping[str, Any], words: Mapping[str, list[str]]) -> int:
    """How many full names a kind of thing has."""
    slots = list(form["set"])
    before = {slot: set(slots[:place]) for place, slot in enumerate(slots)}
    return math.prod(ways(form["set"][slot], words, before[slot]) for slot in slots)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_names_are_so_many_that_seeds_hardly_ever_meet(language: str) -> None:
    """Over single-hop files of the published size; longer chains begin at the same names."""
    grammar = fresh.grammar_of(language)
    numbers = {kind: names_of(form, grammar["words"]) for kind, form in grammar["types"].items()}
    assert min(numbers.values()) > 1_000_000, numbers
    asked = max(config.DATASET_ROWS.values()) / len(grammar["relations"])
    begin = Counter(relation["of_type"] for relation in grammar["relations"].values())
    shared = sum(times * asked**2 / numbers[kind] for kind, times in begin.items())
    assert shared < 2e-4, numbers  # questions that two seeds share in a file, expected
    for guide in grammar.get("guides", ()):
        name = {slot: guide["set"][slot] for slot in ("home", "head", "n")}
        assert names_of({"set": name}, grammar["words"]) > 10_000_000


# --- Keyed ------------------------------------------------------------------------------------------------------------


def test_a_row_is_what_its_subset_has(rows: dict[str, list[Row]]) -> None:
    for subset, made in rows.items():
        flags = config.DATASET_FLAGS[subset]
        for row in made[::3]:
            assert (row["answer_keywords"] is not None) == ("AK" in flags)
            for protocol in PROTOCOLS.values():
                metric = protocol.metrics[subset]
                answer = row["answers"][0]
                assert metric(answer, answer, row["answer_keywords"]) > 0.999
                for fact in row["confusing_facts"] or []:
                    assert all(each not in fact for each in row["answers"])
        own, four = made[: len(made) // 2], made[len(made) // 2 :]
        assert {len(row["confusing_facts"] or []) for row in own} == {2 * ("CFI" in flags)}
        assert {len(row["confusing_facts"]) for row in four} == {4}


@pytest.mark.parametrize("subset", SUBSETS)
def test_as_many_facts_as_asked_none_of_them_twice(subset: str) -> None:
    for number in range(8):
        source = fresh.fresh_source(9, subset, number, fresh.MOST_FACTS)
        facts = source.facts
        assert len(set(facts)) == fresh.MOST_FACTS
        own = [name for name in source.telling.phrases if any(name in fact for fact in facts)]
        assert sum(any(name in fact for name in own) for fact in facts) <= 1, (own, facts)


def test_hops_are_one_to_three(rows: dict[str, list[Row]]) -> None:
    hops = {
        subset: {len(row["offsets"]["evidence"]) for row in made} for subset, made in rows.items()
    }
    for subset in ("hotpotwikiqa_mixup", "lic_mixup"):
        assert hops[subset] == {2, 3}
    for subset in (*ONE_QUESTION, "loogle_SD_mixup", "cmrc_mixup", "multifieldqa_zh_mixup"):
        assert hops[subset] == {1}


def test_nothing_of_a_question_stands_in_another_article(rows: dict[str, list[Row]]) -> None:
    """The names of its chain are the question's own."""
    for subset, made in rows.items():
        for number, row in enumerate(made[:ROWS]):
            source = fresh.fresh_source(7, subset, 0 if subset in ONE_QUESTION else number)
            if len(made) < 2 * ROWS and number > 0:
                continue
            spans = [*row["offsets"]["evidence"], *row["offsets"]["confusing_facts"]]
            context = row["context"]
            for start, end in sorted(spans, reverse=True):
                context = context[:start] + context[end:]
            assert not source.telling.found(context)


# --- The command ------------------------------------------------------------------------------------------------------


def build(folder: Path, articles: Path, *words: str) -> dict[str, list[Row]]:
    common = ["--lengths", "1k", "--num-workers", "1", "--distractors", str(articles)]
    write.main(["--output-dir", str(folder), *common, *words])
    return {
        path.stem: [json.loads(line) for line in path.open("rb")]
        for path in sorted(folder.glob("*/*.jsonl"))
    }


def test_every_row_and_the_readme_have_the_seeds_canary(tmp_path: Path, articles: Path) -> None:
    built = build(tmp_path / "a", articles, "--fresh", "11", "--rows", "2")
    assert sorted(built) == sorted(f"{subset}_1k" for subset in SUBSETS)
    marks = {row["canary"] for made in built.values() for row in made}
    assert marks == {fresh.canary(11)}
    (mark,) = marks
    assert re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", mark)
    assert mark in (tmp_path / "a" / "README.md").read_text()
    assert fresh.canary(12) != mark
    seen = ("input", "context", "answers", "answer_keywords", "confusing_facts")
    for row in (row for made in built.values() for row in made):
        assert not any(mark in str(row[field]) for field in seen)


def test_the_same_seed_gives_the_same_bytes_and_another_folder_is_asked_for(
    tmp_path: Path, articles: Path
) -> None:
    words = ["--datasets", "lic_mixup", "--rows", "2", "--fresh"]
    first = build(tmp_path / "a", articles, *words, "3")
    assert build(tmp_path / "b", articles, *words, "3") == first
    with pytest.raises(LVEvalError, match=r"README.md: found one of other data.*--fresh 4"):
        build(tmp_path / "a", articles, *words, "4", "--overwrite")
    again = build(tmp_path / "a", articles, *words, "3", "--overwrite")
    assert again == first


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path, articles: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ["--datasets", "lic_mixup", "--rows", "1", "--fresh", "3"]
    with pytest.raises(StorageError, match=r"README.md"):
        build(tmp_path / "file" / "out", articles, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fresh", "-1"], "--fresh: found -1; expected 0 or more"),
        (["--fresh", "1", "--facts", "21"], "--facts: found 21; expected at most 20 with --fresh"),
        (["--fresh", "1", "--no-replace"], "--no-replace: found --fresh, too"),
        (["--fresh", "1", "--datasets", "mine"], 'unknown subset "mine"'),
    ],
)
def test_what_fresh_cannot_be(
    tmp_path: Path, articles: Path, words: list[str], message: str
) -> None:
    with pytest.raises(LVEvalError, match=re.escape(message)):
        build(tmp_path / "out", articles, *words)
    assert not (tmp_path / "out").exists()
