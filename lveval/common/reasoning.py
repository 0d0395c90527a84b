"""Where reasoning begins and ends, by the tags around it: for prompts, answers and their counts.

    reasoning.end("I think</think>1874", tags)    # 15: the answer begins there
    reasoning.is_opened("assistant\\n<think>\\n", tags)

`tags` are (opening, closing) pairs, as THINK_TAGS in utils.py.
"""

from collections.abc import Collection

Tags = Collection[tuple[str, str]]


def end(answer: str, tags: Tags) -> int:
    """Return where the last closing tag ends; 0 where there is none."""
    return max((answer.rfind(tag) + len(tag) for _, tag in tags if tag in answer), default=0)


def opened_by(answer: str, tags: Tags) -> str | None:
    """Return the tag by which an answer begins its reasoning; None where none does."""
    answer = answer.lstrip()
    return next((tag for tag, _ in tags if answer.startswith(tag)), None)


def is_opened(prompt: str, tags: Tags) -> bool:
    """Return whether a formatted prompt ends by opening the reasoning for the model."""
    return prompt.rstrip().endswith(tuple(tag for tag, _ in tags))
