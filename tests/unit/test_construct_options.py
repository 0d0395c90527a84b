"""construct's options: without any the files of old, and each changes what it says and nothing else.

python -m pytest tests/unit/test_construct_options.py
"""

import gzip
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from support.construct_parts import CHINESE, ENGLISH, articles, sources

from lveval import config
from lveval.common.errors import ExitCode, LVEvalError, WrongOption
from lveval.construct import write
from lveval.construct.describe import describe
from lveval.construct.near import nearest
from lveval.construct.sources import Document

__all__ = ["articles", "sources"]  # fixtures

# Of the names and the first two rows of what the shipped samples gave at 1k before there were options
OF_OLD = "8a4a550ef3290de786823de21a46540b8e9505fd01a5e672be16eab237c046cc"
Rows = dict[str, list[dict[str, Any]]]


def build(folder: Path, *words: str | Path) -> Rows:
    write.main(["--output-dir", str(folder), "--num-workers", "1", *map(str, words)])
    return {
        path.stem: [json.loads(line) for line in path.open("rb")]
        for path in sorted(folder.glob("*/*.jsonl"))
    }


def every(rows: Rows) -> list[dict[str, Any]]:
    return [row for made in rows.values() for row in made]


def test_without_options_the_files_are_those_of_old(tmp_path: Path) -> None:
    build(tmp_path, "--lengths", "1k", "--rows", "2")
    found = hashlib.sha256()
    for path in sorted(tmp_path.glob("*/*.jsonl")):
        rows = path.read_bytes().splitlines(keepends=True)
        found.update(path.name.encode() + b"".join(rows[: 1 if "factrecall" in path.name else 2]))
    assert found.hexdigest() == OF_OLD


# --- Confusing facts and replacement ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(articles: Path, sources: Path) -> list[str]:
    return ["--sources", str(sources), "--distractors", str(articles), "--lengths", "1k"]


def test_no_facts_and_some(
    tmp_path: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for number, words in (("0", ["--no-facts"]), ("1", ["--facts", "1"]), ("5", ["--facts", "5"])):
        for row in every(build(tmp_path / number, *small, *words)):
            source = next(
                raw for raw in ENGLISH + CHINESE if raw["question_id"] == row["question_id"]
            )
            expected = len(source.get("confusing_facts", [])[: int(number)])
            assert len(row["confusing_facts"] or []) == expected
            assert len(row["offsets"]["confusing_facts"]) == expected
            assert abs(row["length"] - 1000) <= 20
        said = capsys.readouterr().out
        assert ("have fewer" in said) == (number in "15")
    line = (
        "hotpotwikiqa_mixup: --facts 5: 2 of 2 questions have fewer confusing facts, 0 to 3; they"
    )
    assert line in said


def test_the_first_facts_are_the_same_ones(tmp_path: Path, small: list[str]) -> None:
    all_of_them = every(build(tmp_path / "all", *small))
    some = every(build(tmp_path / "one", *small, "--facts", "1"))
    for row, fewer in zip(all_of_them, some, strict=True):
        assert (row["confusing_facts"] or [])[:1] == (fewer["confusing_facts"] or [])


def test_no_replacement(tmp_path: Path, small: list[str]) -> None:
    rows = build(tmp_path, *small, "--no-replace")
    first = rows["hotpotwikiqa_mixup_1k"][0]
    assert first["input"] == ENGLISH[0]["question"]
    assert first["answers"] == ENGLISH[0]["answers"]
    assert "The Seine flows through Paris." in first["context"]
    assert rows["lic_mixup_1k"][0]["answers"] == ["武汉"]


# --- Depths -----------------------------------------------------------------------------------------------------------


def depth(row: dict[str, Any]) -> float:
    """Of the middle of the evidence, which stands together."""
    spans = sorted(row["offsets"]["evidence"])
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert start == end + 2
    middle = (spans[0][0] + spans[-1][1]) / 2
    return float(middle / len(row["context"]))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("0,0.5,1", [0, 0.5, 1]), ("even", [tenth / 100 for tenth in range(5, 100, 10)]), ("1", [1])],
)
def test_the_evidence_stands_at_the_depths(
    tmp_path: Path, sources: Path, given: str, wanted: list[float]
) -> None:
    words = ["--sources", sources, "--lengths", "16k", "--rows", 2 * len(wanted)]
    words += ["--datasets", "lic_mixup", "--depths", given]
    rows = build(tmp_path, *map(str, words))["lic_mixup_16k"]
    for turn in (rows[: len(wanted)], rows[len(wanted) :]):
        found = sorted(depth(row) for row in turn)
        assert found == pytest.approx(wanted, abs=0.015)
    ends = {
        row["context"].startswith(row["context"][s:e])
        for row in rows
        for s, e in [row["offsets"]["evidence"][0]]
    }
    assert True in ends or 0 not in wanted
    for row in rows:
        for start, end in row["offsets"]["confusing_facts"]:
            assert row["context"][start:end] in row["confusing_facts"]


def test_depths_do_not_follow_the_questions(tmp_path: Path, sources: Path) -> None:
    """Two questions and two depths: over many rows each question is at each depth."""
    words = ["--sources", sources, "--lengths", "2k", "--rows", "24", "--datasets", "lic_mixup"]
    rows = build(tmp_path, *map(str, words), "--depths", "0,1")["lic_mixup_2k"]
    seen = [(row["question_id"], round(depth(row))) for row in rows]
    assert len(set(seen)) == 4
    assert sum(where for _, where in seen) == 12


def test_a_run_finds_the_depths(tmp_path: Path, small: list[str]) -> None:
    """What the depth analysis reads of a row is where the option put the evidence."""
    from lveval.data.positions import depths, find_passages
    from lveval.data.rows import parse_row

    build(tmp_path, *small, "--datasets", "lic_mixup", "--depths", "1", "--rows", "4")
    lines = (tmp_path / "lic_mixup/lic_mixup_1k.jsonl").read_bytes().splitlines(keepends=True)
    for line in lines:
        row = parse_row(line, "line", "lic_mixup")
        found = [pair[0] for pair in depths(find_passages(row), len(row["context"]))["evidence"]]
        assert min(one for one in found if one is not None) > 0.9


# --- Near distractors -------------------------------------------------------------------------------------------------


def test_the_nearest_come_first() -> None:
    texts = ["Cats sleep.", "A river flows through the town.", "The river Seine flows.", "Birds."]
    documents = [Document.of(text, "en") for text in texts]
    found = [each.text for each in nearest(documents, "Which river flows through the town?")]
    assert found[:2] == [texts[1], texts[2]]
    assert sorted(found) == sorted(texts)
    assert nearest(documents, "Unheard words?") == documents
    assert nearest([], "Which river?") == []
    chinese = [Document.of(text, "zh") for text in ("猫在睡觉。", "长江流经武汉。", "鸟在飞。")]
    assert nearest(chinese, "长江流经哪里？")[0] == chinese[1]


def shared(row: dict[str, Any]) -> float:
    """The share of the question's words that an article of the context holds, on average."""
    asked = set(row["input"].lower().rstrip("?").split())
    start, end = row["offsets"]["evidence"][0]
    blocks = (row["context"][:start] + row["context"][end:]).split("\n\n")
    held = [len(asked & set(block.lower().split())) / len(asked) for block in blocks if block]
    return sum(held) / len(held)


def test_near_distractors_are_nearer_and_stay_in_length(tmp_path: Path, sources: Path) -> None:
    words = ["--sources", str(sources), "--lengths", "2k", "--no-facts"]
    near = every(build(tmp_path / "near", *words, "--distractors", "near"))
    any_of_them = every(build(tmp_path / "random", *words, "--distractors", "random"))
    assert any_of_them == every(build(tmp_path / "default", *words))
    for row in near:
        assert abs(row["length"] - 2000) <= 40
    english = [rows for rows in zip(near, any_of_them, strict=True) if rows[0]["language"] == "en"]
    assert all(shared(one) > shared(other) + 0.03 for one, other in english)
    assert len({row["context"] for row in near}) == len(near)


def test_near_works_on_a_folder_too(tmp_path: Path, small: list[str], articles: Path) -> None:
    folder = tmp_path / "near"  # named as the word: ./near is the folder
    folder.mkdir()
    for path in articles.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    words = [word for word in small if word not in ("--distractors", str(articles))]
    first = build(tmp_path / "a", *words, "--distractors", "near", articles)
    assert first == build(tmp_path / "b", *words, "--distractors", folder, "near")


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--facts", "-1"], "--facts: found -1; expected 0 or more"),
        (["--depths", "0,1.5"], "--depths: found 0,1.5; expected even, random, or fractions"),
        (["--depths", "deep"], "--depths: found deep; expected even, random, or fractions"),
        (["--depths", "nan"], "--depths: found nan; expected even, random, or fractions"),
        (["--depths", ""], "--depths: found ; expected even, random, or fractions"),
        (["--distractors", "near", "random"], "--distractors: found near random; expected near or"),
        (
            ["--distractors", "a", "b"],
            "--distractors: found a b; expected near or random, a folder",
        ),
    ],
)
def test_bad_options(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(LVEvalError, match=message):
        build(tmp_path / "out", "--lengths", "1k", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--output-dir", "a", "--describe", "b"],
        ["--output-dir", "a", "--facts", "1", "--no-facts"],
        ["--output-dir", "a", "--fresh", "1", "--sources", "b"],
    ],
)
def test_options_that_exclude_each_other(words: list[str]) -> None:
    with pytest.raises(WrongOption):
        write.main(words)


# --- Describe ---------------------------------------------------------------------------------------------------------


def test_describe_counts_what_is_there(
    tmp_path: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = build(tmp_path, *small, "--depths", "0")
    capsys.readouterr()
    assert write.main(["--describe", str(tmp_path)]) == ExitCode.COMPLETE
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    cells = {line.split()[0]: line.split()[1:] for line in lines[2:4]}
    for name, made in rows.items():
        lengths = [row["length"] for row in made]
        facts = sum(len(row["confusing_facts"] or []) for row in made) / len(made)
        found = [int(cell.replace(",", "")) for cell in cells[name][:4]]
        assert found == [len(made), min(lengths), round(sum(lengths) / len(made)), max(lengths)]
        keyed = sum(row["answer_keywords"] is not None for row in made)
        assert cells[name][4:6] == [str(keyed), f"{facts:.1f}"]
        assert float(cells[name][6]) < 0.2


def test_describe_reads_what_a_run_reads(tmp_path: Path) -> None:
    """Files by subset or not, archives, published rows without offsets, a subset of one's own."""
    row = {
        "input": "Where?",
        "context": "It stands in Velm. " * 3 + "The mill is in Orr. " + "Rain. " * 30,
        "answers": ["Orr"],
        "length": 1,
        "dataset": "my_own_subset_with_a_very_long_name",
        "language": "en",
    }
    name = f"{row['dataset']}_9999k.jsonl"
    (tmp_path / name).write_text(json.dumps(row) + "\n")
    found = describe(tmp_path)
    assert max(map(len, found.splitlines())) <= 100
    line = found.splitlines()[2].split()
    assert line[0].endswith("…") and line[1:] == ["1", "47", "47", "47", "0", "0.0", *["0.29"] * 3]
    import zipfile

    with zipfile.ZipFile(tmp_path / "lic_mixup.zip", "w") as archive:
        of_zip = row | {
            "dataset": "lic_mixup",
            "language": "zh",
            "context": "磨坊在图城。",
            "answers": ["3"],
        }
        archive.writestr("lic_mixup/lic_mixup_1k.jsonl", json.dumps(of_zip) + "\n")
        archive.writestr("elsewhere/cmrc_mixup_1k.jsonl", "")
    assert describe(tmp_path).splitlines()[2].split() == [
        "lic_mixup_1k",
        "1",
        *["6"] * 3,
        "0",
        "0.0",
        "-",
    ]


def test_describe_reads_what_a_run_reads_in_every_spelling(tmp_path: Path) -> None:
    row = {"input": "Where?", "context": "In Orr.", "answers": ["Orr"], "length": 2}
    line = json.dumps(row | {"dataset": "mine", "language": "en"}).encode() + b"\n"
    (tmp_path / "mine_1k.jsonl.gz").write_bytes(gzip.compress(line))
    (tmp_path / "mine_2k.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\n")
    found = [line.split()[:2] for line in describe(tmp_path).splitlines()[2:4]]
    assert found == [["mine_1k", "1"], ["mine_2k", "1"]]


def test_describe_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(LVEvalError, match=r"found no data; expected <subset>_<level>.jsonl files"):
        describe(tmp_path)
    bad = tmp_path / "lic_mixup_1k.jsonl"
    bad.write_text('{"input": "a"}\n')
    with pytest.raises(LVEvalError, match=r'lic_mixup_1k.jsonl:1: no "context"'):
        describe(tmp_path)
    bad.write_text("")
    with pytest.raises(LVEvalError, match=r"lic_mixup_1k.jsonl: found an empty file; expected"):
        describe(tmp_path)
    (tmp_path / "cmrc_mixup.zip").write_bytes(b"PK")
    with pytest.raises(
        LVEvalError, match=r"cmrc_mixup.zip: cannot be read \(.*expected an archive"
    ):
        describe(tmp_path)


def test_facts_of_fresh_questions_are_as_many_as_asked(tmp_path: Path, articles: Path) -> None:
    words = ["--fresh", "3", "--rows", "2", "--lengths", "1k", "--distractors", str(articles)]
    rows = build(tmp_path, *words, "--facts", "3", "--depths", "0.5")
    assert len(rows) == len(config.DATASET_ROWS)
    for row in every(rows):
        assert len(row["confusing_facts"]) == 3
        assert 0.2 < depth(row) < 0.8
