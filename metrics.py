"""HOW an answer is scored: pure functions, two strings and perhaps keywords in, a number between 0 and 1 out.

    python -c "import metrics; print(metrics.qa_f1_score('the red lamp', 'a red lamp', None))"

Every metric is `metric(prediction, ground_truth, gold_ans=None)`; `gold_ans` are the annotated answer keywords. None
rounds, none reads the row's other answers. Two protocols share the steps below (Yuan et al., "LV-Eval", arXiv
2402.05136): the functions named as in the published scorer are the `released` protocol, which made the leaderboard;
the `_described` ones take F1 without the blacklisted words, as the paper says. Values agree with the published scorer
under jieba 0.42.1 and the `rouge` package 1.0.1, held by tests to 1e-12.
"""

import logging
import re
import string
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from os import getuid
from pathlib import Path
from typing import TYPE_CHECKING

from errors import HarnessError
from files import cache_dir

if TYPE_CHECKING:
    from jieba import Tokenizer

JIEBA_VERSION = "0.42.1"  # Another version cuts other words, so it gives other scores.
ROUGE_VERSION = "1.0.1"  # The release of `rouge` whose ROUGE-L value this module reproduces.

# Words that say nothing about whether an answer is right. They are parameters of the published metric.
ENGLISH_BLACKLIST = frozenset(
    """
    about and are as at be because being but by does for from had has have he her his in is it of on or
    she that their they this to was were what when which who with
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
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NO_CHINESE_PUNCTUATION = str.maketrans("", "", string.punctuation + _CHINESE_PUNCTUATION)
_ARTICLE = re.compile(r"\b(a|an|the)\b")

Tokens = tuple[str, ...]


# --- text -> tokens -------------------------------------------------------------------------------------------------
# Both protocols, and all levels of a subset, score the same answers: what a text was cut into is remembered. The
# bounds hold the answers of every subset and keep a run of long answers from filling the memory.


@lru_cache(maxsize=4096)
def _english_tokens(text: str) -> Tokens:
    return tuple(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


@lru_cache(maxsize=4096)
def _chinese_tokens(text: str) -> Tokens:
    return tuple(token for token in map(_normal_chinese, _cut(text)) if token)


@lru_cache(maxsize=65536)
def _normal_chinese(token: str) -> str:
    return "".join(token.lower().translate(_NO_CHINESE_PUNCTUATION).split())


def _cut(text: str) -> list[str]:
    words: list[str] = _jieba().lcut(text, cut_all=False)
    return words


@cache
def _jieba() -> "Tokenizer":
    """jieba's own dictionary, loaded once, from a cache that no other user of the machine can have written."""
    try:
        with warnings.catch_warnings():
            # jieba's source warns on new Pythons (invalid escapes, pkg_resources); a user can do nothing about it.
            warnings.simplefilter("ignore")
            import jieba
    except ImportError as error:
        raise HarnessError(
            f"scoring needs jieba {JIEBA_VERSION}, not found ({error}); pip install jieba=={JIEBA_VERSION}"
        ) from error
    if jieba.__version__ != JIEBA_VERSION:
        raise HarnessError(
            f"found jieba {jieba.__version__}; expected {JIEBA_VERSION}, because other versions give other scores; "
            f"pip install jieba=={JIEBA_VERSION}"
        )
    jieba.setLogLevel(logging.CRITICAL)  # It reports every load on standard error.
    with tempfile.TemporaryDirectory(prefix="jieba-") as scratch:
        # jieba would read a marshal file from the shared temporary folder. Where there is no trustworthy place for
        # one, it builds its dictionary anew (half a second) and the scratch folder goes.
        jieba.dt.tmp_dir = str(_dictionary_folder() or scratch)
        jieba.initialize()
    return jieba.dt


def _dictionary_folder() -> Path | None:
    """The folder for jieba's cached dictionary, or None where another user could have put a file into it."""
    folder = cache_dir() / f"jieba-{JIEBA_VERSION}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if all(_only_ours(path) for path in (folder, *folder.iterdir())):
            return folder
    return None


def _only_ours(path: Path) -> bool:
    """Whether `path` belongs to this user and nobody else may write it."""
    status = path.stat()
    return status.st_uid == getuid() and not status.st_mode & 0o022


# --- tokens -> score ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Language:
    """What differs between the English and the Chinese metrics."""

    tokens: Callable[[str], Tokens]
    blacklist: frozenset[str]
    least_recall: float  # of the keywords; an answer below it scores 0


_ENGLISH = _Language(_english_tokens, ENGLISH_BLACKLIST, 0.2)
_CHINESE = _Language(_chinese_tokens, CHINESE_BLACKLIST, 0.4)


def _text(prediction: object) -> str:
    """`prediction`, if it is a string: an error is not an answer, so None or a number has no score."""
    if isinstance(prediction, str):
        return prediction
    raise TypeError(f"a prediction must be a string, not {type(prediction).__name__}")


def _overlap(prediction: Tokens, truth: Tokens, ignored: frozenset[str] = frozenset()) -> int:
    """How many tokens two multisets share, not counting the `ignored` words."""
    found, wanted = Counter(prediction), Counter(truth)
    return sum(min(found[word], wanted[word]) for word in (found.keys() & wanted.keys()) - ignored)


def _f1(prediction: Tokens, truth: Tokens) -> float:
    """Harmonic mean of the overlap's share of the prediction and of the truth; 0 without overlap."""
    overlap = _overlap(prediction, truth)
    if overlap == 0:
        return 0.0
    precision, recall = overlap / len(prediction), overlap / len(truth)
    return 2 * precision * recall / (precision + recall)


def _misses_keywords(language: _Language, prediction: Tokens, keywords: Tokens) -> bool:
    """Stage 1: whether the prediction holds too few of the keywords (none given: it cannot).

    As published, blacklisted words do not count as found but do count among the keywords to be found.
    """
    if not keywords:
        return False
    return _overlap(prediction, keywords, language.blacklist) / len(keywords) < language.least_recall


def _keywords(language: _Language, gold_ans: str | None) -> Tokens:
    """The keywords' tokens; blank ones are none."""
    return language.tokens(gold_ans) if gold_ans else ()


def _described(language: _Language, prediction: str, ground_truth: str, gold_ans: str | None) -> float:
    """Stage 1 where there are keywords, then F1 without the blacklisted words on either side."""
    answer, truth = language.tokens(_text(prediction)), language.tokens(ground_truth)
    if _misses_keywords(language, answer, _keywords(language, gold_ans)):
        return 0.0
    informative = _without(truth, language.blacklist)
    if not informative:  # An answer such as "是" has only blacklisted words; they are all there is to compare.
        return _f1(answer, truth)
    return _f1(_without(answer, language.blacklist), informative)


def _without(tokens: Tokens, blacklist: frozenset[str]) -> Tokens:
    return tuple(token for token in tokens if token not in blacklist)


# --- the metrics ----------------------------------------------------------------------------------------------------


def qa_f1_score(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """F1 of the English tokens; `gold_ans` is not looked at. Released protocol of factrecall_en.

    Raises TypeError if the prediction is no string, as every metric here does.
    """
    return _f1(_english_tokens(_text(prediction)), _english_tokens(ground_truth))


def qa_f1_zh_score(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """F1 of the Chinese tokens; `gold_ans` is not looked at. Released protocol of factrecall_zh."""
    return _f1(_chinese_tokens(_text(prediction)), _chinese_tokens(ground_truth))


def qa_f1_score_with_gold_ans(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """0 if less than a fifth of the keywords is found, else F1 of all English tokens. Released protocol."""
    answer = _english_tokens(_text(prediction))
    if _misses_keywords(_ENGLISH, answer, _keywords(_ENGLISH, gold_ans)):
        return 0.0
    return _f1(answer, _english_tokens(ground_truth))


def qa_f1_zh_score_with_gold_ans(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """0 if less than two fifths of the keywords are found, else F1 of all Chinese tokens. Released protocol.

    As published, and unlike in English, the ground truth stands in where no keywords are given.
    """
    answer, truth = _chinese_tokens(_text(prediction)), _chinese_tokens(ground_truth)
    if _misses_keywords(_CHINESE, answer, _keywords(_CHINESE, gold_ans) or truth):
        return 0.0
    return _f1(answer, truth)


def qa_f1_score_described(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """The two-stage metric of the paper, in English: keyword recall, then F1 without blacklisted words."""
    return _described(_ENGLISH, prediction, ground_truth, gold_ans)


def qa_f1_zh_score_described(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """The two-stage metric of the paper, in Chinese: keyword recall, then F1 without blacklisted words."""
    return _described(_CHINESE, prediction, ground_truth, gold_ans)


def rouge_zh_score(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """ROUGE-L of the two texts' jieba words, punctuation included; `gold_ans` is not looked at."""
    return _rouge_l(" ".join(_cut(_text(prediction))), " ".join(_cut(ground_truth)))


def rouge_zh_score_blacklist(prediction: str, ground_truth: str, gold_ans: str | None = None) -> float:
    """ROUGE-L of the two texts' normalised words without the blacklist. Both protocols of dureader_mixup."""
    return _rouge_l(_chinese_words(_text(prediction)), _chinese_words(ground_truth))


def file_score(scores: list[float]) -> float:
    """A file's score: 100 times the mean of its rows' scores, rounded to two places; ValueError without rows."""
    if not scores:
        raise ValueError("a file without rows has no score")
    total = 0.0
    for score in scores:  # Not sum(): from Python 3.12 on it compensates rounding errors, the published loop did not.
        total += score
    return round(100 * total / len(scores), 2)


# --- how a score came about -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Working:
    """What a `released` F1 metric counted: two stages, as a reader can check them by hand."""

    keywords: Tokens  # what stage 1 looks for, in order; empty: there is no stage 1
    ignored: tuple[int, ...]  # places in `keywords` of blacklisted words: never found, yet part of the denominator
    found: tuple[int, ...]  # places in `keywords` of those that the prediction holds
    least_recall: float  # stage 1 passes from here on
    overlap: int  # tokens that prediction and truth share
    prediction_tokens: int
    truth_tokens: int

    @property
    def passes(self) -> bool:
        """Whether stage 1 lets the answer through."""
        return not self.keywords or len(self.found) / len(self.keywords) >= self.least_recall

    @property
    def f1(self) -> float:
        """Stage 2, whatever stage 1 said."""
        if self.overlap == 0:
            return 0.0
        precision, recall = self.overlap / self.prediction_tokens, self.overlap / self.truth_tokens
        return 2 * precision * recall / (precision + recall)

    @property
    def score(self) -> float:
        """The metric's value."""
        return self.f1 if self.passes else 0.0


def working(
    metric: Callable[..., float], prediction: str, ground_truth: str, gold_ans: str | None = None
) -> Working | None:
    """The counts behind `metric(prediction, ground_truth, gold_ans)`; None for a metric that is no released F1."""
    if metric not in _WORKINGS:
        return None
    language, gated = _WORKINGS[metric]
    answer, truth = language.tokens(_text(prediction)), language.tokens(ground_truth)
    keywords = _keywords(language, gold_ans) if gated else ()
    if gated and language is _CHINESE:
        keywords = keywords or truth
    left = Counter(answer)
    found = []
    for place, word in enumerate(keywords):
        if word not in language.blacklist and left[word]:
            left[word] -= 1
            found.append(place)
    return Working(
        keywords=keywords,
        ignored=tuple(place for place, word in enumerate(keywords) if word in language.blacklist),
        found=tuple(found),
        least_recall=language.least_recall,
        overlap=_overlap(answer, truth),
        prediction_tokens=len(answer),
        truth_tokens=len(truth),
    )


_WORKINGS: dict[Callable[..., float], tuple[_Language, bool]] = {  # metric -> its language, whether it has a stage 1
    qa_f1_score: (_ENGLISH, False),
    qa_f1_zh_score: (_CHINESE, False),
    qa_f1_score_with_gold_ans: (_ENGLISH, True),
    qa_f1_zh_score_with_gold_ans: (_CHINESE, True),
}


def informative_tokens(text: str, language: str) -> Tokens:
    """The tokens of `text` that tell something about an answer: none of the blacklist of `language` ("en" or "zh")."""
    rules = _CHINESE if language == "zh" else _ENGLISH
    return _without(rules.tokens(text), rules.blacklist)


def normal_text(text: str, language: str) -> str:
    """`text` as the metrics compare it, in one piece: English tokens joined by spaces, Chinese ones by nothing."""
    if language != "zh":
        return " ".join(_english_tokens(text))
    return "".join(text.lower().translate(_NO_CHINESE_PUNCTUATION).split())  # no need to cut what is joined again


# --- ROUGE-L --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _chinese_words(text: str) -> str:
    """`text` as the published scorer hands it to ROUGE-L.

    Two quirks are kept: the words are joined by spaces and cut once more, which can split them further, and a word
    that normalises to nothing stays as an empty one between two spaces.
    """
    words: list[str] = []
    for word in _cut(text):
        # No cut reaches over a space, so cutting the joined text again is cutting each word again: most are known.
        words += [*_cut_again(word), ""]
    return " ".join(word for word in words[:-1] if word not in CHINESE_BLACKLIST)


@lru_cache(maxsize=65536)
def _cut_again(word: str) -> Tokens:
    return tuple(map(_normal_chinese, _cut(word)))


def _rouge_l(prediction: str, truth: str) -> float:
    """The ROUGE-L F value of the `rouge` package 1.0.1 (its summary-level variant), 0 if a side has no sentence.

    Written anew because the package recurses once a word, so that its value depends on Python's recursion limit from
    about 1,000 words on, and because it fills a dictionary cell by cell.
    """
    predicted, true = _sentences(prediction), _sentences(truth)
    if not predicted or not true:
        return 0.0
    # Distinct words, on every side: that is how the package counts.
    common: set[str] = set().union(*(_common_subsequence(one, other) for one in true for other in predicted))
    recall = len(common) / len(set().union(*true))
    precision = len(common) / len(set().union(*predicted))
    return 2.0 * (precision * recall / (precision + recall + 1e-8))


def _sentences(text: str) -> list[list[str]]:
    """The words of each sentence. As in the package, blank text between two full stops is one empty word."""
    return [sentence.split() or [""] for sentence in text.split(".") if sentence]


def _common_subsequence(truth: list[str], prediction: list[str]) -> set[str]:
    """The words of the one longest common subsequence that the package traces.

    The table of lengths is kept as one integer a row (Hyyrö 2004): bit j of `rows[i]` is 0 where the length grows from
    prediction[:j] to prediction[:j + 1] against truth[:i]. From the end the trace takes equal words, and on a mismatch
    goes up only if table[i - 1, j] > table[i, j - 1], which is just where the length grows at j.
    """
    places: dict[str, int] = {}
    for j, word in enumerate(prediction):
        places[word] = places.get(word, 0) | 1 << j
    row = full = (1 << len(prediction)) - 1
    rows = [row]
    for word in truth:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & full
        rows.append(row)

    common: set[str] = set()
    i, j = len(truth), len(prediction)
    while i and j:
        if truth[i - 1] == prediction[j - 1]:
            common.add(truth[i - 1])
            i, j = i - 1, j - 1
        elif rows[i] >> j - 1 & 1:
            j -= 1
        else:
            i -= 1
    return common
