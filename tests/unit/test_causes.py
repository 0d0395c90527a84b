"""Every answer has one cause, as defined in cases and in a set labelled by hand; points add up."""

import json
import re
from collections import Counter
from math import fsum
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scores import every

from lveval import config, metrics, results
from lveval.analysis import answer_text, causes, score_breakdown
from lveval.results import PROTOCOLS, ScoredRow

DATA = Path(__file__).parent.parent / "golden"
DOCS = ROOT / "docs" / "causes.md"
AGREEMENT = 0.95
CHINESE_SUBSETS = {
    subset for subset, language in config.DATASET_LANGUAGE.items() if language == "zh"
}


def scored(subset: str, record: dict[str, object], level: str = "16k", index: int = 0) -> ScoredRow:
    """The row as evaluation.py scores it."""
    answers, keywords = record["answers"], record.get("gold_ans")
    assert isinstance(answers, list)
    answer = "" if record.get("status") == "refused" else record["pred"]
    scores = {
        name: protocol.metrics[subset](answer, answers[0], keywords)
        for name, protocol in PROTOCOLS.items()
    }
    return ScoredRow(subset, level, index, scores, record)


def english(pred: str, **changes: object) -> ScoredRow:
    """A row of hotpotwikiqa: keywords, confusing facts."""
    facts = [
        "The Silver Ferryman is an opera whose composer was born in the Dunvarrow valley in 1831."
    ]
    record: dict[str, object] = {
        "pred": pred,
        "answers": ["the Iskelder valley"],
        "gold_ans": "Iskelder",
        "input": "In which valley was the composer of the opera The Glass Ferryman born?",
        "language": "en",
        "status": "ok" if pred.strip() else "empty",
        "evidence_kept": True,
        "confusing_facts": facts,
    }
    return scored("hotpotwikiqa_mixup", record | changes)


def chinese(pred: str, **changes: object) -> ScoredRow:
    """A row of multifieldqa_zh: keywords, confusing facts."""
    record: dict[str, object] = {
        "pred": pred,
        "answers": ["梧津师范学堂"],
        "gold_ans": "梧津 师范学堂",
        "input": "小说《渡口的第七盏灯》的作者曾在哪所学校任教？",
        "language": "zh",
        "status": "ok" if pred.strip() else "empty",
        "evidence_kept": True,
        "confusing_facts": ["《渡口的第九盏灯》的作者仇晚亭曾在柳汀女子中学任教三年。"],
    }
    return scored("multifieldqa_zh_mixup", record | changes)


LONG = (
    "It is said that Ondrel Mavisk, who wrote four operas and some sixty songs, "
    "came into the world in the valley of"
)
LONG_ZH = (
    "作者宓知澜自幼体弱，靠读账本识字，二十六岁时应邀到梧津师范学堂任教，"
    "讲授算术和习字，一教就是十四年"
)

# cause -> rows that have it, and rows that nearly do.
CASES: dict[results.Cause, tuple[list[ScoredRow], list[ScoredRow]]] = {
    "correct": (
        [
            english("The Iskelder valley."),
            english("Iskelder", evidence_kept=False),
            chinese("梧津师范学堂"),
            scored(
                "dureader_mixup",
                {"pred": "先登记再领牌，退潮之前上岛", "answers": ["先登记，再领牌，退潮前上岛"]},
            ),
            english("312 °C", answers=["312 degrees"], gold_ans="312"),
            english("No.", answers=["no"], gold_ans=None, input="Is it so?"),
        ],
        [
            english("the Dunvarrow valley", gold_ans=None),  # scores 0.5
            chinese("不能确定", answers=["不能"], gold_ans=None),  # scores 0.67
            english("in May 1913", answers=["in May 1912"], gold_ans=None, confusing_facts=None),
            english(
                "Lena Marsh Quint",
                answers=["Lena Marsh Hollis"],
                gold_ans=None,
                confusing_facts="Lena Marsh Quint",
            ),
            scored(
                "dureader_mixup",
                {"pred": "多带现金和雨伞", "answers": ["先登记，再领牌，退潮前上岛"]},
            ),
        ],
    ),
    "verbose": (
        [
            english(f"{LONG} Iskelder"),
            chinese(LONG_ZH),
            english(f"{LONG} Iskelder", evidence_kept=False),
        ],
        [
            english(f"{LONG} Ostrenne"),
            english("Iskelder " * 12),
            english("No information is given in the article.", answers=["no"], gold_ans=None),
            chinese("对不起，文章没有提到", answers=["对"], gold_ans=None),
            chinese("没有提到相关信息", answers=["没有"], gold_ans=None),
            chinese("是否如此文章没有说明", answers=["是"], gold_ans=None),
            english(
                "There is no valley in it at all, as far as one can see",
                answers=["no"],
                gold_ans=None,
            ),
            chinese(
                "费松龄是第一个骑骆驼穿越砾原的人，他是商人",
                answers=["费松年"],
                gold_ans=None,
                confusing_facts=None,
            ),
        ],
    ),
    "evidence_cut": (
        [
            english("Brosk", evidence_kept=False),
            english("", evidence_kept=False),
            english("The article does not say.", evidence_kept=False),
            chinese("柳汀女子中学", evidence_kept=False),
        ],
        [
            english("Brosk"),
            english("Brosk", evidence_kept=None),
            english("Iskelder", evidence_kept=False),
        ],
    ),
    "refused": (
        [
            english("", status="refused"),
            english("the Iskelder valley", status="refused"),  # scored as the empty answer
            english("The article does not say in which valley."),
            english("I cannot tell."),
            chinese("文中没有提到。"),
            chinese("抱歉，我无法回答。"),
        ],
        [
            english("The article does not say so outright, but it was the Iskelder valley"),
            english("The article does not say, but it was probably the Dunvarrow valley."),
            english(
                "The passage never tells.",
                answers=["it was not mentioned in the article"],
                gold_ans=None,
            ),
            english("a village that does not exist any more"),
            chinese("不是师范学校"),
        ],
    ),
    "empty": (
        [english(""), english(" \n"), english("..."), chinese("。"), chinese("《》")],
        [english("7"), english("", status="length"), chinese("无")],
    ),
    "loop": (
        [
            english("the the the the the the the the"),
            english("was born in was born in was born in was bo", status="length"),
            english("1. Brosk\n2. Brosk\n3. Brosk\n4. Brosk\n5. Brosk\n6. Brosk"),
            english("hahahahahahahahahaha"),
            chinese("师范师范师范师范"),
            english("Iskelder " * 12),
        ],
        [
            english("very, very far away"),
            english("New York, New York"),
            chinese("人人为我，我为人人"),
        ],
    ),
    "wrong_language": (
        [
            english("伊斯克尔德山谷"),
            english("Ёж"),
            english("（布罗斯克）"),
            chinese("the normal school of Wujin"),
            chinese("Wujin"),
        ],
        [
            english("Brosk (布罗斯克)"),
            english("1831"),
            chinese("在Brosk学校"),
            chinese("教师Ludwig Anton Brosk"),
            chinese("NBA"),
            chinese("Mesh", input="Mesh 是什么？"),
        ],
    ),
    "distracted": (
        [
            english("the Dunvarrow valley"),
            english("in 1831"),
            chinese("柳汀女子中学"),
            chinese("仇晚亭"),
            english("They went there in 1831, after a long and hard winter at home."),
            english(
                "Jack and Peter",
                answers=["Ann"],
                confusing_facts=["Jack was there.", "Peter was not."],
            ),
            english(
                "Peter", answers=["Ann"], confusing_facts=["Jack was there.", "Peter was not."]
            ),
        ],
        [
            english("the Dunvarrow valley", confusing_facts=None),
            english("the Ostrenne valley"),
            english(f"{LONG} Iskelder, not Dunvarrow"),
            chinese("榈塘"),
        ],
    ),
    "length": (
        [
            english("First, I have to find the composer of the opera, who", status="length"),
            english("First, I have to find the composer of the opera, who", finish_reason="length"),
            english("", status="length"),
            english("Let me think.\nThe opera was", status="length"),
            chinese("首先，我们需要找到这部小说的作者，", status="length"),
        ],
        [
            english("First, I have to find the composer of the opera, who"),
            english("Brosk\n\nQuestion: Who sang in it", status="length"),
            english(f"{LONG} Iskelder", status="length"),
        ],
    ),
    "gated": (
        [
            english("the Ostrenne valley"),
            english(
                f"{LONG} Iskelder", gold_ans="lakeside cottage"
            ),  # the truth is there, the keywords are not
            scored(
                "cmrc_mixup",
                {"pred": "1988年6月3日", "answers": ["1987年5月3日"], "gold_ans": None},
            ),
        ],
        [
            english("the Ostrenne valley", gold_ans=None),  # no keywords, no gate
            english("Brosk"),  # the gate is closed, but there is no F1 to take
            scored(
                "factrecall_en",
                {"pred": "Lou Morrow", "answers": ["Ann Morrow"], "gold_ans": "Ann"},
            ),
        ],
    ),
    "wrong": (
        [
            english("Brosk"),
            chinese("榈塘"),
            english("Lou", answers=["Ann"], gold_ans=None, confusing_facts=None),
        ],
        [english("the Ostrenne valley"), english("Iskelder"), english("")],
    ),
}


@pytest.mark.parametrize("name", results.CAUSES)
def test_each_definition_has_cases_that_hold_and_cases_that_do_not(name: results.Cause) -> None:
    positive, negative = CASES[name]
    for row in positive:
        assert causes.classify_error(row) == name, row.record["pred"]
    for row in negative:
        assert causes.classify_error(row) != name, row.record["pred"]
    assert {row.subset in CHINESE_SUBSETS for row in positive} == {True, False}


# --- the set labelled by hand ---


def labelled() -> list[tuple[ScoredRow, str, str]]:
    lines = [
        json.loads(line)
        for line in (DATA / "causes.jsonl").read_text(encoding="utf-8").split("\n")
        if line
    ]
    return [
        (scored(line["subset"], line["record"], line["level"], number), line["label"], line["why"])
        for number, line in enumerate(lines)
    ]


def test_the_causes_agree_with_the_labels() -> None:
    rows = labelled()
    differ = [
        (label, found, row, why)
        for row, label, why in rows
        if (found := causes.classify_error(row)) != label
    ]
    for label, found, row, why in differ:
        print(
            f"labelled {label}, found {found} ({row.subset}, {row.released:.2f}): "
            f"{row.record['pred']!r}: {why}"
        )
    print(f"{len(rows) - len(differ)} of {len(rows)} agree")
    assert len(rows) - len(differ) >= AGREEMENT * len(rows)


def test_the_labelled_set_has_all_causes_both_languages_and_all_subsets() -> None:
    rows = labelled()
    assert len(rows) >= 120
    counts = Counter(label for _, label, _ in rows)
    assert counts.keys() == set(results.CAUSES) and min(counts.values()) >= 8
    assert 0.4 < sum(row.subset in CHINESE_SUBSETS for row, _, _ in rows) / len(rows) < 0.6
    assert {row.subset for row, _, _ in rows} == set(config.DATASET_METRIC)
    assert all(why for _, _, why in rows)


# --- gated is the scorer's gate ---


def test_the_working_tells_which_keywords_were_found() -> None:
    metric = metrics.qa_f1_score_with_gold_ans
    work = score_breakdown.explain_score(
        metric, "a pike and a pike", "pike in cider", "pike in pike cider pike"
    )
    assert work is not None and work.keywords == ("pike", "in", "pike", "cider", "pike")
    assert (work.found, work.ignored, work.passes) == ((0, 2), (1,), True)  # "in" is blacklisted
    for keywords, passes in (("pike", False), (None, True)):
        other = score_breakdown.explain_score(metric, "perch", "pike", keywords)
        assert other is not None and other.passes is passes
    chinese_work = score_breakdown.explain_score(
        metrics.qa_f1_zh_score_with_gold_ans, "鲈鱼", "梭子鱼", " "
    )
    assert (
        chinese_work is not None
        and chinese_work.keywords == ("梭子鱼",)
        and not chinese_work.passes
    )
    ungated = score_breakdown.explain_score(metrics.qa_f1_score, "pike", "pike", "perch")
    assert ungated is not None and (ungated.keywords, ungated.passes, ungated.f1) == ((), True, 1.0)


def test_gated_rows_lost_all_their_points_to_the_gate() -> None:
    gated = [row for row, _, _ in labelled() if causes.classify_error(row) == "gated"]
    assert gated
    for row in gated:
        answers = row.record["answers"]
        assert isinstance(answers, list)
        arguments = (str(row.record["pred"]), answers[0], row.record["gold_ans"])
        work = score_breakdown.explain_score(config.DATASET_METRIC[row.subset], *arguments)
        assert work is not None and not work.passes and work.f1 > 0 and row.released == 0


# --- the order, and any text at all ---


def test_the_order_decides_between_causes() -> None:
    facts = {"confusing_facts": ["Peverick Peverick was a locksmith."]}
    assert (
        causes.classify_error(english("Dunvarrow " * 9, status="length")) == "loop"
    )  # also distracted, length
    assert (
        causes.classify_error(english("the Dunvarrow valley", status="length")) == "distracted"
    )  # also length, gated
    assert (
        causes.classify_error(english("the valley of the", status="length")) == "length"
    )  # also gated
    assert (
        causes.classify_error(english("I cannot say. I cannot say. I cannot say.")) == "refused"
    )  # also a loop
    assert (
        causes.classify_error(chinese("I cannot answer this.")) == "refused"
    )  # also in the wrong language
    assert (
        causes.classify_error(english("Iskelder " * 12, evidence_kept=False)) == "loop"
    )  # the truth is there, though it was cut
    assert (
        causes.classify_error(english("Peverick", evidence_kept=False, **facts)) == "evidence_cut"
    )  # also distracted


TEXT = st.text(
    alphabet=st.one_of(
        st.sampled_from(list("the answer is not 1912.,\n梧津师范学堂没有提到答案是。 ")),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)
JUNK = st.one_of(
    st.none(), st.integers(), TEXT, st.lists(st.one_of(TEXT, st.integers()), max_size=3)
)


@settings(max_examples=300, deadline=None)
@given(
    subset=st.sampled_from(list(config.DATASET_METRIC)),
    pred=TEXT,
    truth=TEXT,
    keywords=st.one_of(st.none(), TEXT),
    more=st.dictionaries(
        st.sampled_from(["input", "confusing_facts", "language", "finish_reason"]), JUNK
    ),
    status=st.sampled_from(["ok", "length", "empty", "refused", None]),
    kept=st.sampled_from([True, False, None]),
)
def test_any_row_has_one_cause(
    subset: str,
    pred: str,
    truth: str,
    keywords: str | None,
    more: dict[str, object],
    status: str | None,
    kept: bool | None,
) -> None:
    record = {
        "pred": pred,
        "answers": [truth],
        "gold_ans": keywords,
        "status": status,
        "evidence_kept": kept,
        **more,
    }
    row = scored(subset, record)
    found = causes.classify_error(row)
    assert found in results.CAUSES
    assert causes.classify_error(row) == found
    table = causes.points_lost([row])
    assert fsum(table.files[subset, "16k"].values()) == pytest.approx(100 * (1 - row.released))
    assert table.rows[subset, "16k"][found] == 1


def test_wrongly_typed_fields_count_as_absent() -> None:
    assert causes.classify_error(ScoredRow("x", "16k", 0, every(0.0))) == "empty"
    assert (
        causes.classify_error(
            ScoredRow("lic_mixup", "16k", 0, every(0.0), {"pred": 3, "answers": 5, "gold_ans": []})
        )
        == "empty"
    )


# --- points ---


def test_the_causes_add_up_to_what_is_lost() -> None:
    rows = [row for row, _, _ in labelled()]
    table = causes.points_lost(rows)
    files: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        files.setdefault((row.subset, row.level), []).append(row.released)
    assert table.files.keys() == files.keys() and {level for _, level in files} == set(
        config.DATASET_LENGTH_LEVEL
    )
    for pair, points in table.files.items():
        assert tuple(points) == results.CAUSES
        assert fsum(points.values()) == pytest.approx(
            100 - metrics.file_score(files[pair]), abs=0.0051
        )
        assert sum(table.rows[pair].values()) == len(files[pair])
    for part, groups in ((0, table.subsets), (1, table.levels)):
        for name, points in groups.items():
            lost = [
                100 - 100 * fsum(scores) / len(scores)
                for pair, scores in files.items()
                if pair[part] == name
            ]
            assert fsum(points.values()) == pytest.approx(fsum(lost) / len(lost))


def test_points_lost_by_hand() -> None:
    def row(subset: str, released: float) -> ScoredRow:
        return ScoredRow(subset, "16k", 0, every(released))

    rows = [
        row("factrecall_en", 0.75),
        row("factrecall_en", 0.0),
        row("cmrc_mixup", 0.4),
        row("cmrc_mixup", 1.0),
    ]
    table = causes.points_lost(rows, ["correct", "wrong", "verbose", "correct"])
    assert {
        name: points for name, points in table.files["factrecall_en", "16k"].items() if points
    } == {"correct": 12.5, "wrong": 50.0}
    assert {name: points for name, points in table.levels["16k"].items() if points} == {
        "correct": 6.25,
        "verbose": 15.0,
        "wrong": 25.0,
    }
    assert table.subsets["cmrc_mixup"]["verbose"] == 30.0
    assert table.rows["cmrc_mixup", "16k"]["correct"] == 1
    with pytest.raises(ValueError):
        causes.points_lost(rows, ["correct"])


# --- wording ---


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("The article does not say. It may be Brosk.", " It may be Brosk\n"),
        ("It was 3.5 km, not 4.", "It was 3.5 km, not 4."),
        ("She never told her husband.", "She never told her husband."),
        ("文中没有提到，可能是甲。", "可能是甲\n"),
        ("他没有上岸", "他没有上岸"),
    ],
)
def test_what_is_left_without_the_refusals(text: str, left: str) -> None:
    assert answer_text.without_refusals(text) == left


REFUSING = """
    the article text does do did is was be not never nothing nowhere none neither no no-one n't don't couldn’t cannot
    can can't could unable able to it impossible hard difficult way answer find tell say know information mention
    mentioned stated given named here where who remains remain unknown unclear unspecified as an ai i have am i'm sure
    unsure enough any insufficient lack of evidence unanswerable n/a na undisclosed idea sorry available applicable fail
    fails without silent omits about
    我 也 不 知道 清楚 确定 无法 不能 没法 没有办法 难以 无从 不足以 回答 没有 并未 未曾 没 未 明确 提到 找 看 查 不到
    找到 暂无 缺乏 相关 信息 依据 不足 不够 答案 不详 未知 抱歉 对不起 文中 文章 给出 缺 说
""".split()  # noqa: SIM905


@settings(deadline=None, max_examples=2000)
@given(
    st.lists(st.sampled_from(REFUSING), min_size=1, max_size=8), st.sampled_from([" ", "", ". "])
)
def test_no_refusal_is_passed_over(words: list[str], between: str) -> None:
    """without_refusals looks for a few words first: no clause declines that has none of them."""
    text = between.join(words)
    if not answer_text._MAY_DECLINE.search(text):
        assert not any(map(answer_text._declines, answer_text._CLAUSE_END.split(text)))


def test_a_loop_needs_three_copies_and_six_words() -> None:
    assert answer_text.LOOP_COPIES == 3 and answer_text.LOOP_UNITS == 6
    assert answer_text.is_repetitive("x and a b a b a b") and not answer_text.is_repetitive(
        "a b a b"
    )
    assert answer_text.is_repetitive("a a a a a a") and not answer_text.is_repetitive("a a a a a")
    assert answer_text.is_repetitive(
        "one two three one two three one two three"
    ) and not answer_text.is_repetitive("one two three one two three")
    assert answer_text.is_repetitive("甲乙丙甲乙丙甲乙丙") and not answer_text.is_repetitive(
        "甲乙丙甲乙丙丁"
    )


# --- the documentation ---


def test_the_docs_list_the_causes_in_the_codes_order() -> None:
    listed = re.findall(r"^\d+\. `(\w+)`:", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert tuple(listed) == results.CAUSES


def test_the_docs_name_the_thresholds_of_the_code() -> None:
    entries = dict(
        re.findall(
            r"^\d+\. `(\w+)`: (.*?)(?=^\d+\. `|^## )", DOCS.read_text(encoding="utf-8"), re.S | re.M
        )
    )
    for cause, numbers in {
        "correct": (causes.CORRECT_F1, causes.CORRECT_ROUGE),
        "verbose": (causes.TRUTH_SHARE, causes.WHOLE_CHARACTERS),
        "loop": (answer_text.LOOP_COPIES, answer_text.LOOP_UNITS),
        "distracted": (causes.FACT_SHARE,),
    }.items():
        for number in numbers:
            assert re.search(rf"(?<![\d.]){re.escape(str(number))}(?![\d.]*\d)", entries[cause]), (
                cause,
                number,
            )
    assert f"{len(labelled())} answers" in DOCS.read_text(encoding="utf-8")


def test_the_examples_of_the_docs_have_their_causes() -> None:
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert tuple(cause for cause, _ in lines) == results.CAUSES
    for cause, rest in lines:
        subset, question, truth, keywords, fact, answer, also = (
            cell.strip() for cell in rest.split("|")
        )
        record: dict[str, object] = {
            "pred": answer,
            "answers": [truth],
            "gold_ans": keywords or None,
            "input": question,
        }
        record |= {
            "confusing_facts": [fact] if fact else None,
            "status": "length" if "length" in also else "ok",
        }
        record["evidence_kept"] = "evidence_kept: false" not in also
        assert causes.classify_error(scored(subset, record)) == cause
