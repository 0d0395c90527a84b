"""The echo backend: answers from the prompt itself, without a model. For dry runs, tests and the harness's own speed.

    python prediction.py --backend echo --data-path DATA --model-name dry-run --backend-args delay=0.05

Deterministic: the same prompt gives the same answer on any machine. Its answer is the passage that shares the most
words with the question, cut to the budget: text that post-processing and metrics have something to do with.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence

from lveval.backends.base import EngineOptions, Generation, Json, Prompt, Tokens
from lveval.backends.base import no_native_chat as native_chat  # noqa: F401
from lveval.backends.base import no_rows_in_flight as claim_rows_in_flight  # noqa: F401
from lveval.backends.base import no_rows_in_flight as rows_in_flight  # noqa: F401
from lveval.backends.base import subset_budget as answer_tokens  # noqa: F401
from lveval.common.errors import UsageError

# A token is a word with the white space before it; a Chinese character is a word. Joined again they are the text.
TOKEN = re.compile(r"\s*(?:[\u2e80-\u9fff\uff00-\uffef]|[^\s\u2e80-\u9fff\uff00-\uffef]+)|\s+")

SENTENCE = re.compile(r"[^.!?\u3002\uff01\uff1f\n]+[.!?\u3002\uff01\uff1f]?")

WORD = re.compile(r"[\u2e80-\u9fff]|[^\W\u2e80-\u9fff]+")


def seconds(text: str) -> float:
    """A non-negative number of seconds; raises ValueError."""
    value = float(text)
    if not 0 <= value < 3600:
        raise ValueError(text)
    return value


def positive(text: str) -> int:
    """A whole number from 1 up; raises ValueError."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


# delay=SECONDS an answer; at_once=N as an engine would that computes N rows together.
ENGINE_ARGS: dict[str, Callable[[str], Json]] = {"delay": seconds, "at_once": positive}

RUNTIME_ONLY_ARGS = ("delay", "at_once")


class EchoTokenizer:
    """Words and Chinese characters as tokens; no special tokens, no chat template."""

    bos = None
    has_chat_template = False

    def encode(self, text: str, add_special_tokens: bool = True) -> Tokens:
        """The words of `text`; `decode` gives the text back exactly."""
        words: list[str] = TOKEN.findall(text)
        return words

    def decode(self, tokens: Tokens) -> str:
        """The text of `tokens`."""
        return "".join(str(token) for token in tokens)

    def apply_chat_template(self, prompt: str) -> str:
        """Never called: `has_chat_template` is false."""
        raise UsageError(
            "the echo backend has no chat template; use --chat-template auto, published or none"
        )

    def build_prompt(self, prompt: str) -> str:
        """ChatGLM2's own format needs its tokenizer."""
        raise UsageError(
            "the echo backend has no build_prompt; use --chat-template none or another --model-name"
        )


def best_passage(prompt: str) -> str:
    """The sentence of `prompt` that shares the most distinct words with its question, the earliest one on a tie.

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


class EchoBackend:
    """Answers after `delay` seconds each, one after another, as a model would."""

    native_chat = False

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
            yield (
                position,
                Generation(
                    text=text,
                    status="length" if cut else "ok",
                    finish_reason="length" if cut else "stop",
                    output_tokens=min(len(tokens), prompt.max_new_tokens),
                ),
            )

    def resolved_settings(self) -> dict[str, Json]:
        """Nothing is decided at loading."""
        return {}


def settings_fingerprint(options: EngineOptions) -> dict[str, Json]:
    """The version of the rule above; delay and at_once change no answer."""
    return {"version": 1}


def max_concurrent_rows(options: EngineOptions) -> int:
    """One row, unless told otherwise: nothing is shared between two answers."""
    return int(str(options.args.get("at_once", 1)))


def tokenizer(options: EngineOptions) -> EchoTokenizer:
    """The only one there is."""
    return EchoTokenizer()


def load(options: EngineOptions) -> EchoBackend:
    """The backend with its delay in seconds (0 by default)."""
    return EchoBackend(float(str(options.args.get("delay", 0.0))))
