"""Distractors that look like the question: ranked by BM25.

near = nearest(documents, "Which river flows through Velm?")
"""

import functools
import re
from typing import TYPE_CHECKING

from lveval.construct.sources import Document

if TYPE_CHECKING:
    from bm25s import BM25

TERM = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")  # a Chinese character or a word


def terms(text: str) -> list[str]:
    """What two texts can have in common."""
    return TERM.findall(text.lower())


@functools.lru_cache(maxsize=4)
def _index(documents: tuple[Document, ...]) -> "BM25":
    import bm25s

    index = bm25s.BM25(k1=1.2, b=0.75)  # as plugins/bm25.py ranks passages
    index.index([terms(document.text) for document in documents], show_progress=False)
    return index


def nearest(documents: list[Document], question: str) -> list[Document]:
    """All of `documents`, the most like `question` first (Robertson & Zaragoza 2009, The
    Probabilistic Relevance Framework: BM25 and Beyond).
    """
    if not documents:
        return []
    scores = _index(tuple(documents)).get_scores(terms(question))
    return [documents[at] for at in sorted(range(len(documents)), key=lambda at: -scores[at])]
