"""What an answer's wording shows without the truth: refusals, loops, its script, its numbers.

    answer_text.without_refusals("The article does not say. It may be Brosk.")

English and Chinese alike; models answer in either. Used by causes.py, whose definitions
docs/causes.md states.
"""

import re

from lveval.common.remembered import remembered

# An answer loops if its end has at least so many words or characters, in so many copies of a piece:
# "New York, New York" does not loop, "Hanno Peverick Hanno Peverick Hanno Peverick" does.
LOOP_COPIES = 3

LOOP_UNITS = 6

LATIN_WORD = 2  # one word of an alphabet says about as much as two Chinese characters


# Words around an answer that are no part of it.
FILLERS = frozenset(
    """
    i think believe guess answer according article text passage probably likely perhaps maybe
    possibly so therefore based say says said mentioned not
    我 认为 觉得 答案 根据 文章 文中 可能 大概 应该 所以 因此 就是
    """.split()  # noqa: SIM905 - a list of 34 quoted words is harder to check
)


_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"

_KANA = "\u3040-\u30ff"

_UNIT = re.compile(rf"[{_HAN}{_KANA}]|[^\W_{_HAN}{_KANA}]+")

_HAN_RUN = re.compile(f"[{_HAN}]+")

_KANA_LETTER = re.compile(f"[{_KANA}]")

_ALPHABET_WORD = re.compile(rf"[^\W\d_{_HAN}{_KANA}]+(?:['’-][^\W\d_{_HAN}{_KANA}]+)*")

_ASCII_LETTER = re.compile("[A-Za-z]")

_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")

_STUCK = re.compile(r"(.{1,3}?)\1{3,}.{0,2}", re.DOTALL)

_STUCK_LENGTH = 12  # characters of one "word" such as "hahahahahaha"

_LIST_NUMBER = re.compile(r"(?<!\S)\d+[.)、]\s*(?=\D)")

_BRACKETS = re.compile(r"[(（][^()（）]*[)）]")

_CLAUSE_END = re.compile(r"[.!?;:,](?=\s|$)|[。！？；：，\n]")


# --- how models say that they cannot answer, in English and in Chinese ---
# A clause declines if it denies that the source says something (one word of each kind) ...
_DENIAL = re.compile(
    r"\b(?:not|no|never|none|nothing|nowhere|neither|without|cannot|unable|impossible|insufficient"
    r"|silent|\w+n['’]t|fail\w*|lack\w*|omit\w*|un(?:clear|known|specified|stated|mentioned))\b|没|未|不|无|缺",
    re.IGNORECASE,
)

_SOURCE = re.compile(
    r"\b(?:articles?|texts?|passages?|contexts?|documents?|story|paragraphs?|materials?"
    r"|excerpts?|sources?)\b|文中|文章|原文|材料|上文|全文|文里|资料|本文|段落|上下文|文本|文档|题目|所给|提供的",
    re.IGNORECASE,
)

_TELLING = re.compile(
    r"\b(?:mention|stat(?:e|ing)|specif|provid|contain|includ|giv|tell|told|sa[yi]|indicat|discuss"
    r"|describ|reveal|disclos|identif|address|expla|answer|cover|clear|know|offer|name|refer"
    r"|determin|find|found|infer|detail|information|omit|silent)\w*"
    r"|提到|提及|说|给|写|包含|提供|涉及|记载|交代|明确|介绍|描述|找|查|信息|答|依据|线索|数据|判断"
    r"|确定|推断",
    re.IGNORECASE,
)

# ... or speaks one of these phrases.
_TOLD = (
    r"(?:mentioned|stated|specified|indicated|disclosed|given|provided|said|told|known|clear"
    r"|explained|described)"
)

_ABLE = (
    r"(?:answer|find|determine|provide|locate|tell|say|help|assist|identify|infer|give|comply|know"
    r"|conclude|deduce|see)"
)

_ASKED = (
    r"(?= (?:in|by|from|about|on|who|what|when|which|where|why|how|whether|if|anywhere|here)\b"
    r"|\W*$)"
)

_ZH_TELL = "(?:提到|提及|说明|给出|交代|明确|介绍|描述|记载)"

# Two patterns: most texts have letters of one script, and a search for the other takes its time.
_ENGLISH_REFUSAL = re.compile(
    "|".join(
        (
            rf"\b(?:cannot|can['’]t|can not|could not|couldn['’]t|unable to"
            rf"|(?:not|\w+n['’]t) (?:able|possible) to|impossible to|(?:hard|difficult) to"
            rf"|no way to)(?: \w+){{0,3}}? {_ABLE}\b",
            r"\b(?:cannot|can['’]t|can not|could not|couldn['’]t) be (?:\w+ly )?"
            r"(?:answered|determined|found|known|told|inferred|established|identified|said|seen|deduced|concluded)\b",
            r"\bremains? (?:unknown|unclear|unspecified)\b|\bas an ai\b",
            r"\bi (?:do not|don['’]t|did not|didn['’]t) (?:know|have|see|find)\b|\bi have no\b",
            r"\bi(?: a|['’])m (?:not sure|unsure)\b",
            rf"(?:^\W*|\b(?:it|this|that|answer|name|is|are|was|were|been) )"
            rf"(?:not|never|nowhere|\w+n['’]t)(?: \w+){{0,2}}? {_TOLD}{_ASKED}",
            rf"\b(?:nothing|no \w+(?: \w+)?) (?:is|are|was|were) (?:\w+ )?"
            rf"(?:{_TOLD}|named|found){_ASKED}",
            r"\b(?:no|not enough|n['’]t enough|n['’]t any|insufficient|lack of)(?: \w+){0,2}?"
            r" (?:information|mention|evidence|answer|details?|data|reference)\b",
            r"^\W*(?:the answer is )?(?:unknown|unanswerable|n/?a|unclear|unspecified|undisclosed"
            r"|no idea|no answer|sorry|not (?:available|found|sure|applicable))\W*$",
        )
    ),
    re.IGNORECASE,
)

_CHINESE_REFUSAL = re.compile(
    "|".join(
        (
            "我(?:也|并|还)?(?:不知道|不清楚|不确定)",
            "(?:无法|不能|没法|没有办法|没办法|难以|无从|不足以)[^。]{0,12}?"
            "(?:回答|确定|得知|判断|找到|提供|得出|知道|作答|推断|确认|获知|给出|看出|得到|了解|解答"
            "|告诉)",
            f"(?:没有|并未|未曾|尚未|没|未)(?:明确|具体|直接)?(?:{_ZH_TELL}|说)",
            "(?:找|看|查|搜)不到|(?:没有|没能?|未能?)[^。]{0,8}?(?:找到|查到|看到|搜到)",
            "(?:没有|暂无|并无|未|缺乏|缺少)[^。]{0,4}?(?:相关|足够|有关|任何)[^。]{0,2}?"
            "(?:信息|内容|答案|依据|资料|描述)",
            "(?:信息|依据|资料|内容)不(?:足|够)|(?:答案|信息)[^。]{0,4}?不(?:明确|清楚|详|确定)",
            "^\\W*(?:答案)?我?(?:也|并)?(?:不知道|不清楚|不确定|不详|未知|没有答案|暂无|抱歉|对不起)\\W*$",
        )
    )
)

# Every clause that declines has one of these, and few answers have any: they are looked for first.
_MAY_DECLINE = re.compile(
    r"\b(?:no(?:t|ne|thing|where)?\b|n/?a\b|ne(?:ver|ither)|un(?:able|answerable|clear|disclosed|known"
    r"|mentioned|specified|stated|sure)|without|cannot|impossible|insufficient|silent|fail|lack|omit"
    r"|hard|difficult|sorry|as an ai)|n['’]t|[没未不无缺难抱]",
    re.IGNORECASE,
)

_GUESS = re.compile(
    r"\b(?:probably|likely|perhaps|maybe|possibly|guess|assume|suppose|might|may)\b"
    r"|可能|也许|大概|或许|猜|应该是|推测",
    re.IGNORECASE,
)

_REASONING = re.compile(
    r"\W*(?:ok(?:ay)?\b|let(?:['’]s| me| us)\b|to (?:find|answer|determine|solve|compare|work out)"
    r"\b|first(?:ly)?\b|(?:we|i) (?:need|have|will|must|should)\b|step\b|alright\b|hmm\b|so,|"
    r"好的|首先|我们?(?:需要|来|先|要)|让我|要(?:比较|回答|找|知道)|先看|嗯|第一步)",
    re.IGNORECASE,
)


def words(text: str) -> list[str]:
    """Find words of an alphabet, numbers and single Chinese or Japanese characters, lowercased."""
    return _UNIT.findall(text.lower())


def has_words(text: str) -> bool:
    """Whether there is one of `words`."""
    return _UNIT.search(text) is not None


def numbers(text: str) -> set[str]:
    """Find the numbers written in digits, without thousands separators."""
    return {number.replace(",", "") for number in _NUMBER.findall(text)}


@remembered(1024)  # a cause asks up to three times for a row's answer
def without_refusals(text: str) -> str:
    """Drop the clauses that say that no answer can be given; without any, `text` as it is."""
    if not _MAY_DECLINE.search(text):
        return text
    clauses = _CLAUSE_END.split(text)
    left = [clause for clause in clauses if not _declines(clause)]
    return text if len(left) == len(clauses) else "\n".join(left)


def _declines(clause: str) -> bool:
    if _ASCII_LETTER.search(clause) and _ENGLISH_REFUSAL.search(clause):
        return True
    if not clause.isascii() and _CHINESE_REFUSAL.search(clause):
        return True
    return all(kind.search(clause) for kind in (_DENIAL, _SOURCE, _TELLING))


def is_hedged(text: str) -> bool:
    """Whether `text` offers an answer as a guess."""
    return _GUESS.search(text) is not None


def starts_with_reasoning(line: str) -> bool:
    """Whether an answer that begins with `line` thinks aloud first."""
    return _REASONING.match(line) is not None


def is_repetitive(text: str) -> bool:
    """Whether the answer's end repeats one piece over and over; its last word may be cut off."""
    units = words(_LIST_NUMBER.sub("", text))
    if units and len(units[-1]) >= _STUCK_LENGTH and _STUCK.fullmatch(units[-1]):
        return True
    return _repeats(units) or _repeats(units[:-1])


def _repeats(units: list[str]) -> bool:
    """Whether LOOP_UNITS units or more at the end are LOOP_COPIES or more copies of a piece."""
    for period in range(1, len(units) // LOOP_COPIES + 1):
        if units[-1 - period] != units[-1]:  # mostly so: not even one copy
            continue
        length = period
        while length < len(units) and units[-1 - length] == units[-1 - length + period]:
            length += 1
        if length >= max(LOOP_COPIES * period, LOOP_UNITS):
            return True
    return False


def wrong_script(text: str, language: str, known: str) -> bool:
    """Whether most of `text` is not in the script of `language` ("zh": Chinese, else Latin).

    Not counted: digits; words in `known` or in brackets (a name in its own spelling); abbreviations
    in capitals and single letters; in an answer with Chinese characters, where these are asked for,
    capitalised words, which are names. Languages of one script cannot be told from each other.
    """
    outside = _BRACKETS.sub(" ", text)
    text = outside if has_words(outside) else text
    han = sum(map(len, _HAN_RUN.findall(text)))
    kana = len(_KANA_LETTER.findall(text))
    spelled = _ALPHABET_WORD.findall(text)
    latin = [word for word in spelled if _LATIN.match(word)]
    foreign = kana + LATIN_WORD * (len(spelled) - len(latin))
    if language != "zh":
        strange = sum(len(run) for run in _HAN_RUN.findall(text) if run not in known)
        return foreign + strange > LATIN_WORD * len(latin)
    ours = {word.lower() for word in _ALPHABET_WORD.findall(known)}
    counted = [
        word
        for word in latin
        if word.lower() not in ours
        and not word.isupper()
        and len(word) > 1
        and not (han and word[0].isupper())
    ]
    return foreign + LATIN_WORD * len(counted) > han
