"""metrics.py agrees with the published scorer, and each quirk that is kept is named and held."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rouge import Rouge

from lveval import config, metrics
from lveval.common import jieba_dictionary

GOLDEN = Path(__file__).parent.parent / "golden"
ROOT = Path(__file__).parent.parent.parent
ALL_METRICS: dict[str, Callable[..., float]] = {
    name: getattr(metrics, name)
    for name in dir(metrics)
    if name.startswith(("qa_f1_", "rouge_zh_", "keyword_recall_"))
}


def golden(name: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (GOLDEN / name).read_text(encoding="utf-8").split("\n") if line
    ]


CASES = [*golden("scores.jsonl"), *golden("edge.jsonl")]


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the dictionary's cache of these tests out of the user's."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LVEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
    jieba_dictionary.segmenter()
    patch.undo()


# --- agreement with the published scorer ----------------------------------------------------------------------------


def test_the_golden_cases_are_all_there() -> None:
    assert len(CASES) == 1128
    assert {case["dataset"] for case in CASES} == set(config.DATASET_METRIC)


PROTOCOLS = {  # key of a golden case -> the table that gives its metric
    "score": config.DATASET_METRIC,
    "score_described": config.DATASET_METRIC_DESCRIBED,
    "score_recall": config.DATASET_METRIC_RECALL,
}


@pytest.mark.parametrize("key", PROTOCOLS)
@pytest.mark.parametrize("subset", config.DATASET_METRIC)
def test_scores_are_the_golden_ones(subset: str, key: str) -> None:
    """Those of the published scorer, of the paper's description and of keyword recall."""
    for case in CASES:
        if case["dataset"] == subset:
            score = PROTOCOLS[key][subset](case["pred"], case["answers"][0], case["gold_ans"])
            assert score == pytest.approx(case[key], rel=0, abs=1e-12), case["id"]


def test_file_scores_are_the_published_ones() -> None:
    for case in golden("file_scores.jsonl"):
        assert metrics.file_score(case["scores"]) == case["file_score"]


def test_a_file_score_is_summed_left_to_right() -> None:
    # Exact summing, as Python 3.12's sum() does, would keep the small scores and round up.
    scores = [1e16, *[1.0] * 6, -1e16]
    assert metrics.file_score(scores) == 0.0


def test_a_file_without_rows_has_no_score() -> None:
    with pytest.raises(ValueError, match=r"^a file without rows has no score$"):
        metrics.file_score([])


def test_the_blacklists_have_the_published_sizes() -> None:
    assert len(metrics.ENGLISH_BLACKLIST) == 38
    assert len(metrics.CHINESE_BLACKLIST) == 85
    assert "c" in metrics.CHINESE_BLACKLIST


@pytest.mark.parametrize(
    ("pred", "keywords", "score"),
    [
        ("amber lamp", "amber", 0.8),  # F1 of all tokens: 2 of 2 and 2 of 3
        ("amber lamp", None, 0.8),
        ("amber lamp", "reef", 0.0),
        ("amber lamp", "amber reef cove", 0.0),  # a third of the keywords: less than two fifths
        ("amber reef", "amber reef cove isle bay", 0.4),  # two of five are enough
    ],
)
def test_the_gate_alone_scores_all_tokens_or_none(
    pred: str, keywords: str | None, score: float
) -> None:
    assert metrics.qa_f1_score_gated(pred, "amber lamp tower", keywords) == pytest.approx(score)


@pytest.mark.parametrize(
    ("keywords", "score"),
    [("灯塔", 1.0), (None, 1.0), ("水库", 0.0), ("灯塔 水库 港口 疫苗 果园", 1.0)],
)
def test_the_chinese_gate_alone_asks_for_a_fifth(keywords: str | None, score: float) -> None:
    assert metrics.qa_f1_zh_score_gated("灯塔", "灯塔", keywords) == score


def test_the_words_that_rouge_counts_are_told() -> None:
    assert metrics.rouge_words("灯塔在港口", "港口有灯塔") in ({"灯塔"}, {"港口"})
    assert metrics.rouge_words("灯塔和港口", "灯塔与港口") == {"灯塔", "港口"}
    assert metrics.rouge_words("灯塔", "水库") == set()


# --- quirks of the normalisation ------------------------------------------------------------------------------------


def test_english_punctuation_is_deleted_before_articles_are_looked_for() -> None:
    assert metrics.qa_f1_score("a-n apple", "apple") == 1.0  # "a-n" became the article "an"


def test_english_keeps_punctuation_outside_ascii() -> None:
    assert metrics.qa_f1_score("“harbour”", "harbour") == 0.0


def test_an_article_within_typographic_quotes_is_still_an_article() -> None:
    assert metrics._english_tokens("“the harbour”") == ("“", "harbour”")


def test_only_the_closing_chinese_title_mark_is_deleted() -> None:
    assert metrics._normalize_zh("》") == ""
    assert metrics._normalize_zh("《") == "《"


def test_chinese_tokens_lose_white_space_case_and_punctuation() -> None:
    assert metrics._chinese_tokens(" LSTM 模型，\r\n 真好！") == ("lstm", "模型", "真", "好")


def test_texts_are_compared_in_one_piece() -> None:
    assert metrics.normalize("The  red-lamp, a Tower.", "en") == "redlamp tower"
    assert metrics.normalize(" LSTM 模型，\r\n 真好！", "zh") == "lstm模型真好"
    assert metrics.content_words("The lamp and the tower", "en") == ("lamp", "tower")
    assert metrics.content_words("灯塔和港口", "zh") == ("灯塔", "港口")


# --- quirks of the two stages ---------------------------------------------------------------------------------------


def test_keyword_recall_counts_blacklisted_words_only_as_wanted() -> None:
    # One of five keywords found is enough, "in" found as well does not help, one of six is too few.
    assert metrics.qa_f1_score_with_gold_ans("amber in", "amber", "amber reef cove isle in") > 0
    assert (
        metrics.qa_f1_score_with_gold_ans("amber in", "amber", "amber reef cove isle in bay") == 0.0
    )


def test_chinese_truth_stands_in_for_missing_keywords_in_the_released_protocol_only() -> None:
    prediction, truth = "灯塔", "灯塔果园水库港口疫苗"
    assert metrics.qa_f1_zh_score_with_gold_ans(prediction, truth, None) == 0.0
    assert (
        metrics.qa_f1_zh_score_described(prediction, truth, None)
        == metrics.qa_f1_zh_score(prediction, truth)
        > 0
    )


@pytest.mark.parametrize("blank", [None, "", "  ", "?!", "the"])
def test_blank_english_keywords_are_none_given(blank: str | None) -> None:
    assert metrics.qa_f1_score_with_gold_ans("amber", "amber", blank) == 1.0
    assert metrics.qa_f1_score_described("amber", "amber", blank) == 1.0


@pytest.mark.parametrize("blank", [None, "", "　", "。！"])
def test_blank_chinese_keywords_are_none_given(blank: str | None) -> None:
    assert metrics.qa_f1_zh_score_with_gold_ans("灯塔", "灯塔", blank) == 1.0
    assert metrics.qa_f1_zh_score_described("灯塔", "灯塔", blank) == 1.0


def test_described_f1_leaves_out_blacklisted_words() -> None:
    assert metrics.qa_f1_score("of which", "harbour of Sezen") > 0
    assert metrics.qa_f1_score_described("of which", "harbour of Sezen") == 0.0


def test_described_f1_of_a_truth_of_blacklisted_words_uses_them() -> None:
    assert metrics.qa_f1_zh_score_described("是", "是") == 1.0
    assert metrics.qa_f1_score_described("by which", "by which") == 1.0


@pytest.mark.parametrize(
    ("metric", "text", "least"),
    [
        (metrics.qa_f1_score_described, "amber reef cove isle fjord", 2),
        (metrics.qa_f1_zh_score_described, "灯塔果园水库港口疫苗", 1),
        (metrics.qa_f1_score_with_gold_ans, "amber reef cove isle fjord", 1),
        (metrics.qa_f1_zh_score_with_gold_ans, "灯塔果园水库港口疫苗", 2),
    ],
)
def test_the_papers_gates_are_the_published_ones_the_other_way_round(
    metric: Callable[..., float], text: str, least: int
) -> None:
    """Of five keywords: two in English and one in Chinese as the paper has it."""
    words = text.split() if " " in text else [text[at : at + 2] for at in range(0, 10, 2)]
    for number in range(6):
        answer = (" " if " " in text else "").join(words[:number])
        assert (metric(answer, text, text) > 0) == (number >= least), number


def test_keyword_recall_is_the_share_of_informative_keywords() -> None:
    recall = metrics.keyword_recall_score
    assert recall("amber lamp of", "pier", "amber reef of in") == 0.5  # "of" and "in" do not count
    assert recall("amber", "pier", "amber amber") == 0.5  # a multiset
    assert recall("amber amber amber", "pier", "amber amber") == 1.0
    assert metrics.keyword_recall_zh_score("灯塔在港口", "果园", "灯塔港口的水库") == 2 / 3


@pytest.mark.parametrize("blank", [None, "", "  ", "?!", "the"])
def test_keyword_recall_takes_the_truth_where_there_are_no_keywords(blank: str | None) -> None:
    assert metrics.keyword_recall_score("amber", "amber reef", blank) == 0.5


def test_keyword_recall_of_blacklisted_words_alone_looks_for_them() -> None:
    assert metrics.keyword_recall_score("by", "pier", "by which") == 0.5
    assert metrics.keyword_recall_zh_score("是", "是") == 1.0
    assert metrics.keyword_recall_score("amber", "?!", "?!") == 0.0  # nothing to be found


def test_single_metrics_do_not_look_at_keywords() -> None:
    assert metrics.qa_f1_score("amber", "amber", "reef") == 1.0
    assert metrics.qa_f1_zh_score("灯塔", "灯塔", "果园") == 1.0
    assert metrics.rouge_zh_score("灯塔", "灯塔", "果园") == pytest.approx(1.0)


@pytest.mark.parametrize("name", ALL_METRICS)
@pytest.mark.parametrize("prediction", [None, 1, 1.5, ["amber"], {"pred": "amber"}, b"amber"])
def test_a_prediction_that_is_no_string_is_an_error_that_names_its_type(
    name: str, prediction: object
) -> None:
    with pytest.raises(TypeError, match=type(prediction).__name__):
        ALL_METRICS[name](prediction, "amber", None)


@settings(max_examples=60)
@given(st.text(), st.text(), st.none() | st.text())
def test_every_score_lies_between_0_and_1(
    prediction: str, truth: str, keywords: str | None
) -> None:
    for metric in ALL_METRICS.values():
        assert 0.0 <= metric(prediction, truth, keywords) <= 1.0


# --- ROUGE-L --------------------------------------------------------------------------------------------------------


def package_rouge_l(prediction: str, truth: str) -> float:
    """What the `rouge` package gives; 0 where it refuses a side without a sentence, as the published scorer has it."""
    try:
        return float(
            Rouge(metrics=["rouge-l"]).get_scores([prediction], [truth])[0]["rouge-l"]["f"]
        )
    except ValueError:
        return 0.0


# Few words, so that many repeat and the longest common subsequence has ties; dots make sentences.
texts = st.lists(
    st.sampled_from(["灯", "塔", "港", "a", "b", "", ".", "..", " ", "\t", "\u3000"]), max_size=30
)


@settings(max_examples=400)
@given(texts.map(" ".join) | texts.map("".join), texts.map(" ".join) | texts.map("".join))
@example("", "")
@example(".", "a")
@example(" ", " ")
@example("a . ", "a.b.a")
def test_rouge_l_is_the_packages(prediction: str, truth: str) -> None:
    assert metrics._rouge_l(prediction, truth) == package_rouge_l(prediction, truth)


@settings(max_examples=200)
@given(st.text(), st.text())
def test_rouge_l_is_the_packages_on_any_text(prediction: str, truth: str) -> None:
    assert metrics._rouge_l(prediction, truth) == package_rouge_l(prediction, truth)


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from("abcd"), max_size=20),
    st.lists(st.sampled_from("abcd"), max_size=20),
    st.integers(1, 5),
)
def test_rouge_l_is_the_same_in_blocks_of_any_size(
    prediction: list[str], truth: list[str], rows: int
) -> None:
    whole = metrics._common_subsequence(truth, prediction)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "ROWS_AT_ONCE", rows)
        assert metrics._common_subsequence(truth, prediction) == whole


def test_a_tie_of_the_trace_goes_along_the_prediction() -> None:
    assert metrics._common_subsequence(["a", "b"], ["b", "a"]) == {"b"}


def test_rouge_l_counts_distinct_words() -> None:
    assert metrics._rouge_l("a a a b", "a a a") == pytest.approx(
        2 / 3
    )  # precision 1 of 2, recall 1 of 1


def test_a_side_of_blanks_is_not_empty_for_rouge_l() -> None:
    assert metrics._rouge_l(" ", " ") == pytest.approx(1.0)
    assert metrics._rouge_l("", "") == 0.0


def test_the_second_cut_of_the_joined_words_is_kept() -> None:
    import jieba

    for text in ["人工智能的发展", "a.b%c 3.5%", "欧阳振华说：“好。”\r\n 真的\n"]:
        joined = " ".join(jieba.lcut(text))
        again = [metrics._normalize_zh(word) for word in jieba.lcut(joined)]
        expected = " ".join(word for word in again if word not in metrics.CHINESE_BLACKLIST)
        assert metrics._chinese_words(text) == expected


@settings(max_examples=150)
@given(
    st.text(alphabet="欧阳振华灯塔的是在一人工智能发展3.5%ab-&#_，。 　\r\n\t\u2028C", max_size=40)
)
def test_cutting_word_by_word_is_cutting_the_joined_words(text: str) -> None:
    import jieba

    again = [metrics._normalize_zh(word) for word in jieba.lcut(" ".join(jieba.lcut(text)))]
    assert metrics._chinese_words(text) == " ".join(
        word for word in again if word not in metrics.CHINESE_BLACKLIST
    )


def test_long_texts_score_the_same_under_any_recursion_limit() -> None:
    prediction = "灯塔 港口 水库。" * 1500
    truth = "港口 灯塔 果园。" * 1500
    limit = sys.getrecursionlimit()
    metrics.rouge_zh_score_blacklist("灯塔", "港口")  # jieba is loaded
    try:
        scores = []
        for depth in (200, 100_000):
            sys.setrecursionlimit(depth)
            scores.append(
                [
                    metrics.rouge_zh_score(prediction, truth),
                    metrics.rouge_zh_score_blacklist(prediction, truth),
                ]
            )
    finally:
        sys.setrecursionlimit(limit)
    assert scores[0] == scores[1]
    assert all(score > 0 for score in scores[0])


def test_rouge_l_is_the_packages_where_the_package_needs_a_deeper_stack() -> None:
    words = [f"{number * 7919 % 400}" for number in range(1400)]
    prediction, truth = " ".join(words[:900]), " ".join(words[200:])
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        expected = package_rouge_l(prediction, truth)
    finally:
        sys.setrecursionlimit(limit)
    assert metrics._rouge_l(prediction, truth) == expected > 0


# --- the same everywhere --------------------------------------------------------------------------------------------

SCORE_ALL = """
import json, pathlib, sys
from lveval import config
cases = [json.loads(l) for l in pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").split("\\n") if l][::11]
print([
    table[case["dataset"]](case["pred"], case["answers"][0], case["gold_ans"]).hex()
    for case in cases
    for table in (config.DATASET_METRIC, config.DATASET_METRIC_DESCRIBED, config.DATASET_METRIC_RECALL)
])
"""


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            **environment,
        },
        capture_output=True,
        encoding="utf-8",
        check=True,
    )


def test_scores_do_not_depend_on_the_surroundings(tmp_path: Path) -> None:
    cases, cache = str(GOLDEN / "scores.jsonl"), str(tmp_path / "cache")
    surroundings = [
        {"PYTHONHASHSEED": "0"},
        {"PYTHONHASHSEED": "12345", "LC_ALL": "C", "TZ": "Asia/Shanghai"},
        {
            "PYTHONHASHSEED": "1",
            "LC_ALL": "tr_TR.UTF-8",
            "LANG": "tr_TR.UTF-8",
            "TZ": "America/St_Johns",
        },
    ]
    outputs = {
        python(SCORE_ALL, cases, LVEVAL_CACHE=cache, **surrounding).stdout
        for surrounding in surroundings
    }
    assert len(outputs) == 1


def test_importing_the_configuration_loads_no_library() -> None:
    code = "import sys; from lveval import config; print([m for m in ('jieba', 'rouge', 'torch', 'datasets', 'pandas') if m in sys.modules])"
    assert python(code).stdout.strip() == "[]"


# --- the dictionary's cache -----------------------------------------------------------------------------------------

SCORE_ONE = (
    "from lveval import metrics\n"
    "from lveval.common.jieba_dictionary import _dictionary_folder\n"
    "print(metrics.qa_f1_zh_score('灯塔在港口', '港口灯塔'), _dictionary_folder())"
)


def test_the_dictionary_is_cached_in_a_private_folder_without_a_word(tmp_path: Path) -> None:
    done = python(SCORE_ONE, LVEVAL_CACHE=str(tmp_path / "cache"))
    assert done.stderr == ""
    folder = Path(done.stdout.strip().split(" ", 1)[1])
    assert folder.is_relative_to(tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == ["jieba.cache"]


@pytest.mark.parametrize("open_to_all", ["folder", "file"])
def test_a_cache_that_others_can_write_is_not_trusted(tmp_path: Path, open_to_all: str) -> None:
    cache = tmp_path / "cache"
    done = python(SCORE_ONE, LVEVAL_CACHE=str(cache))
    score, folder = done.stdout.strip().split(" ", 1)
    planted = Path(folder) / "jieba.cache"
    planted.write_bytes(
        b"[\x02\x00\x00\x00{0i\x01\x00\x00\x00"
    )  # a marshalled ({}, 1): no word is known
    (Path(folder) if open_to_all == "folder" else planted).chmod(0o777)
    assert python(SCORE_ONE, LVEVAL_CACHE=str(cache)).stdout.strip() == f"{score} None"


@pytest.mark.parametrize(
    ("library", "said"),
    [
        ("__version__ = '0.39'", "found jieba 0.39; expected 0.42.1"),
        ("raise ImportError('gone')", "pip install jieba"),
    ],
)
def test_another_jieba_or_none_is_an_error_that_says_what_to_install(
    tmp_path: Path, library: str, said: str
) -> None:
    (tmp_path / "jieba.py").write_text(library)
    code = (
        "from lveval import metrics\nfrom lveval.common.errors import UsageError\n"
        "try: metrics.qa_f1_zh_score('灯', '灯')\nexcept UsageError as e: print(e)"
    )
    assert said in python(code, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])).stdout
