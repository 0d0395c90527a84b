"""The passkey prompt of --check: a long text with numbers at its head, middle and tail.

text, codes = passkey_prompt(tokenizer, limit=31500)
"""

import random

from lveval.backends.base import Tokenizer
from lveval.common.errors import UsageError
from lveval.construct import synthetic

PLACES = ("first", "middle", "last")

DEPTHS = (0.02, 0.5, 0.98)  # of the prompt

SENTENCE = "The pass code of the {place} gate is {code}."

INSTRUCTION = "Read the article below. Three pass codes stand in it.\n\nArticle:\n"

QUESTION = (
    "\n\nQuestion: What are the pass codes of the first, the middle and the last gate?\n"
    "Answer: The three codes are"
)


def passkey_prompt(tokenizer: Tokenizer, limit: int) -> tuple[str, dict[str, str]]:
    """Make a prompt of nearly, and at most, `limit` tokens, and place -> the code that is there.

    Raises UsageError where `limit` is too small.
    """
    rng = random.Random(0)  # noqa: S311 - no secret
    codes = {place: str(rng.randint(10_000, 99_999)) for place in PLACES}
    sentences = [SENTENCE.format(place=place, code=code) for place, code in codes.items()]
    around = "".join([INSTRUCTION, *(f" {sentence} " for sentence in sentences), QUESTION])
    room = limit - len(tokenizer.encode(around)) - 8
    if room <= 0:
        raise UsageError(f"--model-max-len {limit}: too few for a prompt that --check could ask")
    articles = synthetic.synthetic_articles("en", 0, max(200, limit))
    filler = tokenizer.encode("\n\n".join(item.text for item in articles), add_special_tokens=False)
    words = tokenizer.decode(filler[:room]).split(" ")
    for depth, sentence in zip(reversed(DEPTHS), reversed(sentences), strict=True):
        words.insert(int(depth * len(words)), sentence)
    return INSTRUCTION + " ".join(words) + QUESTION, codes
