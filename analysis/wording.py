"""What an answer's wording shows without knowing the truth: refusals, loops, its script, its numbers.

    wording.unrefused("The article does not say. It may be Brosk.")      # " It may be Brosk\n"

English and Chinese alike; models answer in either. Used by causes.py, whose definitions docs/causes.md states.
"""

import re

# An answer that ends with at least this many words or characters in at least so many whole copies of one piece loops:
# "New York, New York" does not, "Hanno Peverick Hanno Peverick Hanno Peverick" does.
LOOP_COPIES = 3
LOOP_UNITS = 6
LATIN_WORD = 2  # one word of an alphabet says about as much as two Chinese characters

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_KANA = "\u3040-\u30ff"
_UNIT = re.compile(rf"[{_HAN}{_KANA}]|[^\W_{_HAN}{_KANA}]+")
_HAN_RUN = re.compile(f"[{_HAN}]+")
_KANA_LETTER = re.compile(f"[{_KANA}]")
_ALPHABET_WORD = re.compile(rf"[^\W\d_{_HAN}{_KANA}]+(?:['’-][^\W\d_{_HAN}{_KANA}]+)*")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_STUCK = re.compile(r"(.{1,3}?)\1{3,}.{0,2}", re.DOTALL)
_STUCK_LENGTH = 12  # characters of one "word" such as "hahahahahaha"
_CLAUSE_END = re.compile(r"[.!?;:,](?=\s|$)|[。！？；：，\n]")

_ARTICLE = r"(?:articles?|texts?|passages?|context|documents?|story|information|paragraphs?|materials?|question)"
_REFUSAL = re.compile(
    "|".join(
        (
            r"\b(?:can(?:no|['’])t|can not|could(?: not|n['’]t)|unable to|(?:not|n['’]t) able to|not possible to)"
            r"(?: \w+){0,3}? (?:answer|find|determine|provide|locate|tell|say|help|assist|identify|infer|give|comply)\b",
            rf"\b{_ARTICLE}\b(?: \w+){{0,6}}? (?:(?:do|does|did|is|are|was)(?: not|n['’]t)|never|fails? to|lacks?)\b",
            r"\bi (?:do not|don['’]t) (?:know|have)\b",
            rf"\b(?:not|never|n['’]t)(?: \w+){{0,2}}? (?:mentioned|stated|specified|provided|given|found|answered|said"
            rf"|disclosed|available|contained)\b(?: \w+){{0,2}}? (?:in|by|from) (?:\w+ ){{0,3}}?{_ARTICLE}\b",
            r"\b(?:no|not enough|insufficient|lack of)(?: \w+){0,2}? (?:information|mention|evidence|answer|details)\b",
            r"\bas an ai\b",
            r"^\W*(?:the answer is )?(?:unknown|unanswerable|n/?a|not (?:specified|mentioned|stated|given|available|known"
            r"|provided|found)|no answer|sorry|unclear|no idea)\W*$",
            r"(?:无法|不能|没法|难以|无从)[^。]{0,6}?(?:回答|确定|得知|判断|找到|提供|得出|知道|作答|推断|确认|获知)",
            r"(?:文中|文章|原文|材料|上文|全文|资料|本文|段落|内容|信息|上下文|文本)[^。]{0,10}?"
            r"(?:没有|未|没|不曾|并无)[^。]{0,6}?(?:提到|提及|说明|给出|写|包含|提供|涉及|记载|交代|明确|介绍|找到|信息)",
            r"(?:没有|未|缺乏|缺少)(?:\w{0,4}?)(?:相关|足够|有关|任何)(?:\w{0,2}?)(?:信息|内容|答案|依据)",
            r"信息不足|依据不足",
            r"^\W*(?:答案)?(?:我)?(?:不知道|不清楚|不详|未知|没有答案|暂无|(?:文中)?(?:未|没有)(?:提及|提到|说明|给出)|抱歉|对不起)\W*$",
        )
    ),
    re.IGNORECASE,
)
_GUESS = re.compile(
    r"\b(?:probably|likely|perhaps|maybe|possibly|guess|assume|suppose|might|may)\b|可能|也许|大概|或许|猜|应该是|推测", re.I
)
_REASONING = re.compile(
    r"\W*(?:ok(?:ay)?\b|let(?:['’]s| me| us)\b|to (?:find|answer|determine|solve|compare|work out)\b|first(?:ly)?\b|"
    r"(?:we|i) (?:need|have|will|must|should)\b|step\b|alright\b|hmm\b|so,|"
    r"好的|首先|我们?(?:需要|来|先|要)|让我|要(?:比较|回答|找|知道)|先看|嗯|第一步)",
    re.IGNORECASE,
)


def words(text: str) -> list[str]:
    """Letters and digits only, in lower case: words of an alphabet, numbers, single Chinese or Japanese characters."""
    return _UNIT.findall(text.lower())


def numbers(text: str) -> set[str]:
    """The numbers written in digits, without thousands separators."""
    return {number.replace(",", "") for number in _NUMBER.findall(text)}


def unrefused(text: str) -> str:
    """`text` without its clauses that say that no answer can be given; `text` itself where there are none."""
    clauses = _CLAUSE_END.split(text)
    left = [clause for clause in clauses if not _REFUSAL.search(clause)]
    return text if len(left) == len(clauses) else "\n".join(left)


def guesses(text: str) -> bool:
    """Whether `text` offers an answer as a guess."""
    return _GUESS.search(text) is not None


def opens_reasoning(line: str) -> bool:
    """Whether an answer that begins with `line` thinks aloud first."""
    return _REASONING.match(line) is not None


def loops(text: str) -> bool:
    """Whether the answer's end repeats one piece over and over; its last word may be cut off."""
    units = words(text)
    if units and len(units[-1]) >= _STUCK_LENGTH and _STUCK.fullmatch(units[-1]):
        return True
    return _repeats(units) or _repeats(units[:-1])


def _repeats(units: list[str]) -> bool:
    """Whether a suffix of at least LOOP_UNITS units is LOOP_COPIES or more copies of its own beginning."""
    for period in range(1, len(units) // LOOP_COPIES + 1):
        length = period
        while length < len(units) and units[-1 - length] == units[-1 - length + period]:
            length += 1
        if length >= max(LOOP_COPIES * period, LOOP_UNITS):
            return True
    return False


def wrong_script(text: str, language: str, known: str) -> bool:
    """Whether more of `text` is in another script than in that of `language` ("zh": Chinese characters, else Latin).

    Digits count for neither, nor do words that stand in `known`, abbreviations in capitals and single letters; in a
    Chinese text that has Chinese characters, nor do capitalised words, which are names. Languages of the same script
    cannot be told apart.
    """
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
        if word.lower() not in ours and not word.isupper() and len(word) > 1 and not (han and word[0].isupper())
    ]
    return foreign + LATIN_WORD * len(counted) > han
