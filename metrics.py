"""HOW an answer is scored: pure functions, two strings and perhaps keywords in, a number between 0
and 1 out.

    python -c "import metrics; print(metrics.qa_f1_score('the red lamp', 'a red lamp', None))"

Every metric is `metric(prediction, ground_truth, gold_ans=None)`; `gold_ans` are the annotated
answer keywords. None rounds, none reads the row's other answers. Three protocols share the steps
below. The functions named as in the published scorer are `released`, which made the leaderboard
(Yuan et al., "LV-Eval", arXiv 2402.05136); the `_described` ones are the two stages as the paper
has them; the `keyword_recall` ones are what the reports on Qwen2 and Qwen2.5 found less stringent
(arXiv 2407.10671, section 5.2.3). Values of `released` agree with the published scorer under jieba
0.42.1 and the `rouge` package 1.0.1, held by tests to 1e-12.
"""

import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from lveval.common.remembered import remembered
from lveval.common.segmentation import cut

ROUGE_VERSION = "1.0.1"  # The release of `rouge` whose ROUGE-L value this module reproduces.

# Words that say nothing about whether an answer is right. They are parameters of the published
# metric.
ENGLISH_BLACKLIST = frozenset(
    """
    about and are as at be because being but by does for from had has have he her his in is it of
    on or she that their they this to was were what when which who with
    """.split()  # noqa: SIM905 - a list of 85 quoted words is harder to check
)

CHINESE_BLACKLIST = frozenset(
    """
    c × ‰ 一定 一种 丁 万元 上 不 与 个 中 为 主要 也 了 于 亩 亿元 从 以 以及 会 但
    位于 你 使 使用 元 其他 具有 到 包括 受 变得 可以 号 后 和 因素 在 地 基于 对 将 小 已经
    带 年 并 度 形 或 或者 所 才 指 方面 无 日 时 是 月 有 条 来 根据 法 然后 片 用 用于
    由 的 等 类 给 而 能 至 要 让 进行 通过 首先
    """.split()  # noqa: SIM905 - a list of 85 quoted words is harder to check
)

# As published: the closing mark 》 is deleted and the opening mark 《 is not.
_CHINESE_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､"
    "、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)

ROWS_AT_ONCE = 1024  # of the table of a longest common subsequence

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NO_CHINESE_PUNCTUATION = str.maketrans("", "", string.punctuation + _CHINESE_PUNCTUATION)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
Tokens = tuple[str, ...]


# --- text -> tokens -----------------------------------------------------------------------------
# All protocols, and all levels of a subset, score the same answers: what a text was cut into is
# remembered. The bounds hold the answers of every subset; long ones are forgotten (evaluation.py).


@remembered(4096)
def _english_tokens(text: str) -> Tokens:
    return tuple(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


@remembered(4096)
def _chinese_tokens(text: str) -> Tokens:
    return tuple(token for token in map(_normalize_zh, segment(text)) if token)


@remembered(65536)
def _normalize_zh(token: str) -> str:
    return "".join(token.lower().translate(_NO_CHINESE_PUNCTUATION).split())


segment = remembered(4096)(cut)


# --- tokens -> score ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)  # compared as itself: it is a key of the caches
class Language:
    """What differs between the English and the Chinese metrics.

    An answer that holds a smaller share of the keywords than the gate scores 0. The paper has the
    two gates the other way round than the published scorer.
    """

    tokens: Callable[[str], Tokens]
    blacklist: frozenset[str]
    released_gate: float
    described_gate: float


ENGLISH = Language(_english_tokens, ENGLISH_BLACKLIST, released_gate=0.2, described_gate=0.4)
CHINESE = Language(_chinese_tokens, CHINESE_BLACKLIST, released_gate=0.4, described_gate=0.2)


def require_text(prediction: object) -> str:
    """Return `prediction` if it is a string; TypeError otherwise: an error is not an answer."""
    if isinstance(prediction, str):
        return prediction
    raise TypeError(f"a prediction must be a string, not {type(prediction).__name__}")


@remembered(1024)  # these three remember a row: protocols and causes ask for the same
def informative(language: Language, tokens: Tokens) -> Tokens:
    """Keep the tokens that tell something about an answer: none of the blacklist."""
    return tuple(token for token in tokens if token not in language.blacklist)


@remembered(1024)
def _counts(tokens: Tokens) -> Counter[str]:
    return Counter(tokens)


@remembered(1024)
def count_overlap(prediction: Tokens, truth: Tokens) -> int:
    """How many tokens two multisets share."""
    found = _counts(prediction)
    return sum(min(found[word], times) for word, times in _counts(truth).items() if word in found)


def _f1(prediction: Tokens, truth: Tokens) -> float:
    """Harmonic mean of precision and recall; 0 without overlap."""
    overlap = count_overlap(prediction, truth)
    if overlap == 0:
        return 0.0
    precision, recall = overlap / len(prediction), overlap / len(truth)
    return 2 * precision * recall / (precision + recall)


def fails_keyword_gate(
    language: Language, prediction: Tokens, keywords: Tokens, least: float
) -> bool:
    """Stage 1: whether the prediction holds less than a share `least` of the keywords.

    As published, blacklisted words do not count as found but do count among the keywords to be
    found. Where there are no keywords nothing can be missed.
    """
    if not keywords:
        return False
    found = count_overlap(prediction, informative(language, keywords))
    return found / len(keywords) < least


def keyword_tokens(language: Language, gold_ans: str | None) -> Tokens:
    """The keywords' tokens; blank ones are none."""
    return language.tokens(gold_ans) if gold_ans else ()


def _gated(language: Language, prediction: str, ground_truth: str, gold_ans: str | None) -> float:
    """Stage 1 of the paper where there are keywords, then F1 of all tokens."""
    answer = language.tokens(require_text(prediction))
    keywords = keyword_tokens(language, gold_ans)
    if fails_keyword_gate(language, answer, keywords, language.described_gate):
        return 0.0
    return _f1(answer, language.tokens(ground_truth))


def _described(
    language: Language, prediction: str, ground_truth: str, gold_ans: str | None
) -> float:
    """Stage 1 where there are keywords, then F1 without the blacklisted words on either side."""
    answer, truth = language.tokens(require_text(prediction)), language.tokens(ground_truth)
    keywords = keyword_tokens(language, gold_ans)
    if fails_keyword_gate(language, answer, keywords, language.described_gate):
        return 0.0
    telling = informative(language, truth)
    if not telling:  # a truth such as "是" has only blacklisted words: they are compared
        return _f1(answer, truth)
    return _f1(informative(language, answer), telling)


def _keyword_recall(
    language: Language, prediction: str, ground_truth: str, gold_ans: str | None
) -> float:
    """The share of the keywords' informative tokens, or the truth's, that the prediction holds."""
    answer = language.tokens(require_text(prediction))
    wanted = keyword_tokens(language, gold_ans) or language.tokens(ground_truth)
    wanted = informative(language, wanted) or wanted  # "是" alone is looked for all the same
    return count_overlap(answer, wanted) / len(wanted) if wanted else 0.0


# --- the metrics --------------------------------------------------------------------------------


def qa_f1_score(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """F1 of the English tokens; `gold_ans` is not looked at. Released protocol of factrecall_en.

    Raises TypeError if the prediction is no string, as every metric here does.
    """
    return _f1(_english_tokens(require_text(prediction)), _english_tokens(ground_truth))


def qa_f1_zh_score(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """F1 of the Chinese tokens; `gold_ans` is not looked at. Released protocol of factrecall_zh."""
    return _f1(_chinese_tokens(require_text(prediction)), _chinese_tokens(ground_truth))


def qa_f1_score_with_gold_ans(
    prediction: str, ground_truth: str, gold_ans: str | None = None
) -> float:
    """0 if less than a fifth of the keywords is found, else F1 of all English tokens.

    Released protocol.
    """
    answer = _english_tokens(require_text(prediction))
    keywords = keyword_tokens(ENGLISH, gold_ans)
    if fails_keyword_gate(ENGLISH, answer, keywords, ENGLISH.released_gate):
        return 0.0
    return _f1(answer, _english_tokens(ground_truth))


def qa_f1_zh_score_with_gold_ans(
    prediction: str, ground_truth: str, gold_ans: str | None = None
) -> float:
    """0 if less than two fifths of the keywords are found, else F1 of all Chinese tokens.

    Released protocol.

    As published, and unlike in English, the ground truth stands in where no keywords are given.
    """
    answer, truth = _chinese_tokens(require_text(prediction)), _chinese_tokens(ground_truth)
    keywords = keyword_tokens(CHINESE, gold_ans) or truth
    if fails_keyword_gate(CHINESE, answer, keywords, CHINESE.released_gate):
        return 0.0
    return _f1(answer, truth)


def qa_f1_score_gated(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """0 if less than two fifths of the keywords are found, else F1 of all English tokens.

    The paper's metric before the blacklist joins it: a step of the ablation, in no protocol.
    """
    return _gated(ENGLISH, prediction, ground_truth, gold_ans)


def qa_f1_zh_score_gated(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """0 if less than a fifth of the keywords is found, else F1 of all Chinese tokens.

    The paper's metric before the blacklist joins it: a step of the ablation, in no protocol.
    """
    return _gated(CHINESE, prediction, ground_truth, gold_ans)


def qa_f1_score_described(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """0 if less than two fifths of the keywords are found, else F1 without blacklisted words.

    The two-stage metric of the paper, in English.
    """
    return _described(ENGLISH, prediction, ground_truth, gold_ans)


def qa_f1_zh_score_described(
    prediction: str, ground_truth: str, gold_ans: str | None = None
) -> float:
    """0 if less than a fifth of the keywords is found, else F1 without blacklisted words.

    The two-stage metric of the paper, in Chinese.
    """
    return _described(CHINESE, prediction, ground_truth, gold_ans)


def keyword_recall_score(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """The share of the keywords' English tokens, less the blacklisted ones, that is found.

    The first ground truth stands in for keywords that are missing or normalise to no token; where
    all tokens are blacklisted, all count. The reports that quote keyword recall do not publish
    their rule; this one is ours.
    """
    return _keyword_recall(ENGLISH, prediction, ground_truth, gold_ans)


def keyword_recall_zh_score(
    prediction: str, ground_truth: str, gold_ans: str | None = None
) -> float:
    """The share of the keywords' Chinese tokens that is found; else as in English."""
    return _keyword_recall(CHINESE, prediction, ground_truth, gold_ans)


def rouge_zh_score(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """ROUGE-L of the two texts' jieba words, punctuation included; `gold_ans` is not looked at."""
    return _rouge_l(" ".join(segment(require_text(prediction))), " ".join(segment(ground_truth)))


def rouge_zh_score_blacklist(
    prediction: str, ground_truth: str, gold_ans: str | None = None
) -> float:
    """ROUGE-L of the two texts' normalised words without the blacklist.

    dureader_mixup under `released` and `described`.
    """
    return _rouge_l(_chinese_words(require_text(prediction)), _chinese_words(ground_truth))


def file_score(scores: list[float]) -> float:
    """A file's score: 100 times the mean of its rows' scores, rounded to two places; ValueError
    without rows.
    """
    if not scores:
        raise ValueError("a file without rows has no score")
    total = 0.0
    for score in (
        scores
    ):  # Not sum(): from Python 3.12 on it compensates rounding errors, the published loop did not.
        total += score
    return round(100 * total / len(scores), 2)


@remembered(4096)
def content_words(text: str, language: str) -> Tokens:
    """The tokens of `text` that tell something about an answer: none of the blacklist of `language`
    ("en" or "zh").
    """
    rules = CHINESE if language == "zh" else ENGLISH
    return informative(rules, rules.tokens(text))


@remembered(4096)
def normalize(text: str, language: str) -> str:
    """`text` as the metrics compare it, in one piece: English tokens joined by spaces, Chinese ones
    by nothing.
    """
    if language != "zh":
        return " ".join(_english_tokens(text))
    return "".join(
        text.lower().translate(_NO_CHINESE_PUNCTUATION).split()
    )  # no need to cut what is joined again


# --- ROUGE-L ------------------------------------------------------------------------------------


@remembered(4096)
def _chinese_words(text: str) -> str:
    """`text` as the published scorer hands it to ROUGE-L.

    Two quirks are kept: the words are joined by spaces and cut once more, which can split them
    further, and a word that normalises to nothing stays as an empty one between two spaces.
    """
    words: list[str] = []
    for word in segment(text):
        # No cut reaches over a space, so cutting the joined text again is cutting each word again:
        # most are known.
        words += [*_cut_again(word), ""]
    return " ".join(word for word in words[:-1] if word not in CHINESE_BLACKLIST)


@remembered(65536)
def _cut_again(word: str) -> Tokens:
    return tuple(map(_normalize_zh, cut(word)))


def _rouge_l(prediction: str, truth: str) -> float:
    """The ROUGE-L F value of the `rouge` package 1.0.1 (its summary-level variant), 0 if a side has
    no sentence.

    Written anew because the package recurses once a word, so that its value depends on Python's
    recursion limit from about 1,000 words on, and because it fills a dictionary cell by cell.
    """
    predicted, true = _sentences(prediction), _sentences(truth)
    if not predicted or not true:
        return 0.0
    common = _common_words(predicted, true)
    recall = len(common) / len(set().union(*true))
    precision = len(common) / len(set().union(*predicted))
    return 2.0 * (precision * recall / (precision + recall + 1e-8))


def _common_words(predicted: list[list[str]], true: list[list[str]]) -> set[str]:
    """Distinct words, on every side: that is how the package counts."""
    return set().union(*(_common_subsequence(one, other) for one in true for other in predicted))


def rouge_words(prediction: str, ground_truth: str) -> set[str]:
    """The words that rouge_zh_score_blacklist counts as common to the two texts."""
    both = (_sentences(_chinese_words(text)) for text in (prediction, ground_truth))
    return _common_words(*both)


def _sentences(text: str) -> list[list[str]]:
    """The words of each sentence.

    As in the package, blank text between two full stops is one empty word.
    """
    return [sentence.split() or [""] for sentence in text.split(".") if sentence]


def _common_subsequence(truth: list[str], prediction: list[str]) -> set[str]:
    """The words of the one longest common subsequence that the package traces.

    The table of lengths is kept as one integer a row (Hyyrö 2004): bit j of row i is 0 where the
    length grows from prediction[:j] to prediction[:j + 1] against truth[:i]. From the end the trace
    takes equal words, and on a mismatch goes up only if table[i - 1, j] > table[i, j - 1], which is
    just where the length grows at j. Of a long truth only a block of rows is there at a time.
    """
    size = len(prediction) // 8 + 1
    full = (1 << len(prediction)) - 1
    places: dict[str, list[int]] = {word: [] for word in truth}
    for j, word in enumerate(prediction):
        if word in places:
            places[word].append(j)

    @lru_cache(maxsize=512)
    def bits(word: str) -> int:
        found = bytearray(size)
        for j in places[word]:
            found[j >> 3] |= 1 << (j & 7)
        return int.from_bytes(found, "little")

    def block(row: int, start: int) -> tuple[int, list[bytes]]:
        """The rows that follow `row`, which is that of truth[:start]; the last also as a number."""
        rows = [row.to_bytes(size, "little")]
        for word in truth[start : start + ROWS_AT_ONCE]:
            matches = row & bits(word)
            row = (row + matches | row - matches) & full
            rows.append(row.to_bytes(size, "little"))
        return row, rows

    row, firsts = full, [full]
    for start in range(0, len(truth), ROWS_AT_ONCE):
        row, rows = block(row, start)
        firsts.append(row)
    common: set[str] = set()
    i, j = len(truth), len(prediction)
    while i and j:
        if i == start:
            start -= ROWS_AT_ONCE
            _, rows = block(firsts[start // ROWS_AT_ONCE], start)
        if truth[i - 1] == prediction[j - 1]:
            common.add(truth[i - 1])
            i, j = i - 1, j - 1
        elif rows[i - start][j - 1 >> 3] >> (j - 1 & 7) & 1:
            j -= 1
        else:
            i -= 1
    return common
