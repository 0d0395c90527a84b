"""lveval construct: the rows it builds, that they repeat byte for byte, and what it says about bad input.

python -m pytest tests/unit/test_construct.py
"""

import itertools
import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.construct_parts import CHINESE, ENGLISH, contents, script, sources, write_sources

from lveval import config
from lveval.common.errors import ExitCode, LVEvalError
from lveval.construct import synthetic, write
from lveval.construct.build import SENTENCE_END
from lveval.construct.sources import Document, Phrases

__all__ = ["sources"]  # fixtures


def build(folder: Path, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of every file that these arguments give, by the file's stem."""
    write.main(["--output-dir", str(folder), "--num-workers", "1", *arguments])
    return {
        path.stem: [json.loads(line) for line in path.open("rb")]
        for path in sorted(folder.glob("*/*.jsonl"))
    }


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, sources: Path
) -> dict[str, list[dict[str, Any]]]:
    levels = "1k,2k,4k,8k,16k,32k"
    return build(
        tmp_path_factory.mktemp("built"),
        "--sources",
        str(sources),
        "--lengths",
        levels,
        "--rows",
        "6",
    )


def rows_of(built: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return list(itertools.chain(*built.values()))


# --- What a row is ----------------------------------------------------------------------------------------------------


def test_lengths_are_within_two_per_cent(built: dict[str, list[dict[str, Any]]]) -> None:
    assert len(built) == 12
    for name, rows in built.items():
        size = 1000 * int(name.rpartition("_")[2][:-1])
        for row in rows:
            found = len(row["context"].split()) if row["language"] == "en" else len(row["context"])
            assert row["length"] == found
            assert abs(found - size) <= 0.02 * size


def test_the_longest_level(tmp_path: Path, sources: Path) -> None:
    built = build(tmp_path, "--sources", str(sources), "--lengths", "256k", "--rows", "1")
    for rows in built.values():
        assert abs(rows[0]["length"] - 256_000) <= 50
        documents = rows[0]["context"].split("\n\n")
        assert len(documents) == len(set(documents))


def test_fields_are_the_published_ones(built: dict[str, list[dict[str, Any]]]) -> None:
    published = ["input", "context", "answers", "length", "dataset", "language"]
    for name, rows in built.items():
        for row in rows:
            assert list(row)[:6] == published
            assert list(row)[6:9] == ["answer_keywords", "confusing_facts", "all_classes"]
            assert list(row)[9:] == ["question_id", "offsets"]
            assert row["dataset"] == name.rpartition("_")[0]
            assert row["language"] == config.DATASET_LANGUAGE[row["dataset"]]
            assert row["all_classes"] is None
    assert built["hotpotwikiqa_mixup_1k"][1]["confusing_facts"] is None


def test_offsets_are_where_evidence_and_confusing_facts_lie(
    built: dict[str, list[dict[str, Any]]],
) -> None:
    for row in rows_of(built):
        source = next(raw for raw in ENGLISH + CHINESE if raw["question_id"] == row["question_id"])
        evidence = [row["context"][start:end] for start, end in row["offsets"]["evidence"]]
        assert len(evidence) == len(source["documents"])
        for text in evidence:
            assert row["context"].count(text) == 1
            assert (
                f"\n\n{text}\n\n" in f"\n\n{row['context']}\n\n"
            )  # whole: nothing was put into it
        facts = [row["context"][start:end] for start, end in row["offsets"]["confusing_facts"]]
        assert facts == (row["confusing_facts"] or [])
        for start, end in row["offsets"]["confusing_facts"]:
            assert re.search(
                r"([.!?]|[。！？][”’」』）]*)\s*\Z", row["context"][:start]
            )  # between sentences
            assert (
                row["language"] == "zh"
                or row["context"][end : end + 1].isspace()
                or end == len(row["context"])
            )
    first = built["hotpotwikiqa_mixup_1k"][0]
    assert [first["context"][start:end] for start, end in first["offsets"]["evidence"]] == [
        "Cora Ott was born in Velm. Annual fairs are held there.",
        "The Orlune flows through Velm.",
    ]


def test_replacement_is_consistent(built: dict[str, list[dict[str, Any]]]) -> None:
    for row in rows_of(built):
        text = json.dumps(row, ensure_ascii=False)
        for old in ("Paris", "Seine", "Ann", "Ann Lee"):
            assert not re.search(rf"\b{old}\b", text)
        for old in ("长江", "武汉"):
            assert old not in text
    english, chinese = built["hotpotwikiqa_mixup_2k"][0], built["lic_mixup_2k"][0]
    assert english["input"] == "Which river flows through the town where Cora Ott was born?"
    assert (english["answers"], english["answer_keywords"]) == (["The Orlune", "Orlune"], "Orlune")
    assert english["confusing_facts"][1:] == ["Joan Lee was born in Parisville.", "Bea likes Lyon."]
    assert chinese["input"] == "洛江流经的大城市叫什么？"
    assert chinese["answers"] == ["图城"]
    assert "洛江流经图城。北城市是一座大城市。" in chinese["context"]


def test_levels_ask_the_same_questions_and_further_rows_repeat_them(
    built: dict[str, list[dict[str, Any]]],
) -> None:
    for rows in built.values():
        ids = [row["question_id"] for row in rows]
        assert ids == ids[:2] * 3
        assert len({row["context"] for row in rows}) == 6
    assert (
        len({str([row["input"] for row in rows]) for name, rows in built.items() if "lic" in name})
        == 1
    )


def test_evidence_is_anywhere(built: dict[str, list[dict[str, Any]]]) -> None:
    depths = [row["offsets"]["evidence"][0][0] / len(row["context"]) for row in rows_of(built)]
    assert min(depths) < 0.2
    assert max(depths) > 0.8


def test_rows_default_and_published(tmp_path: Path, sources: Path) -> None:
    fact = write_sources(tmp_path / "fact", factrecall_en=ENGLISH[:1])
    assert (
        len(build(tmp_path / "a", "--sources", str(sources), "--lengths", "2k")["lic_mixup_2k"])
        == 2
    )
    rows = build(tmp_path / "b", "--sources", str(fact), "--lengths", "1k", "--rows", "full")[
        "factrecall_en_1k"
    ]
    assert len(rows) == config.DATASET_ROWS["factrecall_en"]
    assert len({row["context"] for row in rows}) == len(rows)


def test_the_shipped_sources_build(tmp_path: Path) -> None:
    built = build(tmp_path, "--lengths", "16k")
    assert list(built) == sorted(f"{subset}_16k" for subset in config.DATASET_SELECTED)


def test_the_seed_decides(tmp_path: Path, sources: Path) -> None:
    for folder, seed in (("a", "42"), ("b", "43"), ("c", "42")):
        build(tmp_path / folder, "--sources", str(sources), "--lengths", "2k", "--seed", seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == c
    assert all(a[name] != b[name] for name in a)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, sources: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    arguments = ["--lengths", "1k,32k", "--num-workers", "1", "--datasets", "lic_mixup"]
    assert (
        script(tmp_path / "out", sources, *arguments, preexec_fn=limit, capture_output=True)
        == ExitCode.STORAGE
    )
    assert list(contents(tmp_path / "out")) == ["lic_mixup_1k.jsonl"]


def test_existing_files_are_kept_unless_told(tmp_path: Path, sources: Path) -> None:
    arguments = ["--sources", str(sources), "--lengths", "1k,2k", "--datasets", "lic_mixup"]
    build(tmp_path, *arguments)
    path = tmp_path / "lic_mixup" / "lic_mixup_2k.jsonl"
    before = path.read_bytes()
    path.write_text("mine")
    with pytest.raises(LVEvalError, match=r"lic_mixup_1k.jsonl: .*\(2 in all\).*--overwrite"):
        build(tmp_path, *arguments)
    assert path.read_text() == "mine"
    build(tmp_path, *arguments, "--overwrite")
    assert path.read_bytes() == before


# --- Replacement ------------------------------------------------------------------------------------------------------

WORDS = ["Ann", "Annual", "ann", "Lee", "Bo", "U.S.", "é", "Ann Lee", "x1"]


@given(
    st.lists(st.sampled_from(WORDS), max_size=12),
    st.dictionaries(st.sampled_from(WORDS), st.sampled_from(WORDS)),
)
def test_english_words_are_replaced_whole_and_once(words: list[str], new: dict[str, str]) -> None:
    words = [part for word in words for part in word.split()]
    expected: list[str] = []
    rest = list(words)
    while rest:
        length = 2 if " ".join(rest[:2]) in new else 1
        found = " ".join(rest[:length])
        expected.append(new.get(found, found))
        rest = rest[length:]
    assert Phrases(new, "en").replace(", ".join(words)) == ", ".join(
        new.get(word, word) for word in words
    )
    assert Phrases(new, "en").replace(" ".join(words)) == " ".join(expected)


@given(
    st.text("甲乙丙3A ", max_size=20),
    st.dictionaries(st.text("甲乙丙", min_size=1, max_size=3), st.text("甲乙丁")),
)
def test_chinese_phrases_are_replaced_longest_first_and_once(
    text: str, new: dict[str, str]
) -> None:
    expected, place = "", 0
    while place < len(text):
        found = max(
            (old for old in new if text.startswith(old, place)), key=len, default=text[place]
        )
        expected += new.get(found, found)
        place += len(found)
    assert Phrases(new, "zh").replace(text) == expected


def test_edges_of_phrases() -> None:
    assert (
        Phrases({"Ann": "Bea"}, "en").replace("Ann's Annual Ann, JoAnn Ann.")
        == "Bea's Annual Bea, JoAnn Bea."
    )
    assert (
        Phrases({"3": "7", "A甲": "B"}, "zh").replace("1983年3月，AA甲和A甲")
        == "1983年7月，AA甲和B"
    )
    assert Phrases({"a.c": "x"}, "en").replace("abc a.c") == "abc x"
    assert Phrases({"left": "right", "right": "left"}, "en").replace("left right") == "right left"
    assert not Phrases({}, "en").found("anything")


# --- Distractors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh"])
def test_made_up_articles_never_repeat_a_sentence(language: str) -> None:
    articles = synthetic.synthetic_articles(
        language, 42, 800_000
    )  # what a context of 400,000 is drawn from
    assert sum(article.cost for article in articles) >= 800_000
    assert all(article.cost == Document.of(article.text, language).cost for article in articles)
    seen: set[str] = set()
    for article in articles:
        title, body = article.text.split("\n")
        ends = [match.end() for match in SENTENCE_END.finditer(body)]
        sentences = [body[start:end].strip() for start, end in itertools.pairwise([0, *ends])]
        assert ends[-1] == len(body)
        assert len(sentences) >= 4
        assert not seen.intersection([title, *sentences])
        seen.update([title, *sentences])
        assert not re.search(r"[{}|\[\]]", article.text)
        assert (
            (80 if language == "en" else 130) <= article.cost <= (250 if language == "en" else 450)
        )
    assert synthetic.synthetic_articles.__wrapped__(language, 43, 2000) != articles[:20]


def write_distractors(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    articles = synthetic.synthetic_articles("en", 7, 20_000)
    (folder / "deep" / "book.txt").write_text(
        "\n\n".join(article.text for article in articles[:30]), "utf-8"
    )
    rows = [{"text": article.text, "extra": 1} for article in articles[30:]] + [
        {"context": articles[30].text}
    ]
    rows += [{"text": f"Spoilt number {number}: the Seine is long."} for number in range(5)]
    rows += [{"text": f"Spoilt number {number}: the Orlune is long."} for number in range(3)]
    rows += [{"text": "Ann went to Paris. " * 5}, {"text": "中文的文章。" * 30}]
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "ignored.md").write_bytes(b"\xff")
    return folder


def test_own_distractors(tmp_path: Path, sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_distractors(tmp_path / "own")
    arguments = [
        "--sources",
        str(sources),
        "--datasets",
        "hotpotwikiqa_mixup",
        "--lengths",
        "16k",
        "--rows",
        "4",
    ]
    rows = build(tmp_path / "out", *arguments, "--distractors", str(folder))[
        "hotpotwikiqa_mixup_16k"
    ]
    assert "skipped" in capsys.readouterr().out
    for row in rows:
        assert abs(row["length"] - 16_000) <= 320
        assert "中文" not in row["context"]
        if row["question_id"] == "river":
            assert "Spoilt" not in row["context"]
            assert "Bea went to Velm." in row["context"] or "Ann" not in row["context"]
    own = " ".join(path.read_text("utf-8") for path in folder.rglob("*.*") if path.suffix != ".md")
    own = own.replace("\\n", "\n").replace("\\u00", "")
    texts = [text for text in rows[1]["context"].split("\n\n") if "\n" in text]
    assert sum(text in own for text in texts) >= len(texts) - 1  # all but the one that was cut


def test_an_unbroken_distractor_is_cut_to_length(tmp_path: Path, sources: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.txt").write_text("word " * 20_000)
    (tmp_path / "own" / "b.txt").write_text("字" * 20_000)
    built = build(
        tmp_path / "out",
        "--sources",
        str(sources),
        "--lengths",
        "1k",
        "--distractors",
        str(tmp_path / "own"),
    )
    for row in rows_of(built):
        assert abs(row["length"] - 1000) <= 20


def test_too_few_distractors(tmp_path: Path, sources: Path) -> None:
    folder = write_distractors(tmp_path / "own")
    match = r"hotpotwikiqa_mixup.jsonl:1: found 2\d,\d{3} words of distractors \(8 documents .* expected 31,9\d\d"
    with pytest.raises(LVEvalError, match=match):
        build(
            tmp_path / "out",
            "--sources",
            str(sources),
            "--lengths",
            "32k",
            "--distractors",
            str(folder),
        )
    assert not (tmp_path / "out").exists()


# --- Errors -----------------------------------------------------------------------------------------------------------


def changed(**fields: object) -> list[dict[str, Any]]:
    return [{**ENGLISH[1], **fields}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["text"],
            r":1: answers: missing; found the fields \(none\); expected question_id, language",
        ),
        (
            changed(replacement=[]),
            r":1: replacement: unknown; found the fields .*; expected question_id",
        ),
        (changed(answers=[]), r":1: answers: found \[\]; expected a list of one text or more"),
        (changed(answers="Yes"), r':1: answers: found "Yes"; expected a list'),
        (changed(documents=["a", 1]), r':1: documents: found \["a", 1\]; expected a list'),
        (changed(question=" "), r':1: question: found " "; expected text'),
        (changed(question="\ud800"), r':1: question: found "\\ud800"; expected text'),
        (changed(answer_keywords=3), r":1: answer_keywords: found 3; expected text or null"),
        (
            changed(confusing_facts=None),
            r":1: confusing_facts: found null; expected a list of texts",
        ),
        (
            changed(replacements=[["a"]]),
            r':1: replacements: found \[\["a"\]\]; expected a list of \[old, new\]',
        ),
        (changed(replacements=[["a", "b"], ["a", "c"]]), r":1: replacements: .*no old one twice"),
        (
            changed(language="zh"),
            r':1: language: found "zh"; expected en or zh \(en in this subset\)',
        ),
        (ENGLISH[1:] * 2, r":2: question_id: found open again; expected a new one"),
        ([], r"hotpotwikiqa_mixup.jsonl: found no line; expected one question a line"),
        (
            changed(documents=["word " * 1100]),
            r":1: documents: found 1,100 words of .*; expected at most the 1,000",
        ),
    ],
)
def test_bad_sources(tmp_path: Path, rows: list[Any], message: str) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "hotpotwikiqa_mixup.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    with pytest.raises(LVEvalError, match=message):
        build(tmp_path / "out", "--sources", str(folder), "--lengths", "1k")
    assert not (tmp_path / "out").exists()


def bytes_in(name: str, data: bytes) -> Callable[[Path], list[str]]:
    def prepare(folder: Path) -> list[str]:
        (folder / name).write_bytes(data)
        return ["--distractors", str(folder)]

    return prepare


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            lambda _: ["--datasets", "narrativeqa"],
            'unknown subset "narrativeqa"; expected one of: hotpot',
        ),
        (
            lambda _: ["--datasets", "cmrc_mixup"],
            r"cmrc_mixup.jsonl: found no text \(.*No such file",
        ),
        (lambda _: ["--lengths", "16"], '--lengths: found "16"; expected <N>k'),
        (lambda _: ["--lengths", "0k"], '--lengths: found "0k"'),
        (lambda _: ["--rows", "many"], '--rows: found "many"; expected a number or "full"'),
        (lambda _: ["--num-workers", "0"], "--num-workers: found 0; expected 1 or more"),
        (lambda folder: ["--sources", str(folder)], "found no sources; expected <subset>.jsonl"),
        (
            lambda folder: ["--distractors", str(folder)],
            "found no documents; expected a folder of .txt or .jsonl",
        ),
        (
            bytes_in("a.txt", b"\xff\xfe"),
            r"a.txt: found no text \(.*codec.*expected a file in UTF-8",
        ),
        (
            bytes_in("a.jsonl", b'{"text": "a"}\n\n{"text": \n'),
            r"a.jsonl:3: found no JSON \(.*expected one object a line",
        ),
        (
            bytes_in("a.jsonl", b'{"title": "a"}\n'),
            r'a.jsonl:1: text: found {"title": "a"}; expected "text" or "context"',
        ),
        (bytes_in("a.jsonl", b'{"text": "\\ud800"}\n'), r"a.jsonl:1: text: found"),
    ],
)
def test_bad_arguments(
    tmp_path: Path, sources: Path, prepare: Callable[[Path], list[str]], message: str
) -> None:
    given_folder = tmp_path / "given"
    given_folder.mkdir()
    with pytest.raises(LVEvalError, match=message):
        build(
            tmp_path / "out", "--sources", str(sources), "--lengths", "1k", *prepare(given_folder)
        )
    assert not (tmp_path / "out").exists()
