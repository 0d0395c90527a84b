"""Retrieval before the model: the passages of the context that BM25 ranks highest for the question.

    python prediction.py --plugin plugins/bm25.py --plugin-args '{"words": 4000}' …

Works with every backend. Ranking after Robertson & Zaragoza 2009, The Probabilistic Relevance
Framework: BM25 and Beyond, with k1 = 1.2 and b = 0.75; the passages stay in their order.
"""

import math
import re
from collections import Counter
from typing import Any

PASSAGE = 200  # words, or Chinese characters


class BM25:
    """Keep about `words` words (Chinese: characters) of each context."""

    def __init__(self, words: int = 4000) -> None:
        self.words = words

    def identity(self) -> dict[str, object]:
        """What decides the passages."""
        return {"words": self.words, "passage": PASSAGE}

    def context(self, row: dict[str, Any]) -> str:
        """Return the best passages, in the order of the context."""
        text = row["context"]
        tokens = list(re.finditer(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+", text))
        starts = [tokens[at].start() for at in range(0, len(tokens), PASSAGE)] or [0]
        passages = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
        counts = [Counter(_terms(passage)) for passage in passages]
        found_in = Counter(term for each in counts for term in each)
        average = sum(each.total() for each in counts) / len(counts) or 1

        def score(at: int) -> float:
            total, length = 0.0, 1.2 * (0.25 + 0.75 * counts[at].total() / average)
            for term in _terms(row["input"]):
                rare = math.log(1 + (len(counts) - found_in[term] + 0.5) / (found_in[term] + 0.5))
                total += rare * counts[at][term] * 2.2 / (counts[at][term] + length)
            return total

        ranked = sorted(range(len(passages)), key=lambda at: (-score(at), at))
        return "".join(passages[at] for at in sorted(ranked[: max(1, self.words // PASSAGE)]))


def _terms(text: str) -> list[str]:
    return re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+", text.lower())
