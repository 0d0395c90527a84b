"""Where passages stand: in contexts, in prompts after the cut, and what their depth does to scores."""

import random
import re
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from conftest import row
from hypothesis import given
from hypothesis import strategies as st
from support.scores import every, placed

from lveval import utils
from lveval.analysis import positions as effects
from lveval.analysis import run_analysis
from lveval.backends.base import Tokens
from lveval.backends.echo import EchoTokenizer
from lveval.backends.hf_models import HFTokenizer
from lveval.data import positions
from lveval.data.positions import Passages, find_cut, find_passages
from lveval.data.rows import Row
from lveval.results import RowDepths, ScoredRow


def full_row(**changes: object) -> Row:
    plain = {"question_id": None, "offsets": None, "confusing_facts": None, "answer_keywords": None}
    return cast(Row, row() | plain | changes)


# --- in the context ---


def test_marked_passages_are_where_the_offsets_say() -> None:
    offsets = {"evidence": [[2, 6], [8, 8]], "confusing_facts": [[10, 12]]}
    found = find_passages(full_row(context="x" * 20, offsets=offsets, answer_keywords="x"))
    assert found == Passages(((2, 6),), ((10, 12),))  # an empty span marks nothing


@pytest.mark.parametrize(
    ("context", "keywords", "answer", "expected"),
    [
        ("the lamp is red", "red", "lamp", (12, 15)),
        ("the lamp is red, red", "red", "lamp", (4, 8)),  # of two places none can be told
        ("the lamp is red", "blue", "lamp", (4, 8)),
        ("the lamp is red", " ", " lamp ", (4, 8)),
        ("the lamp, a lamp", None, "lamp", None),
        ("nothing of it", "red", "lamp", None),
    ],
)
def test_unmarked_evidence_is_where_keywords_or_the_answer_stand_once(
    context: str, keywords: str | None, answer: str, expected: tuple[int, int] | None
) -> None:
    found = find_passages(full_row(context=context, answer_keywords=keywords, answers=[answer]))
    assert found.evidence == ((expected,) if expected else ())


def test_a_confusing_fact_is_no_evidence_and_is_found_verbatim() -> None:
    fact = "The bell is red."
    context = f"Long ago. {fact} Later. The lamp is red. {'x' * 20}"
    item = full_row(
        context=context, confusing_facts=[fact, "not there"], answer_keywords="red", answers=["no"]
    )
    found = find_passages(item)
    assert found.confusing_facts == ((10, 26),)
    ((start, end),) = found.evidence
    assert context[start - 12 : end] == "The lamp is red"
    twice = full_row(context=f"{fact} {fact}", confusing_facts=[fact], answers=["lamp"])
    assert find_passages(twice) == Passages((), ())


# --- in the prompt ---


def test_depths_with_and_without_a_cut() -> None:
    found = Passages(((0, 10), (45, 55), (90, 100)), ((18, 22), (80, 90)))
    assert positions.depths(found, 100) == {
        "evidence": [[0.05, 0.05], [0.5, 0.5], [0.95, 0.95]],
        "confusing_facts": [[0.2, 0.2], [0.85, 0.85]],
    }
    # Characters 20 to 80 are gone: 40 are left, and the fact at 18 to 22 lost its end.
    assert positions.depths(found, 100, (20, 80)) == {
        "evidence": [[0.05, 0.125], [0.5, None], [0.95, 0.875]],
        "confusing_facts": [[0.2, None], [0.85, 0.625]],
    }


@pytest.mark.parametrize("limit", [24, 60, 150, 400, 10_000])
@pytest.mark.parametrize("place", [0, 7, 50, 93, 99])
def test_the_depth_in_the_prompt_is_where_the_passage_stands_in_it(limit: int, place: int) -> None:
    """The truth is looked up in the prompt's own text."""
    documents = [f"doc{at} {'word ' * 9}." for at in range(100)]
    context = "\n".join(documents)
    start = context.index(f"doc{place} ")
    span = [start, start + len(documents[place])]
    item = full_row(context=context, offsets={"evidence": [span], "confusing_facts": []})
    template = "Read this.\n{context}\nNow answer.\n{input}\nAnswer:"
    made = utils.build_prompt(item, template, 9, EchoTokenizer(), limit, "x", "none", False)
    assert made.depths is not None
    ((depth, in_prompt),) = made.depths["evidence"]
    assert depth == pytest.approx(sum(span) / 2 / len(context), abs=1e-4)
    prompt, around = made.prompt.text, template.replace("{input}", item["input"]).split("{context}")
    at = prompt.find(documents[place])
    if at < 0:
        assert in_prompt is None and made.evidence_kept is False
    else:
        middle = at - len(around[0]) + len(documents[place]) / 2
        left = len(prompt) - sum(map(len, around))
        assert in_prompt == pytest.approx(middle / left, abs=1e-3)
    if made.cut is not None:
        first, last = made.cut
        assert around[0] + context[:first] + context[last:] + around[1] == prompt


class SloppyTokenizer(EchoTokenizer):
    """Decodes like those that clean up: one space for several, none before a full stop, torn letters."""

    def decode(self, tokens: Tokens) -> str:
        text = super().decode(tokens)
        return re.sub(r"\s+\.", ".", re.sub(r" +", " ", text))[:-1] + "\ufffd"


@pytest.mark.parametrize("limit", [200, 500, 1000])
def test_the_cut_is_found_though_decoding_changes_the_text(limit: int) -> None:
    chance = random.Random(3)
    words = [f"w{chance.randrange(10**6)}" for _ in range(3000)]
    context = "".join(word + chance.choice(("  ", " ", " . ")) for word in words)
    item = full_row(context=context, answers=["none"])
    tokenizer = SloppyTokenizer()
    made = utils.build_prompt(
        item, "A {context} B {input}", 9, tokenizer, limit, "x", "none", False
    )
    assert made.cut is not None
    exact = utils.build_prompt(
        item, "A {context} B {input}", 9, EchoTokenizer(), limit, "x", "none", False
    )
    assert exact.cut is not None
    assert abs(made.cut[0] - exact.cut[0]) <= 3 and abs(made.cut[1] - exact.cut[1]) <= 3


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_cut_of_a_real_tokenizer_is_exact(model_path: Path, language: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = HFTokenizer(AutoTokenizer.from_pretrained(model_path))
    text = "灯塔的守夜人记下了第{}次潮汐。" if language == "zh" else "The keeper noted tide {}.\n"
    context = "".join(text.format(at) for at in range(300))
    item = full_row(context=context, answers=["none"])
    made = utils.build_prompt(
        item, "A\n{context}\nB {input}", 9, tokenizer, 401, "x", "none", False
    )
    assert made.cut is not None
    first, last = made.cut
    assert f"A\n{context[: first - 2]}" in made.prompt.text.replace("\ufffd", "")
    assert context[last + 2 :] in made.prompt.text
    kept = len(made.prompt.text) - len(f"A\n\nB {item['input']}")
    assert abs(len(context) - (last - first) - kept) <= 6  # torn letters are up to three signs each


@given(st.text(max_size=60), st.text(max_size=20), st.text(max_size=20), st.data())
def test_a_cut_is_always_within_the_context(
    full: str, head: str, tail: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(full)))
    end = data.draw(st.integers(start, len(full)))
    first, last = find_cut(full, head, tail, (start, end))
    assert 0 <= first <= last <= end - start


def test_under_a_plugin_passages_are_looked_up_in_what_it_shows() -> None:
    context = "aaaa EVIDENCE bbbb cccc dddd OTHER eeee"
    spans = [[5, 13], [29, 34]]
    item = full_row(context=context, offsets={"evidence": spans, "confusing_facts": []})
    made = utils.build_prompt(
        item, "{context} {input}", 9, EchoTokenizer(), 99, "x", "none", False, context="x EVIDENCE"
    )
    assert made.depths == {"evidence": [[0.2308, 0.6], [0.8077, None]], "confusing_facts": []}
    assert made.cut is None


# --- what a record tells ---


def test_a_record_that_is_no_depths_reads_as_none() -> None:
    def told(value: object) -> RowDepths | None:
        return ScoredRow("lic_mixup", "16k", 0, every(0.0), {"depths": value}).depths

    assert told(None) is None and told([]) is None and told("x") is None
    bad = [[0.5, 0.4], [2, 0.1], [0.5], ["x", 0.5], [True, 0.5], [float("nan"), 0.1], [0.1, "x"], 3]
    assert told({"evidence": bad, "confusing_facts": 7}) == RowDepths(((0.5, 0.4), (0.1, None)))


def scored(level: str, index: int, score: float, *pairs: list[float | None]) -> ScoredRow:
    depths = {"evidence": list(pairs), "confusing_facts": [[0.05, None]]}
    record = {"question_id": f"q{index}", "depths": depths, "evidence_kept": None not in pairs}
    return ScoredRow("lic_mixup", level, index, every(score), record)


def test_histograms_count_passages_by_level() -> None:
    rows = [
        scored("32k", 0, 1.0, [0.0, 0.0], [0.999, None]),
        scored("32k", 1, 1.0, [0.3, 0.95]),
        scored("16k", 0, 1.0, [1.0, 1.0]),
        ScoredRow("lic_mixup", "16k", 1, every(0.0), {}),
    ]
    found = effects.measure_positions(rows)
    assert found is not None and list(found.levels) == ["16k", "32k"]
    short, long = found.levels.values()
    assert (short.rows, short.rows_located) == (2, 1)
    assert short.evidence == short.evidence_in_prompt == (0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    assert long.evidence == (1, 0, 0, 1, 0, 0, 0, 0, 0, 1)
    assert long.evidence_in_prompt == (1, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    assert long.confusing_facts[0] == 2 and sum(long.confusing_facts_in_prompt) == 0


def test_no_depths_no_positions() -> None:
    assert effects.measure_positions([ScoredRow("lic_mixup", "16k", 0, every(1.0), {})]) is None
    empty: dict[str, object] = {"depths": {"evidence": [], "confusing_facts": []}}
    assert effects.measure_positions([ScoredRow("lic_mixup", "16k", 0, every(1.0), empty)]) is None


def test_the_heat_map_of_a_planted_valley() -> None:
    """Evidence in the sixth tenth is never found at 32k, and cut away in half of the rows there."""
    rows = []
    for level in ("16k", "32k"):
        for index in range(200):
            depth = (index % 10 + 0.5) / 10
            lost = level == "32k" and index % 10 == 5
            record = {
                "input": "the question",
                "depths": {"evidence": [[depth, depth]], "confusing_facts": []},
                "evidence_kept": not (lost and index % 20 == 5),
            }
            score = 0.0 if lost else 0.8
            rows.append(ScoredRow("factrecall_en", level, index, every(score), record))
    found = effects.measure_positions(rows)
    assert found is not None and list(found.heat) == ["factrecall_en"]
    heat = found.heat["factrecall_en"]
    assert [cell.score for cell in heat["16k"]] == pytest.approx([80] * 10)
    assert [cell.score for cell in heat["32k"]] == pytest.approx([80] * 5 + [0] + [80] * 4)
    assert [cell.kept_percent for cell in heat["32k"]] == [100] * 5 + [50] + [100] * 4
    assert {cell.rows for cell in heat["32k"]} == {20}
    effect = found.effects["factrecall_en"]
    # Of the middle's six tenths one scores 0, at one of two levels.
    assert effect.ends == pytest.approx(80) and effect.middle == pytest.approx(80 - 80 / 12)
    assert effect.verdict == "ends better"
    assert effect.tenths["0.5-0.6"].value == pytest.approx(40)
    assert effect.tenths["0.5-0.6"].clusters == 20  # contexts


def test_ends_against_middle_by_hand() -> None:
    """Levels weigh by n m / (n + m), a row of two passages counts half on either side."""
    rows = [
        scored("16k", 0, 1.0, [0.1, 0.1]),
        scored("16k", 1, 0.5, [0.9, 0.9]),
        scored("16k", 2, 0.2, [0.5, 0.5]),
        scored("16k", 3, 0.4, [0.0, 0.0], [0.6, 0.6]),
        scored("32k", 0, 0.6, [0.5, 0.15]),
        scored("32k", 1, 0.2, [0.1, 0.85]),
        scored("32k", 2, 0.3, [0.1, 0.3]),
        scored("32k", 3, 0.1, [0.1, 0.7]),
        scored("32k", 4, 0.9, [0.5, None]),  # not in the prompt
        scored("64k", 0, 0.7, [0.1, 0.1]),  # has no middle
    ]
    found = effects.measure_positions(rows)
    assert found is not None
    effect = found.effects["lic_mixup"]
    assert effect.rows == 9 and effect.levels == ("16k", "32k")
    short = (1.0 + 0.5 + 0.4 / 2) / 2.5, (0.2 + 0.4 / 2) / 1.5
    long = (0.6 + 0.2) / 2, (0.3 + 0.1) / 2
    weights = np.array([2.5 * 1.5 / 4, 2 * 2 / 4])
    ends, middle = 100 * weights @ np.array([short, long]) / weights.sum()
    assert effect.ends == pytest.approx(ends) and effect.middle == pytest.approx(middle)
    assert effect.difference is not None
    assert effect.difference.value == pytest.approx(ends - middle)
    assert effect.difference.clusters == 4  # questions
    assert effect.tenths["0.1-0.2"].value == pytest.approx(100 * (1.0 + 0.6 + 0.7) / 3)
    assert "0.4-0.5" not in effect.tenths


def test_rows_in_any_order_give_the_same_and_holm_counts_the_subsets() -> None:
    chance = np.random.default_rng(5)
    rows = [
        row
        for subset in ("lic_mixup", "cmrc_mixup", "dureader_mixup")
        for row in placed(chance, subset, chance.random((40, 3)), ahead=0.2)
    ]
    found = effects.measure_positions(rows)
    assert found is not None
    random.Random(1).shuffle(rows)
    assert effects.measure_positions(rows) == found
    least = min(found.effects.values(), key=lambda effect: effect.p)
    assert least.adjusted == pytest.approx(min(1, 3 * least.p))
    alone = effects.measure_positions([row for row in rows if row.subset == "lic_mixup"])
    assert alone is not None
    assert alone.effects["lic_mixup"].difference == found.effects["lic_mixup"].difference
    assert alone.effects["lic_mixup"].adjusted == alone.effects["lic_mixup"].p


def test_where_all_scores_are_equal_nothing_is_shown() -> None:
    rows = placed(np.random.default_rng(1), "lic_mixup", np.full((30, 3), 0.5))
    found = effects.measure_positions(rows)
    assert found is not None
    effect = found.effects["lic_mixup"]
    assert effect.verdict == "no difference shown" and effect.p == 1


def test_where_the_sides_are_worlds_apart_it_is_shown_without_an_interval() -> None:
    rows = placed(np.random.default_rng(1), "lic_mixup", np.zeros((30, 3)), ahead=1)
    found = effects.measure_positions(rows)
    assert found is not None
    effect = found.effects["lic_mixup"]
    assert effect.difference is not None and effect.difference.low is None
    assert (effect.ends, effect.middle, effect.verdict) == (100, 0, "ends better")


def test_everything_is_json() -> None:
    chance = np.random.default_rng(5)
    rows = placed(chance, "factrecall_en", chance.random((40, 2)), ("16k", "32k"))
    data = cast(
        dict[str, dict[str, dict[str, object]]],
        run_analysis.encode(effects.measure_positions(rows)),
    )
    assert set(data) == {"levels", "heat", "effects"}
    effect = data["effects"]["factrecall_en"]
    assert set(effect) == {
        "rows", "tenths", "shown", "levels", "ends", "middle", "difference", "p", "p_holm",
    }  # fmt: skip
    cells = cast(list[dict[str, object]], data["heat"]["factrecall_en"]["16k"])
    assert len(cells) == 10 and set(cells[0]) == {"rows", "score", "kept_percent"}
    assert len(cast(list[int], data["levels"]["16k"]["evidence"])) == 10


def test_facts_that_are_not_marked_are_looked_up_beside_marked_evidence() -> None:
    fact = "The bell is red."
    item = full_row(
        context=f"A lamp. {fact}",
        offsets={"evidence": [[2, 6]], "confusing_facts": []},
        confusing_facts=[fact],
    )
    assert find_passages(item) == Passages(((2, 6),), ((8, 24),))
    without = cast(Row, item | {"offsets": {"evidence": None, "confusing_facts": None}})
    assert find_passages(without).confusing_facts == ((8, 24),)
