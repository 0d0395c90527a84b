"""What data are built from: questions with their documents, and distractors.

sources = read_sources(SAMPLES, "lic_mixup")
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lveval import config
from lveval.common.errors import UsageError

SAMPLES = Path(__file__).resolve().parent / "samples"
SEPARATOR = "\n\n"

# Answers that any distractor may hold without giving something away.
YES_NO = {"yes", "no", "true", "false", "是", "否", "不是", "有", "没有", "对", "不", "能", "不能"}


def text_length(text: str, language: str) -> int:
    """The length of `text` as the benchmark counts it: words of English, characters of Chinese."""
    return len(text.split()) if language == "en" else len(text)


class Document(NamedTuple):
    """A text and what it adds to a context's length (in Chinese with its separator)."""

    text: str
    cost: int

    @classmethod
    def of(cls, text: str, language: str) -> "Document":
        """Measure `text`."""
        return cls(text, text_length(text, language) + (0 if language == "en" else len(SEPARATOR)))


class Phrases:
    """Whole phrases to find or to replace in one pass from left to right, the longest first where
    several begin.

    An English phrase has to end at word boundaries ("Ann" is not in "Annual"); in Chinese, which
    has none, that holds for Latin letters and digits only ("3" is not in "1983").
    """

    def __init__(self, new: dict[str, str], language: str) -> None:
        self.new = new
        self.phrases = sorted(new, key=lambda phrase: (-len(phrase), phrase))
        word = r"\w" if language == "en" else "[A-Za-z0-9]"
        parts = []
        for phrase in self.phrases:
            left, right = (
                language == "en" or re.match(word, phrase[end]) is not None for end in (0, -1)
            )
            parts.append(f"(?<!{word})" * left + re.escape(phrase) + f"(?!{word})" * right)
        self.pattern = re.compile("|".join(parts))

    def found(self, text: str) -> bool:
        """Whether one of the phrases is in `text`."""
        # `in` is some ten times faster than the pattern and rules out nearly every text.
        return (
            any(phrase in text for phrase in self.phrases) and self.pattern.search(text) is not None
        )

    def replace(self, text: str) -> str:
        """`text` with each phrase as `new` has it.

        What was put in is never replaced again, so pairs can swap.
        """
        return (
            self.pattern.sub(lambda match: self.new[match[0]], text) if self.found(text) else text
        )


def is_text(value: object) -> bool:
    """Whether `value` is text with something in it that UTF-8 can hold (JSON can escape lone
    surrogates, it cannot).
    """
    return (
        isinstance(value, str) and bool(value.strip()) and not re.search(r"[\ud800-\udfff]", value)
    )


def is_list(value: object) -> bool:
    """Whether `value` is a list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


def is_replacements(value: list[list[str]]) -> bool:
    """Whether `value` is a list of [old, new] texts, no old one twice."""
    return (
        isinstance(value, list)
        and all(is_list(x) and len(x) == 2 for x in value)
        and len(dict(value)) == len(value)
    )


# A source's fields: the check and what it expects; those of OPTIONAL can be left out.
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "question_id": (is_text, "text"),
    "language": (lambda value: value in ("en", "zh"), "en or zh"),
    "question": (is_text, "text"),
    "answers": (lambda value: is_list(value) and value != [], "a list of one text or more"),
    "documents": (lambda value: is_list(value) and value != [], "a list of one text or more"),
    "answer_keywords": (lambda value: value is None or is_text(value), "text or null"),
    "confusing_facts": (is_list, "a list of texts"),
    "replacements": (is_replacements, "a list of [old, new] texts, no old one twice"),
}

OPTIONAL: dict[str, Any] = {"answer_keywords": None, "confusing_facts": [], "replacements": []}


class Source:
    """One question and what belongs to it, the replacement applied to all of it.

    `names` are in no distractor. `most_facts`: of its confusing facts only so many, from the first;
    without `replacing` phrases stay as they are.

    Raises LVEvalError `origin: field: found, expected` for a value that does not have the format.
    """

    def __init__(
        self,
        raw: object,
        origin: str,
        language: str,
        names: Sequence[str] = (),
        most_facts: int | None = None,
        replacing: bool = True,
    ) -> None:
        own: dict[str, Any] = raw if isinstance(raw, dict) else {}
        fields = OPTIONAL | own
        for name in sorted(FIELDS.keys() ^ fields.keys()):
            found = f"found the fields {', '.join(own) or '(none)'}; expected {', '.join(FIELDS)}"
            raise UsageError(
                f"{origin}: {name}: {'unknown' if name in fields else 'missing'}; {found}"
            )
        for name, (good, expected) in FIELDS.items():
            if not good(fields[name]) or (name == "language" and fields[name] != language):
                expected += f" ({language} in this subset)" if name == "language" else ""
                raise UsageError(
                    f"{origin}: {name}: found {json.dumps(fields[name])[:80]}; expected {expected}"
                )
        self.origin = origin
        pairs = dict(fields["replacements"]) if replacing else {}
        replace = self.replace = Phrases(pairs, language).replace
        self.question_id: str = fields["question_id"]
        self.question = replace(fields["question"])
        self.answers = list(map(replace, fields["answers"]))
        self.keywords = fields["answer_keywords"] and replace(fields["answer_keywords"])
        self.documents = [Document.of(replace(text), language) for text in fields["documents"]]
        self.facts = [replace(text).strip() for text in fields["confusing_facts"][:most_facts]]
        self.cost = sum(text.cost for text in self.documents) + sum(
            text_length(text, language) for text in self.facts
        )
        # The answer under its old name would give it away as much as under the new one.
        telling = {
            *fields["answers"],
            *self.answers,
            fields["answer_keywords"] or "",
            self.keywords or "",
            *names,
        }
        telling = {
            text.strip()
            for text in telling
            if text.strip() and text.strip().casefold() not in YES_NO
        }
        self.telling = Phrases(dict.fromkeys(telling, ""), language)


def read_text(path: Path) -> str:
    """The file's text; an LVEvalError where there is none to read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: found no text ({error}); expected a file in UTF-8") from error


def read_jsonl(path: Path) -> Iterator[tuple[str, object]]:
    """Each line of a JSONL file that is not blank, as (`path:line`, value)."""
    for number, line in enumerate(
        read_text(path).split("\n"), 1
    ):  # not splitlines(): texts may hold U+2028
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UsageError(
                    f"{path}:{number}: found no JSON ({error}); expected one object a line"
                ) from error


@functools.lru_cache
def read_sources(
    folder: Path, subset: str, most_facts: int | None = None, replacing: bool = True
) -> list[Source]:
    """The questions of `<folder>/<subset>.jsonl`, in the file's order; the rest as for Source."""
    path, language = folder / f"{subset}.jsonl", config.DATASET_LANGUAGE[subset]
    sources = [
        Source(raw, origin, language, most_facts=most_facts, replacing=replacing)
        for origin, raw in read_jsonl(path)
    ]
    if not sources:
        raise UsageError(f"{path}: found no line; expected one question a line")
    for number, source in enumerate(sources):
        if any(source.question_id == other.question_id for other in sources[:number]):
            raise UsageError(
                f"{source.origin}: question_id: found {source.question_id} again; expected a new "
                "one"
            )
    return sources


@functools.lru_cache
def read_distractors(folder: Path) -> dict[str, list[Document]]:
    """Language -> the folder's different documents: .txt files (one each), .jsonl lines ("text" or
    "context").

    A document is Chinese where a fifth of its characters are.
    """
    texts: dict[str, None] = {}  # a dict keeps the order and drops what occurs twice
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".jsonl")):
        for origin, raw in (
            read_jsonl(path) if path.suffix == ".jsonl" else [(path, {"text": read_text(path)})]
        ):
            text = raw.get("text", raw.get("context")) if isinstance(raw, dict) else None
            if not isinstance(text, str) or (text.strip() and not is_text(text)):
                raise UsageError(
                    f'{origin}: text: found {json.dumps(raw)[:80]}; expected "text" or "context"'
                )
            texts[text.strip()] = None
    texts.pop("", None)
    if not texts:
        raise UsageError(f"{folder}: found no documents; expected a folder of .txt or .jsonl files")
    found: dict[str, list[Document]] = {"en": [], "zh": []}
    for text in texts:
        language = "zh" if 5 * len(re.findall(r"[\u3400-\u9fff]", text)) > len(text) else "en"
        found[language].append(Document.of(text, language))
    return found
