"""Rows in LV-Eval's style: mix-up, confusing facts, replaced keywords and phrases.

row = build_row(BuildSpec(SAMPLES, None, 42), "lic_mixup", "16k", 0)
"""

import functools
import itertools
import json
import random
import re
from pathlib import Path
from typing import NamedTuple

from lveval import config
from lveval.common.errors import UsageError
from lveval.construct.sources import (
    SEPARATOR,
    Document,
    read_distractors,
    read_sources,
    text_length,
)
from lveval.construct.synthetic import seeded, synthetic_articles

UNITS = {"en": "words", "zh": "characters"}

# Made-up articles per language: a context is a seeded sample of them. A level above half of it gets
# twice its own size.
POOL_SIZE = 600_000
# How far a context may be from its level; 2 % is promised, and Chinese has its last separator less
TOLERANCE = 0.015
# The same in words or characters: half a long sentence, so that mostly a sentence ends near enough
MAX_SLACK = 25
SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|\Z)|[。！？…]+[”’」』）]*")
Segment = tuple[
    tuple[str, int] | None, str
]  # (what to record: "evidence" or "confusing_facts" and its number; text)


def level_size(level: str) -> int:
    """Words or characters of a level: "16k" -> 16000."""
    return 1000 * int(level[:-1])


def trim_to_length(text: str, wanted: int, slack: int, language: str) -> Document:
    """The beginning of `text` that costs `wanted`, or, where a sentence ends within `slack` of
    that, up to there.
    """
    place = wanted - len(SEPARATOR)
    if language == "en":
        word = next(itertools.islice(re.finditer(r"\S+", text), wanted - 1, None), None)
        place = word.end() if word else len(text)
    ends = [0, len(text)]  # the last before the place and the first after it
    for match in SENTENCE_END.finditer(text):
        ends[match.end() > place] = match.end()
        if match.end() > place:
            break
    nearest = min(
        (Document.of(text[:end], language) for end in ends if end),
        key=lambda piece: abs(piece.cost - wanted),
    )
    return nearest if abs(nearest.cost - wanted) <= slack else Document.of(text[:place], language)


def sample_distractors(
    rng: random.Random, pool: list[Document], wanted: int, size: int, language: str
) -> list[str]:
    """Texts from `pool` in random order, none twice, that cost `wanted`, or nearly so; the last one
    may be cut.
    """
    slack = min(MAX_SLACK, int(TOLERANCE * size))
    chosen: list[str] = []
    for document in rng.sample(pool, len(pool)):
        if wanted <= slack:
            break
        piece = (
            document
            if document.cost <= wanted
            else trim_to_length(document.text, wanted, slack, language)
        )
        chosen.append(piece.text)
        wanted -= piece.cost
    return chosen


class BuildSpec(NamedTuple):
    """What decides the rows; `distractors` None: synthetic articles."""

    sources: Path
    distractors: Path | None
    seed: int


@functools.lru_cache(maxsize=256)
def candidates(recipe: BuildSpec, subset: str, number: int, size: int) -> list[Document]:
    """The distractors for question `number` of a subset in a context of `size`: replaced, none that
    gives it away.

    A document that holds an answer, the keywords or the evidence is left out. LVEvalError where
    too few remain.
    """
    language, source = config.DATASET_LANGUAGE[subset], read_sources(recipe.sources, subset)[number]
    if recipe.distractors:
        documents = read_distractors(recipe.distractors)[language]
    else:
        documents = synthetic_articles(
            language, recipe.seed, POOL_SIZE if size <= POOL_SIZE // 2 else 2 * size
        )
    kept = []
    for document in documents:
        text = source.replace(document.text)
        spoilt = source.telling.found(document.text) or source.telling.found(text)
        if not spoilt and not any(evidence.text in text for evidence in source.documents):
            kept.append(document if text == document.text else Document.of(text, language))
    found, needed = sum(document.cost for document in kept), size - source.cost
    if found < needed - TOLERANCE * size:
        left_out = f"{len(documents) - len(kept):,} documents that hold the answer left out"
        wanted = (
            f"expected {needed:,} for a context of {size:,}; give more or name shorter --lengths"
        )
        raise UsageError(
            f"{source.origin}: found {found:,} {UNITS[language]} of distractors ({left_out}); "
            f"{wanted}"
        )
    return kept


def build_row(recipe: BuildSpec, subset: str, level: str, index: int) -> dict[str, object]:
    """Row `index` of a file: the published fields, `question_id`, and `offsets` into the final
    context.
    """
    language, size = config.DATASET_LANGUAGE[subset], level_size(level)
    sources = read_sources(recipe.sources, subset)
    source = sources[index % len(sources)]
    rng = seeded(recipe.seed, subset, level, index)
    pool = candidates(recipe, subset, index % len(sources), size)
    hosts: list[list[Segment]] = [
        [(None, text)] for text in sample_distractors(rng, pool, size - source.cost, size, language)
    ]
    alone: list[list[Segment]] = [
        [(("evidence", i), document.text)] for i, document in enumerate(source.documents)
    ]
    for i, fact in enumerate(source.facts):
        piece: Segment = (("confusing_facts", i), fact)
        if not hosts:
            alone.append([piece])
            continue
        host = rng.choice(hosts)
        tail = host[-1][1]  # a distractor with a fact in it already takes the next one further down
        place = rng.choice([match.end() for match in SENTENCE_END.finditer(tail)] or [len(tail)])
        host[-1:] = [(None, tail[:place] + " " * (language == "en")), piece, (None, tail[place:])]
    blocks = hosts + alone
    rng.shuffle(blocks)
    offsets = {
        "evidence": [[0, 0] for _ in source.documents],
        "confusing_facts": [[0, 0] for _ in source.facts],
    }
    parts: list[str] = []
    position = 0
    for block in blocks:
        for recorded, text in [*block, (None, SEPARATOR)]:
            if recorded is not None:
                offsets[recorded[0]][recorded[1]] = [position, position + len(text)]
            parts.append(text)
            position += len(text)
    context = "".join(parts[:-1])
    return {
        "input": source.question,
        "context": context,
        "answers": source.answers,
        "length": text_length(context, language),
        "dataset": subset,
        "language": language,
        "answer_keywords": source.keywords,
        "confusing_facts": source.facts or None,
        "all_classes": None,
        "question_id": source.question_id,
        "offsets": offsets,
    }


def build_lines(recipe: BuildSpec, subset: str, level: str, indices: range) -> bytes:
    """Some rows of a file as JSON lines."""
    rows = (build_row(recipe, subset, level, index) for index in indices)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
