"""TODO lveval.planning.passkey."""

import random

from lveval.backends.base import Tokenizer
from lveval.common.errors import UsageError
from lveval.construct import synthetic

PLACES = ("first", "middle", "last")

DEPTHS = (0.02, 0.5, 0.98)  # of the prompt

SENTENCE = " The pass code of the {place} gate is {code}. "

INSTRUCTION = "Read the article below. Three pass codes stand in it.\n\nArticle:\n"

QUESTION = "\n\nQuestion: What are the pass codes of the first, the middle and the last gate?\nAnswer: The three codes are"


def passkey_prompt(tokenizer: Tokenizer, limit: int) -> tuple[str, dict[str, str]]:
    """A prompt of at most `limit` tokens, and nearly as many, and place -> the code that stands there."""
    rng = random.Random(0)  # noqa: S311 - no secret
    codes = {place: str(rng.randint(10_000, 99_999)) for place in PLACES}
    sentences = [SENTENCE.format(place=place, code=code) for place, code in codes.items()]
    around = len(tokenizer.encode(INSTRUCTION + "".join(sentences) + QUESTION)) + 8
    if around >= limit:
        raise UsageError(f"--model-max-len {limit}: too few for a prompt that --check could ask")
    filler = "\n\n".join(
        document.text for document in synthetic.synthetic_articles("en", 0, max(200, limit))
    )
    words = tokenizer.decode(
        tokenizer.encode(filler, add_special_tokens=False)[: limit - around]
    ).split(" ")
    for where, sentence in zip(reversed(DEPTHS), reversed(sentences), strict=True):
        words.insert(int(where * len(words)), sentence.strip())
    return INSTRUCTION + " ".join(words) + QUESTION, codes
