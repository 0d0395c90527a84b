"""Synthetic articles: distractors of any amount that say nothing about the world.

articles = synthetic_articles("en", seed=42, size=100_000)
"""

import functools
import hashlib
import json
import random
import re
from typing import Any

from lveval.construct.sources import SAMPLES, Document, read_text, text_length


def seeded(*parts: object) -> random.Random:
    """A generator that depends on `parts` only: not on PYTHONHASHSEED, not on what was drawn
    before.
    """
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - repeatable data, no secret


# {10-99}, {word}, [one|two]
SLOT = re.compile(r"\{(\d+)-(\d+)\}|\{(\w+)\}|\[([^\[\]]+)\]")


def expand(
    template: str, words: dict[str, list[str]], own: dict[str, str], rng: random.Random
) -> str:
    """Fill the slots of a template, and those of what fills them, from `own` and then `words`.

    samples/fiction_en.json says how a template is read.
    """

    def fill(match: re.Match[str]) -> str:
        low, high, name, options = match.groups()
        if low:
            return str(rng.randint(int(low), int(high)))
        text = own[name] if name in own else rng.choice(words[name] if name else options.split("|"))
        return SLOT.sub(fill, text)

    return SLOT.sub(fill, template)


@functools.lru_cache(maxsize=4)
def synthetic_articles(language: str, seed: int, size: int) -> list[Document]:
    """Made-up articles, `size` words or characters of them in all, in which no sentence and no
    title occurs twice.

    samples/fiction_<language>.json holds the grammar and says how to read it.
    """
    grammar: dict[str, Any] = json.loads(read_text(SAMPLES / f"fiction_{language}.json"))
    words, rng = grammar["words"], seeded(seed, "fiction", language)
    own: dict[str, str] = {}  # the article's own names
    seen: set[str] = set()

    def fresh(template: str) -> str | None:
        text = expand(template, words, own, rng)
        text = text[0].upper() + text[1:]
        if text in seen:
            return None
        seen.add(text)
        return text

    articles: list[Document] = []
    total = 0
    while total < size:
        topic = rng.choice(grammar["topics"])
        own.clear()
        for name, template in topic["set"].items():
            own[name] = expand(template, words, own, rng)
        own["it"] = topic.get("it", own["name"])
        title, body = fresh(rng.choice(topic["title"])), fresh(rng.choice(topic["first"]))
        if title is None or body is None:
            continue
        rest = topic["then"] + rng.sample(grammar["anywhere"], 4)
        rng.shuffle(rest)
        goal = rng.randint(*grammar["size"])
        while rest and text_length(body, language) < goal:
            sentence = fresh(rest.pop())
            body += grammar["between"] + sentence if sentence else ""
        articles.append(Document.of(f"{title}\n{body}", language))
        total += articles[-1].cost
    return articles
