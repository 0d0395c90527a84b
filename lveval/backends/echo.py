"""The echo backend: answers from the prompt itself, for dry runs, tests and measuring the harness.

    python prediction.py --backend echo --data-path DATA --model-name dry --backend-args delay=0.05

The same prompt gives the same answer on any machine: the passage that shares the most words with
the question, cut to the budget, so that post-processing and metrics have text to work on.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence

from lveval.backends.base import (
    Engine,
    EngineOptions,
    Generation,
    Json,
    PlainTokenizer,
    Prompt,
    Status,
    Tokens,
)

# A token is a word, or a Chinese character, with the white space before it; joined they are the
# text again.
TOKEN = re.compile(r"\s*(?:[\u2e80-\u9fff\uff00-\uffef]|[^\s\u2e80-\u9fff\uff00-\uffef]+)|\s+")

SENTENCE = re.compile(r"[^.!?\u3002\uff01\uff1f\n]+[.!?\u3002\uff01\uff1f]?")

WORD = re.compile(r"[\u2e80-\u9fff]|[^\W\u2e80-\u9fff]+")


def seconds(text: str) -> float:
    """Parse seconds from 0 to below an hour; raises ValueError."""
    value = float(text)
    if not 0 <= value < 3600:
        raise ValueError(text)
    return value


def positive(text: str) -> int:
    """Parse a whole number from 1 up; raises ValueError."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


# delay=SECONDS of each answer; at_once=N: compute N rows together.
ENGINE_ARGS: dict[str, Callable[[str], Json]] = {"delay": seconds, "at_once": positive}

OPTIONS = ("plugin", "plugin_args", "think_tags")

RUNTIME_ONLY_ARGS = ("delay", "at_once")


class EchoTokenizer(PlainTokenizer):
    """Words and Chinese characters as tokens; no special tokens, no chat template."""

    def encode(self, text: str, add_special_tokens: bool = True) -> Tokens:
        """Split `text` into words; `decode` gives the text back exactly."""
        words: list[str] = TOKEN.findall(text)
        return words

    def decode(self, tokens: Tokens) -> str:
        """Join `tokens`."""
        return "".join(str(token) for token in tokens)


def best_passage(prompt: str) -> str:
    """Return the first sentence that shares the most distinct words with the question.

    The question is taken to be the line before the answer cue, which is the last line.
    """
    article, _, question = prompt.rstrip().rpartition("\n")[0].rpartition("\n")
    asked = set(WORD.findall(question.lower()))
    sentences = SENTENCE.findall(article)
    if not sentences:
        return prompt.strip()
    best: str = max(
        sentences, key=lambda sentence: len(asked.intersection(WORD.findall(sentence.lower())))
    )
    return best.strip()


class EchoEngine(Engine):
    """Answers after `delay` seconds each, one after another, as a model would."""

    def __init__(self, delay: float) -> None:
        self.tokenizer = EchoTokenizer()
        self._delay = delay

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Generation]]:
        """Yield the passages in order."""
        for position, prompt in enumerate(prompts):
            began = time.monotonic()
            tokens = self.tokenizer.encode(best_passage(prompt.text))
            text = self.tokenizer.decode(tokens[: prompt.max_new_tokens])
            cut = len(tokens) > prompt.max_new_tokens
            time.sleep(max(0.0, self._delay - (time.monotonic() - began)))
            status: Status = "length" if cut else "ok"
            reason = "length" if cut else "stop"
            new_tokens = min(len(tokens), prompt.max_new_tokens)
            yield position, Generation(text, status, reason, new_tokens)


def settings_fingerprint(options: EngineOptions) -> dict[str, Json]:
    """Return the version of the rule above; delay and at_once change no answer."""
    return {"version": 1}


def max_concurrent_rows(options: EngineOptions) -> int:
    """Return at_once: two answers share nothing."""
    return int(str(options.args.get("at_once", 1)))


def tokenizer(options: EngineOptions) -> EchoTokenizer:
    """Return the tokenizer, which has no settings."""
    return EchoTokenizer()


def load(options: EngineOptions) -> EchoEngine:
    """Return the backend with its delay."""
    return EchoEngine(float(str(options.args.get("delay", 0.0))))
