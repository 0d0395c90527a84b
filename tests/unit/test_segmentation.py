"""segmentation.py cuts as jieba does, whatever the text."""

import json
import random

import jieba
import pytest
from conftest import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lveval.common import segmentation
from lveval.common.jieba_dictionary import segmenter

GOLDEN = ROOT / "tests" / "golden"

# Words that jieba knows, parts of such, names that it does not, marks, blanks and Latin.
PIECES = [
    "的",
    "在",
    "灯塔",
    "人工智能",
    "人工",
    "中华人民共和国",
    "欧阳振华",
    "费松年",
    "临江府",
    "研究生命",
    "起源",
    "南京市",
    "长江大桥",
    "结婚",
    "的和",
    "尚未",
    "一九八四",
    "1887年",
    "3.5%",
    "a-b",
    "LSTM",
    "百分之二十",
    "鑫",
    "龘",
    "。",
    "，",
    "《",
    "》",
    "“",
    "、",
    "·",
    "%",
    "#",
    "°",
    "é",
    "カ",
]


def jieba_words(text: str) -> tuple[str, ...]:
    return tuple(segmenter().cut(text, cut_all=False))


def test_the_words_of_the_golden_texts_are_jiebas() -> None:
    texts = set()
    for name in ("scores.jsonl", "edge.jsonl"):
        for line in (GOLDEN / name).read_text(encoding="utf-8").split("\n")[:-1]:
            case = json.loads(line)
            texts |= {case["pred"], *case["answers"], case.get("gold_ans") or ""}
    assert len(texts) > 1500
    for text in texts:
        assert segmentation.cut(text) == jieba_words(text), text


@settings(max_examples=300)
@given(st.lists(st.sampled_from([*PIECES, " ", "\r\n", "\n", "\u3000", "\t"]), max_size=40))
@example(["结婚", "的和", "尚未", "结婚", "的和", "尚未"])
def test_the_words_of_made_up_texts_are_jiebas(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert segmentation.cut(text) == jieba_words(text)


@settings(max_examples=300)
@given(st.text() | st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)))
def test_the_words_of_any_text_are_jiebas(text: str) -> None:
    assert segmentation.cut(text) == jieba_words(text)


@pytest.mark.parametrize("seed", range(3))
def test_the_words_of_dictionary_entries_in_a_row_are_jiebas(seed: int) -> None:
    """Many words overlap where they meet, so likelihoods decide."""
    words = random.Random(seed).sample(sorted(segmenter().FREQ), 3000)
    for start in range(0, 3000, 15):
        text = "".join(words[start : start + 15])
        assert segmentation.cut(text) == jieba_words(text), text


def test_the_dictionary_is_the_whole_programs() -> None:
    assert segmenter() is jieba.dt
