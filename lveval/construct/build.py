"""Rows in LV-Eval's style: mix-up, confusing facts, replaced keywords and phrases.

row = build_row(BuildSpec(42, SAMPLES), "lic_mixup", "16k", 0)
"""

import functools
import itertools
import json
import re
from pathlib import Path
from typing import NamedTuple

from lveval import config
from lveval.common.errors import UsageError
from lveval.construct.fresh import canary, fresh_source
from lveval.construct.near import nearest
from lveval.construct.sources import (
    SAMPLES,
    SEPARATOR,
    Document,
    Source,
    read_distractors,
    read_sources,
    text_length,
)
from lveval.construct.synthetic import seeded, synthetic_articles
from lveval.results import ONE_QUESTION

UNITS = {"en": "words", "zh": "characters"}

# Made-up articles per language: a context is a seeded sample of them. A level above half of it gets
# twice its own size.
POOL_SIZE = 600_000
# Where `--depths even` puts the evidence: the middle of each tenth of the context
EVEN = tuple(tenth / 100 for tenth in range(5, 100, 10))
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


def fill_up(documents: list[Document], wanted: int, size: int, language: str) -> list[str]:
    """Texts of `documents` from the first on that cost `wanted`, or nearly so; the last one may be
    cut.
    """
    slack = min(MAX_SLACK, int(TOLERANCE * size))
    chosen: list[str] = []
    for document in documents:
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
    """What decides the rows."""

    seed: int
    sources: Path = SAMPLES
    distractors: Path | None = None  # synthetic articles
    near: bool = False  # distractors that are most like the question, not any
    most_facts: int | None = None  # confusing facts of a question; None: all that it has
    replacing: bool = True
    depths: tuple[float, ...] = ()  # of the evidence; (): anywhere
    fresh: int | None = None  # seed of questions that are made anew instead of `sources`

    def number(self, subset: str, index: int) -> int:
        """Which question row `index` asks. Raises UsageError where the sources cannot be read."""
        if self.fresh is not None:
            return 0 if subset in ONE_QUESTION else index
        return index % len(self._sources(subset))

    def question(self, subset: str, number: int) -> Source:
        """The question of that number; raises as `number`."""
        if self.fresh is not None:
            return fresh_source(self.fresh, subset, number, self.most_facts)
        return self._sources(subset)[number]

    def _sources(self, subset: str) -> list[Source]:
        return read_sources(self.sources, subset, self.most_facts, self.replacing)

    def pool(self, language: str, size: int) -> list[Document]:
        """What the distractors of a context of `size` are taken from."""
        if self.distractors:
            return read_distractors(self.distractors)[language]
        return synthetic_articles(
            language, self.seed, POOL_SIZE if size <= POOL_SIZE // 2 else 2 * size
        )

    def depth(self, subset: str, level: str, index: int) -> float | None:
        """Where the evidence of a row is to stand; None: anywhere.

        Of as many rows as there are depths each has one.
        """
        if not self.depths:
            return None
        turn, place = divmod(index, len(self.depths))
        rng = seeded(self.seed, "depths", subset, level, turn)
        return rng.sample(self.depths, len(self.depths))[place]


@functools.lru_cache(maxsize=256)
def candidates(recipe: BuildSpec, subset: str, number: int, size: int) -> list[Document]:
    """The distractors for question `number` of a subset in a context of `size`: replaced, none that
    gives it away; the nearest first where `near` ones are wanted.

    A document that holds an answer, the keywords or the evidence is left out. LVEvalError where
    too few remain.
    """
    language, source = config.DATASET_LANGUAGE[subset], recipe.question(subset, number)
    documents = recipe.pool(language, size)
    if recipe.near:
        documents = nearest(documents, source.question)
    kept = []
    for document in documents:
        text = source.replace(document.text)
        spoilt = any(map(source.telling.found, {text, document.text}))
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


def put_evidence(
    evidence: list[list[Segment]], others: list[list[Segment]], depth: float
) -> list[list[Segment]]:
    """All blocks, the evidence together between those others where `depth` is nearest.

    `depth`: 0, all others after it, to 1, all before.
    """
    sizes = [sum(len(text) for _, text in block) for block in others]
    before = [0, *itertools.accumulate(sizes)]
    place = min(range(len(before)), key=lambda at: abs(before[at] - depth * before[-1]))
    return others[:place] + evidence + others[place:]


def build_row(recipe: BuildSpec, subset: str, level: str, index: int) -> dict[str, object]:
    """Row `index` of a file: the published fields, `question_id`, `offsets` into the final context,
    and the canary of fresh questions.
    """
    language, size = config.DATASET_LANGUAGE[subset], level_size(level)
    number = recipe.number(subset, index)
    source = recipe.question(subset, number)
    rng = seeded(recipe.seed, subset, level, index)
    pool = candidates(recipe, subset, number, size)
    order = pool if recipe.near else rng.sample(pool, len(pool))
    hosts: list[list[Segment]] = [
        [(None, text)] for text in fill_up(order, size - source.cost, size, language)
    ]
    evidence: list[list[Segment]] = [
        [(("evidence", i), document.text)] for i, document in enumerate(source.documents)
    ]
    loose: list[list[Segment]] = []  # confusing facts that no distractor can hold
    for i, fact in enumerate(source.facts):
        piece: Segment = (("confusing_facts", i), fact)
        if not hosts:
            loose.append([piece])
            continue
        host = rng.choice(hosts)
        tail = host[-1][1]  # a distractor with a fact in it already takes the next one further down
        place = rng.choice([match.end() for match in SENTENCE_END.finditer(tail)] or [len(tail)])
        host[-1:] = [(None, tail[:place] + " " * (language == "en")), piece, (None, tail[place:])]
    depth = recipe.depth(subset, level, index)
    if depth is None:
        blocks = hosts + evidence + loose
        rng.shuffle(blocks)
    else:
        others = hosts + loose
        rng.shuffle(others)
        rng.shuffle(evidence)
        blocks = put_evidence(evidence, others, depth)
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
        **({} if recipe.fresh is None else {"canary": canary(recipe.fresh)}),
    }


def build_lines(recipe: BuildSpec, subset: str, level: str, indices: range) -> bytes:
    """Some rows of a file as JSON lines."""
    rows = (build_row(recipe, subset, level, index) for index in indices)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
